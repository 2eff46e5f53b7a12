"""Who watches which grant, and what is on its way to them. No I/O: the watch service reads the queues."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from federation.errors import Reason, Refusal

__all__ = ["MAX_QUEUED", "Event", "EventType", "SubscriptionRegistry", "Watcher"]

MAX_QUEUED: Final = 64
"""Events that may wait for one watcher; one more ends its stream."""


class EventType(StrEnum):
    """What an event says: the name of its field in `WatchResponse`."""

    GRANT_REVOKED = "grant_revoked"
    GRANT_CHANGED = "grant_changed"
    RESOURCE_CHANGED = "resource_changed"


@dataclass(frozen=True, slots=True)
class Event:
    """One event for the watchers of a grant. `text` is the reason of a revocation, or the resource that changed.

    `heard` is called with the instance and the calls it failed, once a watcher acknowledged the event.
    """

    word: EventType
    text: str = ""
    heard: Callable[[str, int], None] | None = field(default=None, compare=False)


class Watcher:
    """One armed stream. Events leave in order; what a later one covers is dropped while it waits."""

    def __init__(self, grant_id: str, instance: str) -> None:
        self.grant_id, self.instance = grant_id, instance
        self.ended: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
        """Done once the stream shall end: with a refusal, or with `None` for no fault of the peer."""
        self._queue: deque[Event] = deque()
        self._wakeup = asyncio.Event()
        self._closed = False
        self._last_id = 0
        self._unacked: dict[int, Event] = {}

    def offer(self, event: Event) -> None:
        """Queue an event. Never waits; a queue that is full ends the stream."""
        if event.word is EventType.RESOURCE_CHANGED:
            if any(one == event or one.word is not EventType.RESOURCE_CHANGED for one in self._queue):
                return
        elif not self._make_room(event):
            return
        if len(self._queue) >= MAX_QUEUED:
            self.end(Refusal(Reason.RATE_LIMITED, "the watch fell behind; arm it again", retry_after_s=1.0))
            return
        self._queue.append(event)
        self._wakeup.set()

    async def next(self) -> Event | None:
        """Wait for the next event and take it; `None` where the stream is closed and nothing waits any more."""
        while not self._queue and not self._closed:
            self._wakeup.clear()
            await self._wakeup.wait()
        return self._queue.popleft() if self._queue else None

    def close(self) -> None:
        """Let nothing come after what waits already: the peer has no more to say, but still reads."""
        self._closed = True
        self._wakeup.set()

    def number(self, event: Event | None = None) -> int:
        """Return the id of what is sent next; an event with `heard` is remembered under it."""
        self._last_id += 1
        if event is not None and event.heard is not None:
            self._unacked[self._last_id] = event
        return self._last_id

    def acked(self, event_id: int, failed_in_flight: int) -> None:
        """Hear an acknowledgement. Raises `Refusal` INVALID_REQUEST for an event that this stream has not sent."""
        if not 1 <= event_id <= self._last_id:
            raise Refusal(Reason.INVALID_REQUEST, "ack.event_id: no event of this stream")
        event = self._unacked.pop(event_id, None)
        if event is None or event.heard is None:
            return
        event.heard(self.instance, failed_in_flight)
        if event.word is EventType.GRANT_REVOKED:
            self.end()

    def end(self, refusal: Refusal | None = None) -> None:
        """Let the stream end. The first word counts."""
        if not self.ended.done():
            self.ended.set_result(refusal)

    def _make_room(self, event: Event) -> bool:
        """Drop what an event of the whole grant covers; false where one that waits covers it."""
        waiting = next((one for one in self._queue if one.word is not EventType.RESOURCE_CHANGED), None)
        if waiting is not None and (waiting.word is EventType.GRANT_REVOKED or event.heard is None):
            return False
        self._queue.clear()
        return True


class SubscriptionRegistry:
    """Every armed stream by grant.

    `left` is called when the last stream of a cache object ended. `awaited` tells whether acknowledgements are awaited
    under a grant: a stream that is armed meanwhile hears at once of what is being taken back.
    """

    def __init__(
        self, left: Callable[[str, str], None], *, awaited: Callable[[str], bool] = lambda _grant_id: False
    ) -> None:
        self._left, self._awaited = left, awaited
        self._watchers: dict[str, list[Watcher]] = {}
        self._taking: dict[str, Event] = {}

    def add(self, grant_id: str, instance: str) -> Watcher:
        """Arm a stream: it gets what is published from now on, and what others have not acknowledged yet."""
        watcher = Watcher(grant_id, instance)
        self._watchers.setdefault(grant_id, []).append(watcher)
        if not self._awaited(grant_id):
            self._taking.pop(grant_id, None)
        elif (event := self._taking.get(grant_id)) is not None:
            watcher.offer(event)
        return watcher

    def remove(self, watcher: Watcher) -> None:
        """Forget a stream that ended. Twice is fine."""
        if watcher not in self._watchers.get(watcher.grant_id, ()):
            return
        others = [one for one in self._watchers.pop(watcher.grant_id) if one is not watcher]
        if others:
            self._watchers[watcher.grant_id] = others
        if all(one.instance != watcher.instance for one in others):
            self._left(watcher.grant_id, watcher.instance)

    def watching(self, grant_id: str) -> frozenset[str]:
        """Return the cache objects that watch a grant."""
        return frozenset(watcher.instance for watcher in self._watchers.get(grant_id, ()))

    def count(self, grant_id: str) -> int:
        """Return the number of armed streams of a grant."""
        return len(self._watchers.get(grant_id, ()))

    @property
    def grants(self) -> tuple[str, ...]:
        """The grants that somebody watches."""
        return tuple(self._watchers)

    def publish(self, grant_id: str, event: Event) -> int:
        """Queue an event for every watcher of a grant, and return how many there are."""
        if event.heard is not None:
            self._taking[grant_id] = event
        watchers = tuple(self._watchers.get(grant_id, ()))
        for watcher in watchers:
            watcher.offer(event)
        return len(watchers)

    def end(self, grant_id: str) -> None:
        """Let every stream of a grant end."""
        self._taking.pop(grant_id, None)
        for watcher in self._watchers.get(grant_id, ()):
            watcher.end()

    def end_all(self) -> None:
        """Let every stream end."""
        for grant_id in self.grants:
            self.end(grant_id)
