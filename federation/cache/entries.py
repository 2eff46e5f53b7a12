"""The parts of a cache partition: buckets of entries, and the buckets of a grant.

A *bucket* holds the entries and the flights of one resource of one grant in one *epoch*. A flush removes whole
buckets, so its cost does not depend on the number of entries. Nothing here locks: the partition does.
"""

from collections.abc import Callable
from enum import Enum
from typing import Final, Generic, NamedTuple, TypeVar

from cachetools import TLRUCache

F = TypeVar("F")
"""A call under way that identical callers share; the cache registers it and never calls it."""

ENTRY_OVERHEAD: Final = 1024
"""Bytes counted for an entry beside its key and body: the size of the objects that hold it."""
_MAX_CLOCK_LAG_S: Final = 0.25
"""Seconds by which wall time may lag behind elapsed time, as a slewed clock does, before it counts as set back."""
_COMPACT_FROM: Final = 64
"""Number of buckets of a grant above which empty ones are removed."""


class Key(NamedTuple):
    """The identity of a call to one peer. `query_hash` is the SHA-256 of the normalised request."""

    grant_id: str
    verb: str
    resource: str
    query_hash: str


class FetchToken(NamedTuple):
    """The epoch and the time on both clocks at which a call was sent; they bound the lifetime of its answer."""

    key: Key
    epoch: int
    elapsed: float
    wall: float


class DeliveryDecision(Enum):
    """Whether an answer that arrived may be delivered."""

    DELIVER = "deliver"
    RETRY = "retry"
    """The scope changed after the call was sent: call once more, within the caller's deadline."""
    REFUSE = "refuse"
    """The grant was revoked or the peer removed after the call was sent: deliver the answer to no caller."""


class InvalidationReason(Enum):
    """The reason for which entries were flushed."""

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
    """The peer answered that the grant or the certificate is not valid."""
    WATCH_REARMED = "watch_rearmed"
    """The watch is armed after a gap, or for the first time: events may have been missed."""


_DECISION_OF: Final = {
    InvalidationReason.GRANT_REVOKED: DeliveryDecision.REFUSE,
    InvalidationReason.GRANT_CHANGED: DeliveryDecision.RETRY,
    InvalidationReason.ROTATION: DeliveryDecision.DELIVER,
    InvalidationReason.PEER_REMOVED: DeliveryDecision.REFUSE,
    InvalidationReason.RESOURCE_CHANGED: DeliveryDecision.DELIVER,
    InvalidationReason.REFUSED: DeliveryDecision.RETRY,
    InvalidationReason.WATCH_REARMED: DeliveryDecision.DELIVER,
}


def decision_of(reason: InvalidationReason) -> DeliveryDecision:
    """Return the decision on an answer whose request was sent before a flush for this reason."""
    return _DECISION_OF[reason]


class Entry(NamedTuple):
    """One cached answer. `elapsed` and `wall` are when its request was sent, `life` its lifetime in seconds."""

    body: bytes
    elapsed: float
    wall: float
    life: float
    filled_by: str
    size: int

    @classmethod
    def of(cls, token: FetchToken, body: bytes, life: float, filled_by: str) -> "Entry":
        """Build the entry of an answer to the call of `token`."""
        size = len(body) + sum(map(len, token.key)) + ENTRY_OVERHEAD
        return cls(body, token.elapsed, token.wall, life, filled_by, size)

    def is_alive(self, elapsed: float, wall: float) -> bool:
        """Tell whether the lifetime lasts on both clocks and the wall clock was not set back."""
        lag_s = (elapsed - self.elapsed) - (wall - self.wall)
        return (
            self.elapsed <= elapsed < self.elapsed + self.life
            and self.wall <= wall < self.wall + self.life
            and lag_s <= _MAX_CLOCK_LAG_S
        )


def _expires(_key: Key, entry: Entry, _now: float) -> float:
    return entry.elapsed + entry.life


def _size(entry: Entry) -> int:
    return entry.size


class CacheBucket(Generic[F]):
    """The entries and flights of one resource of one grant, in one epoch.

    `count` and `bytes` are those of the last `recount`. `now` returns the elapsed time that the current operation has
    read, so the clock is read once an operation.
    """

    __slots__ = ("_all_expired_at", "_capacity", "_entries", "_now", "bytes", "count", "epoch", "flights")

    def __init__(self, epoch: int, capacity: int, now: Callable[[], float]) -> None:
        self.epoch = epoch
        self.flights: dict[Key, F] = {}
        self.count = self.bytes = 0
        self._capacity = capacity
        self._now = now
        self._all_expired_at = 0.0
        self._entries = self._container()

    def find(self, key: Key, elapsed: float, wall: float) -> Entry | None:
        """Return the entry if it is alive. Removes an entry that only the wall clock ended."""
        try:
            entry = self._entries[key]
        except KeyError:
            return None
        if entry.is_alive(elapsed, wall):
            return entry
        del self._entries[key]
        return None

    def insert(self, key: Key, entry: Entry) -> object:
        """Insert an entry. Return the container used before, so that the caller frees it after releasing its lock."""
        old = self._entries
        if self._now() >= self._all_expired_at:  # every entry has expired: drop the container at once
            self._entries, self._all_expired_at = self._container(), 0.0
        self._entries[key] = entry
        self._all_expired_at = max(self._all_expired_at, entry.elapsed + entry.life)
        return old

    def evict(self) -> None:
        """Evict the expired entries, or else the least recently used one."""
        if not self._entries.expire():
            self._entries.popitem()

    def recount(self) -> int:
        """Count the live entries by elapsed time; return the change in bytes since the last recount."""
        before = self.bytes
        self.count = len(self._entries)
        self.bytes = int(self._entries.currsize)
        return self.bytes - before

    def _container(self) -> "TLRUCache[Key, Entry]":
        return TLRUCache(self._capacity, _expires, timer=self._now, getsizeof=_size)


class GrantEntries(Generic[F]):
    """The buckets of one grant by resource, and whether the grant was revoked."""

    __slots__ = ("_compact_at", "_scoped_at", "buckets", "revoked")

    def __init__(self) -> None:
        self.buckets: dict[str, CacheBucket[F]] = {}
        self.revoked = False
        self._scoped_at = 0
        self._compact_at = _COMPACT_FROM

    def bucket_for_insert(self, token: FetchToken) -> CacheBucket[F] | None:
        """Return the bucket for the answer to the call of `token`, or `None` if its epoch is over (the fence)."""
        bucket = None if self.revoked else self.buckets.get(token.key.resource)
        return bucket if bucket is not None and bucket.epoch == token.epoch else None

    def decision(self, token: FetchToken) -> DeliveryDecision:
        """Decide whether the answer to the call of `token` may be delivered."""
        if self.revoked:
            return DeliveryDecision.REFUSE
        return DeliveryDecision.RETRY if token.epoch < self._scoped_at else DeliveryDecision.DELIVER

    def invalidate(self, reason: InvalidationReason, epoch: int, resource: str) -> list[CacheBucket[F]]:
        """Remove and return the buckets that `reason` ends, of one resource or of all; `epoch` is the new epoch."""
        self.revoked = self.revoked or reason is InvalidationReason.GRANT_REVOKED
        if decision_of(reason) is DeliveryDecision.RETRY:
            self._scoped_at = epoch
        if resource:
            bucket = self.buckets.pop(resource, None)
            return [] if bucket is None else [bucket]
        buckets, self.buckets = self.buckets, {}
        return list(buckets.values())

    def needs_compaction(self) -> bool:
        """Tell whether to call `compact` before a bucket is added."""
        return len(self.buckets) >= self._compact_at

    def compact(self) -> None:
        """Remove buckets that the last recount found empty and that hold no flight."""
        self.buckets = {name: bucket for name, bucket in self.buckets.items() if bucket.count or bucket.flights}
        self._compact_at = max(_COMPACT_FROM, 2 * len(self.buckets))
