"""The subscriptions of watchers to grants, with a queue of events for each. No I/O: the watch service sends them."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from federation.errors import Reason, Refusal

MAX_QUEUED: Final = 64
"""Events that may wait for one watcher; one more closes its stream."""


class EventType(StrEnum):
    """The kind of an event: the name of its field in `WatchResponse`."""

    GRANT_REVOKED = "grant_revoked"
    GRANT_CHANGED = "grant_changed"
    RESOURCE_CHANGED = "resource_changed"


@dataclass(frozen=True, slots=True)
class Event:
    """One event for the watchers of a grant. `text` is the reason of a revocation, or the resource that changed.

    `on_ack` is called with the instance and the number of calls that it failed, when a watcher acknowledges the event.
    """

    event_type: EventType
    text: str = ""
    on_ack: Callable[[str, int], None] | None = field(default=None, compare=False)


class Watcher:
    """One armed stream. Events leave in order; a waiting event that a later one covers is dropped."""

    def __init__(self, grant_id: str, instance: str) -> None:
        self.grant_id, self.instance = grant_id, instance
        self.ended: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
        """Done when the stream is to end: with the refusal to answer, or with `None` if the peer made no fault."""
        self.last_message_at = 0.0
        """When the last message of the peer arrived, in seconds of the monotonic clock; set by the watch service."""
        self._queue: deque[Event] = deque()
        self._wakeup = asyncio.Event()
        self._closed = False
        self._last_id = 0
        self._unacked: dict[int, Event] = {}

    def offer(self, event: Event) -> None:
        """Queue an event without waiting; a full queue closes the stream."""
        if event.event_type is EventType.RESOURCE_CHANGED:
            if any(one == event or one.event_type is not EventType.RESOURCE_CHANGED for one in self._queue):
                return
        elif not self._coalesce(event):
            return
        if len(self._queue) >= MAX_QUEUED:
            self.close(too_slow())
            return
        self._queue.append(event)
        self._wakeup.set()

    async def next(self) -> Event | None:
        """Wait for the next event and remove it from the queue; return `None` when the stream is drained."""
        while not self._queue and not self._closed:
            self._wakeup.clear()
            await self._wakeup.wait()
        return self._queue.popleft() if self._queue else None

    def drain(self) -> None:
        """Let `next` return `None` after the queued events: the peer has half-closed the stream, but still reads."""
        self._closed = True
        self._wakeup.set()

    def next_event_id(self, event: Event | None = None) -> int:
        """Return the id of the next message; an event with `on_ack` is stored under it until it is acknowledged."""
        self._last_id += 1
        if event is not None and event.on_ack is not None:
            self._unacked[self._last_id] = event
        return self._last_id

    def ack(self, event_id: int, failed_in_flight: int) -> None:
        """Process an acknowledgement of the watcher.

        Raises `Refusal` INVALID_REQUEST for an event that this stream has not sent.
        """
        if not 1 <= event_id <= self._last_id:
            raise Refusal(Reason.INVALID_REQUEST, "ack.event_id: no event of this stream")
        event = self._unacked.pop(event_id, None)
        if event is None or event.on_ack is None:
            return
        event.on_ack(self.instance, failed_in_flight)
        if event.event_type is EventType.GRANT_REVOKED:
            self.close()

    def close(self, refusal: Refusal | None = None) -> None:
        """Close the stream. Only the first call has an effect."""
        if not self.ended.done():
            self.ended.set_result(refusal)

    def _coalesce(self, event: Event) -> bool:
        """Drop the queued events that an event of the whole grant covers; return false if a queued event covers it."""
        waiting = next((one for one in self._queue if one.event_type is not EventType.RESOURCE_CHANGED), None)
        if waiting is not None and (waiting.event_type is EventType.GRANT_REVOKED or event.on_ack is None):
            return False
        self._queue.clear()
        return True


def too_slow() -> Refusal:
    """Build the refusal of a watcher that does not read its events in time."""
    return Refusal(Reason.RATE_LIMITED, "the watcher reads its events too slowly; open a new watch", retry_after_s=1.0)


class SubscriptionRegistry:
    """Every armed stream by grant.

    `on_disconnect` is called when the last stream of a cache object ended. `is_pending` tells whether a grant's
    revocation waits for acknowledgements: a stream that is armed meanwhile gets its event at once.
    """

    def __init__(
        self, on_disconnect: Callable[[str, str], None], *, is_pending: Callable[[str], bool] = lambda _grant_id: False
    ) -> None:
        self._on_disconnect, self._is_pending = on_disconnect, is_pending
        self._watchers: dict[str, list[Watcher]] = {}
        self._pending_events: dict[str, Event] = {}

    def add(self, grant_id: str, instance: str) -> Watcher:
        """Arm a stream: it gets the events published from now on, and the event of a pending revocation."""
        watcher = Watcher(grant_id, instance)
        self._watchers.setdefault(grant_id, []).append(watcher)
        if not self._is_pending(grant_id):
            self._pending_events.pop(grant_id, None)
        elif (event := self._pending_events.get(grant_id)) is not None:
            watcher.offer(event)
        return watcher

    def remove(self, watcher: Watcher) -> None:
        """Remove a stream that ended; idempotent."""
        if watcher not in self._watchers.get(watcher.grant_id, ()):
            return
        others = [one for one in self._watchers.pop(watcher.grant_id) if one is not watcher]
        if others:
            self._watchers[watcher.grant_id] = others
        if all(one.instance != watcher.instance for one in others):
            self._on_disconnect(watcher.grant_id, watcher.instance)

    def watching(self, grant_id: str) -> frozenset[str]:
        """Return the instances of the cache objects that watch a grant."""
        return frozenset(watcher.instance for watcher in self._watchers.get(grant_id, ()))

    def count(self, grant_id: str) -> int:
        """Return the number of armed streams of a grant."""
        return len(self._watchers.get(grant_id, ()))

    @property
    def grants(self) -> tuple[str, ...]:
        """The ids of the grants with armed streams."""
        return tuple(self._watchers)

    def publish(self, grant_id: str, event: Event) -> None:
        """Queue an event for every watcher of a grant."""
        if event.on_ack is not None:
            self._pending_events[grant_id] = event
        for watcher in tuple(self._watchers.get(grant_id, ())):
            watcher.offer(event)

    def close(self, grant_id: str) -> None:
        """Close every stream of a grant."""
        self._pending_events.pop(grant_id, None)
        for watcher in self._watchers.get(grant_id, ()):
            watcher.close()

    def close_all(self) -> None:
        """Close every stream."""
        for grant_id in self.grants:
            self.close(grant_id)
