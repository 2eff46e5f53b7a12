"""The response cache of one gateway: what may be kept, for how long, for whom, and when it must go.

Pure policy: no I/O, clocks injected, generic over the calls under way that it registers (`F`).

- Each peer has a `Partition`; nothing crosses from one to another, whatever grant ids the peers chose.
- A flush begins a new *epoch*. Whoever asked under an older one may not insert any more (the fence), and learns from
  `verdict` what to do with the answer.
- An answer lives from the moment its request was *sent*, for the shorter of our own limit and the peer's lease. A
  hit never changes that.
- Locks: one a partition, and one of the whole beneath it, which is never held while another is taken. Neither is
  held across I/O, a driver's work, or the release of many entries.
"""

import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar
from weakref import WeakSet

from federation.cache.entries import (
    ENTRY_OVERHEAD,
    CacheBucket,
    DeliveryDecision,
    Entry,
    FetchToken,
    GrantEntries,
    InvalidationReason,
    Key,
    verdict_of,
)
from federation.clock import SYSTEM_CLOCK, Clock

__all__ = [
    "ENTRY_OVERHEAD",
    "MAX_DETACHED",
    "DeliveryDecision",
    "FetchToken",
    "Flushed",
    "Hit",
    "InvalidationReason",
    "Key",
    "Miss",
    "Partition",
    "ResponseCache",
    "Stats",
]

F = TypeVar("F")

MAX_DETACHED: Final = 8
"""Flights a peer that may run on after nobody waits for them any more."""


class Hit(NamedTuple):
    """A kept answer. `age_s` counts from the sending of its request; `filled_by` is the filler's `traceparent`."""

    body: bytes
    age_s: float
    filled_by: str


class Miss(NamedTuple, Generic[F]):
    """No answer is kept. `flight` is the one call that will fetch it; `leads` tells who started it."""

    ticket: FetchToken
    flight: F
    leads: bool


Found: TypeAlias = Hit | Miss[F]


class Flushed(NamedTuple, Generic[F]):
    """What a flush did, and what its caller must do now: fail each flight in `cut`.

    `entries` and `bytes` were dropped. They are freed with this object (`remains`), so whoever waits for the flush
    is best told before it goes.
    """

    cause: InvalidationReason
    cut: tuple[F, ...] = ()
    entries: int = 0
    bytes: int = 0
    remains: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of one partition, or of all. Bytes count keys, bodies and overhead; the counters only rise."""

    entries: int = 0
    bytes: int = 0
    hits: int = 0
    misses: int = 0
    flushes: int = 0
    flights: int = 0
    detached: int = 0

    def __add__(self, other: "Stats") -> "Stats":
        return Stats(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


class Partition(Generic[F]):
    """The part of the cache that belongs to one peer. Made by `ResponseCache.partition`; safe in any thread."""

    def __init__(self, cache: "ResponseCache[F]") -> None:
        self._cache = cache
        self._lock = Lock()
        self._epoch = 1
        self._grants: dict[str, GrantEntries[F]] = {}
        self._detached: set[F] = set()
        self._removed = False
        self._suspended = False
        self._elapsed = 0.0
        self.bytes = 0
        """Bytes that the partition holds, by the last count of each of its shelves."""
        self._hits = self._misses = 0
        self._flushes: dict[InvalidationReason, int] = {}

    def look(self, key: Key, join: Callable[[F], bool], launch: Callable[[FetchToken], F]) -> Found[F]:
        """Return the kept answer, or the flight that fetches it.

        A flight under way is taken if `join` accepts it; otherwise `launch` makes the flight of this caller. Both
        are called under the lock, so that no flight ends between being found and being joined: they must be quick
        and must not call the cache.
        """
        with self._lock:
            elapsed, wall = self._read()
            shelf = self._shelf(key)
            entry = shelf.find(key, elapsed, wall)
            if entry is None:
                self._misses += 1
                ticket = FetchToken(key, shelf.epoch, elapsed, wall)
                flight = shelf.flights.get(key)
                if flight is not None and join(flight):
                    return Miss(ticket, flight, False)
                flight = shelf.flights[key] = launch(ticket)
                return Miss(ticket, flight, True)
            self._hits += 1
        return Hit(entry.body, elapsed - entry.elapsed, entry.filled_by)

    def peek(self, key: Key) -> Hit | None:
        """Return the kept answer, or `None`: no flight is started or joined, and no miss is counted."""
        with self._lock:
            grant = self._grants.get(key.grant_id)
            shelf = grant.shelves.get(key.resource) if grant else None
            if shelf is None:
                return None
            elapsed, wall = self._read()
            entry = shelf.find(key, elapsed, wall)
            if entry is None:
                return None
            self._hits += 1
        return Hit(entry.body, elapsed - entry.elapsed, entry.filled_by)

    def ticket(self, key: Key) -> FetchToken:
        """Return a ticket for a call that is neither kept nor shared, to ask for the `verdict` at its end."""
        with self._lock:
            return FetchToken(key, self._epoch, *self._read())

    def insert(self, ticket: FetchToken, body: bytes, lease_s: float, filled_by: str = "") -> bool:
        """Keep the answer to the call of `ticket`, unless the epoch moved since; tell whether it was kept.

        It lives for the shorter of the cache's limit and the peer's lease, from when its request was sent.
        """
        entry = Entry.of(ticket, body, min(lease_s, self._cache.ttl_s), filled_by)
        with self._lock:
            shelf = self._fenced(ticket)
            if shelf is None or entry.size > self._cache.max_bytes or not entry.is_alive(*self._read()):
                return False
            remains = shelf.keep(ticket.key, entry)
            self._tally(shelf)
        del remains
        self._cache.evict_to_limit()
        return True

    def forget(self, ticket: FetchToken, flight: F) -> None:
        """Take a flight that ended, or that nobody waits for, out of the register: the next caller asks anew."""
        with self._lock:
            self._detached.discard(flight)
            grant = self._grants.get(ticket.key.grant_id)
            shelf = grant.shelves.get(ticket.key.resource) if grant else None
            if shelf is not None and shelf.flights.get(ticket.key) is flight:
                del shelf.flights[ticket.key]

    def detach(self, flight: F) -> bool:
        """Let a flight run on though its last waiter's budget is used up; `False` where too many do, or it does."""
        with self._lock:
            if self._removed or flight in self._detached or len(self._detached) >= MAX_DETACHED:
                return False
            self._detached.add(flight)
            return True

    def verdict(self, ticket: FetchToken) -> DeliveryDecision:
        """Say what to do with an answer, at the moment it would be handed to a caller."""
        with self._lock:
            if self._removed:
                return DeliveryDecision.REFUSE
            grant = self._grants.get(ticket.key.grant_id)
            return DeliveryDecision.DELIVER if grant is None else grant.verdict(ticket)

    def flush(self, cause: InvalidationReason, grant_id: str = "", resource: str = "") -> Flushed[F]:
        """Move the epoch and drop what was kept under the old one: of a grant, or of the whole peer without one.

        `resource` belongs to `RESOURCE_CHANGED` and narrows the flush to that resource. Flights are forgotten by
        every flush and go on for those who wait; those whose answer nobody may see are returned to be cut.
        """
        if (cause is InvalidationReason.RESOURCE_CHANGED) != bool(resource):
            raise ValueError("a resource is named if and only if a resource changed")
        taken: list[CacheBucket[F]] = []
        with self._lock:
            self._epoch += 1
            self._flushes[cause] = self._flushes.get(cause, 0) + 1
            self._removed = self._removed or cause is InvalidationReason.PEER_REMOVED
            for grant in self._concerned(grant_id):
                taken += grant.take(cause, self._epoch, resource)
            self._adjust_bytes(-sum(shelf.bytes for shelf in taken))
        doomed = verdict_of(cause) is DeliveryDecision.REFUSE
        cut = tuple(flight for shelf in taken for flight in shelf.flights.values()) if doomed else ()
        return Flushed(cause, cut, sum(s.count for s in taken), sum(s.bytes for s in taken), tuple(taken))

    def suspend(self) -> None:
        """Keep nothing from here on until `resume`. What is kept stays: flush after this call, not before it."""
        with self._lock:
            self._suspended = True

    def resume(self) -> None:
        """Keep answers again."""
        with self._lock:
            self._suspended = False

    def stats(self) -> Stats:
        """Return the figures of now."""
        with self._lock:
            self._read()
            shelves = list(self._shelves())
            for shelf in shelves:
                self._tally(shelf)
            return Stats(
                entries=sum(shelf.count for shelf in shelves),
                bytes=self.bytes,
                hits=self._hits,
                misses=self._misses,
                flushes=sum(self._flushes.values()),
                flights=sum(len(shelf.flights) for shelf in shelves),
                detached=len(self._detached),
            )

    def flushes(self) -> dict[InvalidationReason, int]:
        """Return how often entries were flushed so far, by cause."""
        with self._lock:
            return self._flushes.copy()

    def evict(self) -> bool:
        """Give up something of the largest shelf, dead or least recently used; `False` if there is nothing."""
        with self._lock:
            self._read()
            shelf = max(self._shelves(), key=lambda shelf: shelf.bytes, default=None)
            if shelf is None or not shelf.bytes:
                return False
            shelf.evict()
            self._tally(shelf)
            return True

    def restart(self) -> None:
        """Begin anew in a forked child: what the parent holds is not the child's to serve or to flush."""
        self._lock = Lock()
        self._epoch += 1
        self._detached = set()
        for grant in self._grants.values():
            grant.shelves = {}
        self.bytes = 0

    def _read(self) -> tuple[float, float]:
        clock = self._cache.clock
        self._elapsed = elapsed = clock.elapsed()
        return elapsed, clock.wall()

    def _shelves(self) -> Iterator[CacheBucket[F]]:
        return (shelf for grant in self._grants.values() for shelf in grant.shelves.values())

    def _shelf(self, key: Key) -> CacheBucket[F]:
        grant = self._grants.get(key.grant_id)
        if grant is None:
            grant = self._grants[key.grant_id] = GrantEntries()
        shelf = grant.shelves.get(key.resource)
        if shelf is None:
            if grant.needs_compaction():
                for each in grant.shelves.values():
                    self._tally(each)
                grant.compact()
            shelf = CacheBucket(self._epoch, self._cache.max_bytes, lambda: self._elapsed)
            grant.shelves[key.resource] = shelf
        return shelf

    def _fenced(self, ticket: FetchToken) -> CacheBucket[F] | None:
        grant = self._grants.get(ticket.key.grant_id)
        return None if grant is None or self._removed or self._suspended else grant.bucket_for_insert(ticket)

    def _concerned(self, grant_id: str) -> Iterable[GrantEntries[F]]:
        return (self._grants.setdefault(grant_id, GrantEntries()),) if grant_id else self._grants.values()

    def _tally(self, shelf: CacheBucket[F]) -> None:
        change = shelf.tally()
        if change:
            self._adjust_bytes(change)

    def _adjust_bytes(self, change: int) -> None:
        self.bytes += change
        self._cache.note(change)


class ResponseCache(Generic[F]):
    """The answers of all peers, within one bound of bytes.

    Fair share: while there is room, a peer may fill it all. Beyond the bound, whichever peer holds most gives up its
    least recently used entries, so a peer that holds no more than `max_bytes` / (peers that hold anything) loses
    nothing to the others.

    `instance_id` names this one cache object to the peers, which note by it whom they gave a lease. A forked child
    has an empty cache with an id of its own.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK, *, ttl_s: float = 30.0, max_bytes: int = 64 * 1024 * 1024) -> None:
        self.clock = clock
        self.ttl_s = ttl_s
        self.max_bytes = max_bytes
        self.instance_id = secrets.token_hex(16)
        self._lock = Lock()
        self._partitions: dict[str, Partition[F]] = {}
        self._total = 0
        _CACHES.add(self)

    def partition(self, peer_id: str) -> Partition[F]:
        """Return the partition of a peer, made at the first asking."""
        with self._lock:
            partition = self._partitions.get(peer_id)
            if partition is None:
                partition = self._partitions[peer_id] = Partition(self)
            return partition

    def remove(self, peer_id: str) -> Flushed[F]:
        """Flush a peer for good. Answers that still arrive for it are refused; its id may be used again."""
        partition = self._partitions.get(peer_id)
        if partition is None:
            return Flushed(InvalidationReason.PEER_REMOVED)
        flushed = partition.flush(
            InvalidationReason.PEER_REMOVED
        )  # before it leaves the total: others are not evicted for its bytes
        with self._lock:
            self._partitions.pop(peer_id, None)
        return flushed

    def stats(self) -> Stats:
        """Return the sum over all peers."""
        with self._lock:
            partitions = list(self._partitions.values())
        return sum((partition.stats() for partition in partitions), Stats())

    def note(self, change: int) -> None:
        """Add to the total how many bytes more, or less, a partition holds."""
        with self._lock:
            self._total += change

    def evict_to_limit(self) -> None:
        """Evict until the bound holds."""
        while (victim := self._largest_partition()) is not None and victim.evict():
            pass

    def restart(self) -> None:
        """Become a cache of its own, empty, in a forked child."""
        self._lock = Lock()
        self.instance_id = secrets.token_hex(16)
        self._total = 0
        for partition in self._partitions.values():
            partition.restart()

    def _largest_partition(self) -> Partition[F] | None:
        with self._lock:
            if self._total <= self.max_bytes:
                return None
            return max(self._partitions.values(), key=lambda partition: partition.bytes, default=None)


_CACHES: Final["WeakSet[ResponseCache[Any]]"] = WeakSet()
"""Every cache of this process: a fork copies them all, and a copy must not pass for the original."""


def _restart_all() -> None:
    for cache in list(_CACHES):
        cache.restart()


os.register_at_fork(after_in_child=_restart_all)
