"""What a peer's events do here, in the order that makes an acknowledgement true.

No I/O: the stream brings the event, and carries the acknowledgement back.
"""

from collections.abc import Callable
from typing import Final

from federation.cache.response_cache import InvalidationReason, Partition
from federation.client.chain.flow import Flight
from federation.client.interceptors.caching import cut
from federation.client.watch.policy import EventRate
from federation.v1 import federation_pb2 as pb

__all__ = ["KINDS", "EventHandler"]

KINDS: Final = frozenset({"armed", "grant_revoked", "grant_changed", "resource_changed", "heartbeat"})
"""What a peer may say. Anything else is of a later version, and is passed over."""


class EventHandler:
    """The events of one peer's grant.

    `revoke` gets the peer's words: from its return on, calls that begin are refused. `fail` fails the calls under way
    and returns how many there were; those that block a thread it dooms to be refused when their answer arrives.
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

    def rearmed(self) -> None:
        """Drop what was kept: whatever happened in the gap was not told."""
        cut(self._partition.flush(InvalidationReason.WATCH_REARMED))

    def take(self, event: pb.WatchResponse, now: float) -> pb.WatchAck | None:
        """Act on an event that came at a monotonic instant; return how to acknowledge it, where that is awaited.

        When this returns, nothing that the event took back can be looked up or delivered any more.
        """
        self._bound(now)
        match event.WhichOneof("kind"):
            case "grant_revoked":
                return pb.WatchAck(event_id=event.event_id, failed_in_flight=self._revoked(event.grant_revoked.reason))
            case "grant_changed":
                cut(self._partition.flush(InvalidationReason.GRANT_CHANGED, self._grant_id))
                return pb.WatchAck(event_id=event.event_id)
            case "resource_changed":
                self._changed(event.resource_changed.resource)
        return None

    def lost(self) -> None:
        """Let a flood be over: its stream has ended. What is kept stays, for as long as it lives."""
        self._rate.reset()
        self._partition.resume()

    def _revoked(self, reason: str) -> int:
        self._revoke(reason)
        flushed = self._partition.flush(InvalidationReason.GRANT_REVOKED, self._grant_id)
        failed = self._fail()
        cut(flushed)
        return failed

    def _changed(self, resource: str) -> None:
        if resource:
            cut(self._partition.flush(InvalidationReason.RESOURCE_CHANGED, self._grant_id, resource))
        else:
            self.rearmed()

    def _bound(self, now: float) -> None:
        before = self._rate.flooded
        if self._rate.note(now) == before:
            return
        if before:
            self._partition.resume()
        else:
            self._partition.suspend()
            self.rearmed()
