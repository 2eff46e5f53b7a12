"""The effects of a peer's events, in the order that makes an acknowledgement true.

No I/O: the stream delivers the event, and sends the acknowledgement.
"""

from collections.abc import Callable
from typing import Final

from federation.cache.entries import InvalidationReason
from federation.cache.response_cache import Partition
from federation.client.chain.flow import Flight
from federation.client.interceptors.caching import fail_in_flight
from federation.client.watch.policy import EventRate
from federation.v1 import federation_pb2 as pb

EVENT_KINDS: Final = frozenset({"armed", "grant_revoked", "grant_changed", "resource_changed", "heartbeat"})
"""The known kinds of events. Any other kind belongs to a later version, and is ignored."""


class EventHandler:
    """Handles the events of one peer's grant.

    `revoke` receives the peer's reason; once it returns, new calls are refused. `fail` fails the calls in flight and
    returns their number; it marks those that block a thread, whose answers are refused on arrival.
    """

    def __init__(
        self,
        grant_id: str,
        partition: Partition[Flight],
        *,
        revoke: Callable[[str], None],
        fail: Callable[[], int],
        rate: EventRate,
    ) -> None:
        self._grant_id, self._partition = grant_id, partition
        self._revoke, self._fail, self._rate = revoke, fail, rate

    def on_rearmed(self) -> None:
        """Flush the grant's entries: events in the gap were missed."""
        fail_in_flight(self._partition.flush(InvalidationReason.WATCH_REARMED))

    def handle(self, event: pb.WatchResponse, now: float) -> pb.WatchAck | None:
        """Handle an event that arrived at a monotonic instant; return its acknowledgement, if the peer awaits one.

        Once this returns, nothing that the event revoked can be looked up or delivered.
        """
        self._limit_rate(now)
        match event.WhichOneof("kind"):
            case "grant_revoked":
                return pb.WatchAck(event_id=event.event_id, failed_in_flight=self._revoked(event.grant_revoked.reason))
            case "grant_changed":
                fail_in_flight(self._partition.flush(InvalidationReason.GRANT_CHANGED, self._grant_id))
                return pb.WatchAck(event_id=event.event_id)
            case "resource_changed":
                self._changed(event.resource_changed.resource)
        return None

    def on_lost(self) -> None:
        """End a flood of events with its stream. Cached entries stay until they expire."""
        self._rate.reset()
        self._partition.resume()

    def _revoked(self, reason: str) -> int:
        self._revoke(reason)
        flushed = self._partition.flush(InvalidationReason.GRANT_REVOKED, self._grant_id)
        failed = self._fail()
        fail_in_flight(flushed)
        return failed

    def _changed(self, resource: str) -> None:
        if resource:
            fail_in_flight(self._partition.flush(InvalidationReason.RESOURCE_CHANGED, self._grant_id, resource))
        else:
            self.on_rearmed()

    def _limit_rate(self, now: float) -> None:
        before = self._rate.flooded
        if self._rate.record(now) == before:
            return
        if before:
            self._partition.resume()
        else:
            self._partition.suspend()
            self.on_rearmed()
