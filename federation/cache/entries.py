"""What a partition of the response cache consists of: entries on shelves, and the shelves of a grant.

A *shelf* holds the entries and the flights of one resource of one grant in one *epoch*. A flush takes shelves away
whole, so it costs the same for ten entries and for a million. Nothing here locks: the partition does.
"""

from collections.abc import Callable
from enum import Enum
from typing import Final, Generic, NamedTuple, TypeVar

from cachetools import TLRUCache

__all__ = [
    "ENTRY_OVERHEAD",
    "CacheBucket",
    "DeliveryDecision",
    "Entry",
    "FetchToken",
    "GrantEntries",
    "InvalidationReason",
    "Key",
    "verdict_of",
]

F = TypeVar("F")
"""A call under way, shared by whoever asks the same; the cache registers it and never calls it."""

ENTRY_OVERHEAD: Final = 1024
"""Bytes that an entry counts beside its key and body: what the objects that hold it take."""
_STEP_BACK_S: Final = 0.25
"""Seconds by which wall time may fall behind elapsed time, as a clock being slewed does, before it ran backwards."""
_SHELVES: Final = 64
"""Shelves of a grant above which empty ones are looked for."""


class Key(NamedTuple):
    """What makes two calls to one peer the same. `query_hash` is the SHA-256 of the normalised request."""

    grant_id: str
    verb: str
    resource: str
    query_hash: str


class FetchToken(NamedTuple):
    """Taken before a call is sent: under which epoch, and when, on both clocks that bound its answer's life."""

    key: Key
    epoch: int
    elapsed: float
    wall: float


class DeliveryDecision(Enum):
    """What to do with an answer that arrived."""

    DELIVER = "deliver"
    ASK_AGAIN = "ask_again"
    """It was given under another scope: ask once more, within the caller's deadline."""
    REFUSE = "refuse"
    """The grant was revoked or the peer removed meanwhile: nobody may see it."""


class InvalidationReason(Enum):
    """Why entries were flushed."""

    GRANT_REVOKED = "grant_revoked"
    """The peer revoked the grant. Final."""
    GRANT_CHANGED = "grant_changed"
    """The grant's scope, or the subject's teams, changed."""
    ROTATION = "rotation"
    """The client certificate was replaced."""
    PEER_REMOVED = "peer_removed"
    """The peer was removed from this gateway. Final."""
    RESOURCE_CHANGED = "resource_changed"
    """Rows of one resource changed at the peer."""
    REFUSED = "refused"
    """The peer answered that grant or certificate are not valid."""
    WATCH_REARMED = "watch_rearmed"
    """The watch stands again after a gap, or for the first time: events may have been missed."""


_VERDICT_OF: Final = {
    InvalidationReason.GRANT_REVOKED: DeliveryDecision.REFUSE,
    InvalidationReason.GRANT_CHANGED: DeliveryDecision.ASK_AGAIN,
    InvalidationReason.ROTATION: DeliveryDecision.DELIVER,
    InvalidationReason.PEER_REMOVED: DeliveryDecision.REFUSE,
    InvalidationReason.RESOURCE_CHANGED: DeliveryDecision.DELIVER,
    InvalidationReason.REFUSED: DeliveryDecision.ASK_AGAIN,
    InvalidationReason.WATCH_REARMED: DeliveryDecision.DELIVER,
}


def verdict_of(cause: InvalidationReason) -> DeliveryDecision:
    """Return the verdict on an answer whose request was sent before a flush for this cause."""
    return _VERDICT_OF[cause]


class Entry(NamedTuple):
    """One kept answer. `elapsed` and `wall` tell when its request was sent, `life` how many seconds it lives."""

    body: bytes
    elapsed: float
    wall: float
    life: float
    filled_by: str
    size: int

    @classmethod
    def of(cls, ticket: FetchToken, body: bytes, life: float, filled_by: str) -> "Entry":
        """Return the entry of an answer to the call of `ticket`."""
        size = len(body) + sum(map(len, ticket.key)) + ENTRY_OVERHEAD
        return cls(body, ticket.elapsed, ticket.wall, life, filled_by, size)

    def is_alive(self, elapsed: float, wall: float) -> bool:
        """Tell whether both clocks say that the life is not over, and wall time did not run backwards."""
        fallen_behind = (elapsed - self.elapsed) - (wall - self.wall)
        return (
            self.elapsed <= elapsed < self.elapsed + self.life
            and self.wall <= wall < self.wall + self.life
            and fallen_behind <= _STEP_BACK_S
        )


def _expires(_key: Key, entry: Entry, _now: float) -> float:
    return entry.elapsed + entry.life


def _size(entry: Entry) -> int:
    return entry.size


class CacheBucket(Generic[F]):
    """Entries and flights of one resource of one grant, in one epoch.

    `count` and `bytes` are those of the last `tally`. `now` returns the elapsed time that the operation under way
    has read: the clock is asked once, not again by each container.
    """

    __slots__ = ("_capacity", "_dead_at", "_entries", "_now", "bytes", "count", "epoch", "flights")

    def __init__(self, epoch: int, capacity: int, now: Callable[[], float]) -> None:
        self.epoch = epoch
        self.flights: dict[Key, F] = {}
        self.count = self.bytes = 0
        self._capacity = capacity
        self._now = now
        self._dead_at = 0.0
        self._entries = self._container()

    def find(self, key: Key, elapsed: float, wall: float) -> Entry | None:
        """Return the entry if it is alive; one that only the wall clock ended leaves at once."""
        try:
            entry = self._entries[key]
        except KeyError:
            return None
        if entry.is_alive(elapsed, wall):
            return entry
        del self._entries[key]
        return None

    def keep(self, key: Key, entry: Entry) -> object:
        """Take an entry in. Return what the caller must let go of after its lock."""
        old = self._entries
        if self._now() >= self._dead_at:  # all of it is dead: dropped, not expired one by one
            self._entries, self._dead_at = self._container(), 0.0
        self._entries[key] = entry
        self._dead_at = max(self._dead_at, entry.elapsed + entry.life)
        return old

    def evict(self) -> None:
        """Drop what expired, or else the least recently used entry."""
        if not self._entries.expire():
            self._entries.popitem()

    def tally(self) -> int:
        """Count what is alive by elapsed time; return by how many bytes that differs from the last tally."""
        before = self.bytes
        self.count = len(self._entries)
        self.bytes = int(self._entries.currsize)
        return self.bytes - before

    def _container(self) -> "TLRUCache[Key, Entry]":
        return TLRUCache(self._capacity, _expires, timer=self._now, getsizeof=_size)


class GrantEntries(Generic[F]):
    """The shelves of one grant, by resource, and what became of the grant."""

    __slots__ = ("_roomy", "_scoped_at", "revoked", "shelves")

    def __init__(self) -> None:
        self.shelves: dict[str, CacheBucket[F]] = {}
        self.revoked = False
        self._scoped_at = 0
        self._roomy = _SHELVES

    def bucket_for_insert(self, ticket: FetchToken) -> CacheBucket[F] | None:
        """Return the shelf on which the answer to the call of `ticket` may be put, if there still is one."""
        shelf = None if self.revoked else self.shelves.get(ticket.key.resource)
        return shelf if shelf is not None and shelf.epoch == ticket.epoch else None

    def verdict(self, ticket: FetchToken) -> DeliveryDecision:
        """Say what to do with the answer to the call of `ticket`."""
        if self.revoked:
            return DeliveryDecision.REFUSE
        return DeliveryDecision.ASK_AGAIN if ticket.epoch < self._scoped_at else DeliveryDecision.DELIVER

    def take(self, cause: InvalidationReason, epoch: int, resource: str) -> list[CacheBucket[F]]:
        """Give away the shelves that `cause` ends, of one resource or of all; `epoch` is the one that begins."""
        self.revoked = self.revoked or cause is InvalidationReason.GRANT_REVOKED
        if verdict_of(cause) is DeliveryDecision.ASK_AGAIN:
            self._scoped_at = epoch
        if resource:
            shelf = self.shelves.pop(resource, None)
            return [] if shelf is None else [shelf]
        shelves, self.shelves = self.shelves, {}
        return list(shelves.values())

    def needs_compaction(self) -> bool:
        """Tell whether it is time to `tidy`, before a shelf is added."""
        return len(self.shelves) >= self._roomy

    def compact(self) -> None:
        """Drop shelves that a tally found empty and no flight needs."""
        self.shelves = {name: shelf for name, shelf in self.shelves.items() if shelf.count or shelf.flights}
        self._roomy = max(_SHELVES, 2 * len(self.shelves))
