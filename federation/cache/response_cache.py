"""The response cache of one gateway: policy of lifetimes, partitions, epochs and eviction.

Pure policy: no I/O, clocks injected, generic over the calls under way that it registers (`F`).

- Each peer has a `Partition`; no entry crosses partitions, whatever grant ids the peers chose.
- A flush begins a new *epoch*. A call sent in an older epoch cannot insert its answer (the fence); `decision` tells
  its caller whether the answer may be delivered.
- An answer lives from the moment its request was *sent*, for the shorter of this gateway's TTL and the peer's lease.
  A hit does not extend it.
- Locks: one a partition, and below it one of the whole cache; no lock is taken while the latter is held. Neither is
  held across I/O, a driver's work, or the release of many entries.
"""

import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from threading import Lock
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar
from weakref import WeakSet

from federation.cache.entries import (
    CacheBucket,
    DeliveryDecision,
    Entry,
    FetchToken,
    GrantEntries,
    InvalidationReason,
    Key,
    decision_of,
)
from federation.clock import SYSTEM_CLOCK, Clock

F = TypeVar("F")

MAX_DETACHED: Final = 8
"""Flights a peer that may run on without waiters."""


class Hit(NamedTuple):
    """A cached answer. `age_s` counts from the sending of its request; `filled_by` is that call's `traceparent`."""

    body: bytes
    age_s: float
    filled_by: str


class Miss(NamedTuple, Generic[F]):
    """No cached answer. `flight` is the one call that fetches it; `leads` is true for the caller that started it."""

    token: FetchToken
    flight: F
    leads: bool


LookupResult: TypeAlias = Hit | Miss[F]


class Flushed(NamedTuple, Generic[F]):
    """The result of a flush; its caller must fail each flight in `to_fail` at once.

    `evicted` holds the removed objects until this object is freed, which takes time: report the flush before that.
    """

    to_fail: tuple[F, ...] = ()
    evicted: tuple[object, ...] = ()


class Stats(NamedTuple):
    """Figures of one partition. Bytes count keys, bodies and overhead; hits, misses and flushes only rise."""

    entries: int
    bytes: int
    hits: int
    misses: int
    flushes: int
    flights: int
    detached: int


class Partition(Generic[F]):
    """The part of the cache that belongs to one peer, created by `ResponseCache.partition`. Thread-safe."""

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
        """Bytes in the partition, by the last recount of each of its buckets."""
        self._hits = self._misses = 0
        self._flushes: dict[InvalidationReason, int] = {}

    def lookup(self, key: Key, join: Callable[[F], bool], launch: Callable[[FetchToken], F]) -> LookupResult[F]:
        """Return the cached answer, or the flight that fetches it.

        A flight under way is returned if `join` accepts it; otherwise `launch` makes a flight for this caller. Both
        are called under the lock, so that no flight ends between lookup and join: they must be quick and must not call
        the cache.
        """
        with self._lock:
            elapsed, wall = self._read()
            bucket = self._bucket(key)
            entry = bucket.find(key, elapsed, wall)
            if entry is None:
                self._misses += 1
                token = FetchToken(key, bucket.epoch, elapsed, wall)
                flight = bucket.flights.get(key)
                if flight is not None and join(flight):
                    return Miss(token, flight, False)
                flight = bucket.flights[key] = launch(token)
                return Miss(token, flight, True)
            self._hits += 1
        return Hit(entry.body, elapsed - entry.elapsed, entry.filled_by)

    def peek(self, key: Key) -> Hit | None:
        """Return the cached answer, or `None`. Starts and joins no flight, and counts no miss."""
        with self._lock:
            grant = self._grants.get(key.grant_id)
            bucket = grant.buckets.get(key.resource) if grant else None
            if bucket is None:
                return None
            elapsed, wall = self._read()
            entry = bucket.find(key, elapsed, wall)
            if entry is None:
                return None
            self._hits += 1
        return Hit(entry.body, elapsed - entry.elapsed, entry.filled_by)

    def fetch_token(self, key: Key) -> FetchToken:
        """Return a token for a call that is neither cached nor shared; `decision` takes it at the end of the call."""
        with self._lock:
            return FetchToken(key, self._epoch, *self._read())

    def insert(self, token: FetchToken, body: bytes, lease_s: float, filled_by: str = "") -> bool:
        """Insert the answer to the call of `token` unless the epoch has changed since; tell whether it was inserted.

        It lives for the shorter of the cache's TTL and the peer's lease, from when its request was sent.
        """
        entry = Entry.of(token, body, min(lease_s, self._cache.ttl_s), filled_by)
        with self._lock:
            bucket = self._bucket_for_insert(token)
            if bucket is None or entry.size > self._cache.max_bytes or not entry.is_alive(*self._read()):
                return False
            evicted = bucket.insert(token.key, entry)
            self._recount(bucket)
        del evicted
        self._cache.evict_to_limit()
        return True

    def remove_flight(self, token: FetchToken, flight: F) -> None:
        """Remove a flight that ended, or that has no waiters, from the register: the next caller starts a new one."""
        with self._lock:
            self._detached.discard(flight)
            grant = self._grants.get(token.key.grant_id)
            bucket = grant.buckets.get(token.key.resource) if grant else None
            if bucket is not None and bucket.flights.get(token.key) is flight:
                del bucket.flights[token.key]

    def detach(self, flight: F) -> bool:
        """Let a flight run on without waiters; `False` if the flight is detached already, or too many are."""
        with self._lock:
            if self._removed or flight in self._detached or len(self._detached) >= MAX_DETACHED:
                return False
            self._detached.add(flight)
            return True

    def decision(self, token: FetchToken) -> DeliveryDecision:
        """Decide whether an answer may be delivered. Call it at the moment of delivery."""
        with self._lock:
            if self._removed:
                return DeliveryDecision.REFUSE
            grant = self._grants.get(token.key.grant_id)
            return DeliveryDecision.DELIVER if grant is None else grant.decision(token)

    def flush(self, reason: InvalidationReason, grant_id: str = "", resource: str = "") -> Flushed[F]:
        """Begin a new epoch and remove the entries of a grant, or of the whole peer if `grant_id` is empty.

        `resource` belongs to `RESOURCE_CHANGED` and limits the flush to that resource. Every flush removes the flights
        from the register, and they run on for their waiters; the flights whose answers must not be delivered are in
        `to_fail`.
        """
        if (reason is InvalidationReason.RESOURCE_CHANGED) != bool(resource):
            raise ValueError("`resource` must be given for RESOURCE_CHANGED, and for no other reason")
        removed: list[CacheBucket[F]] = []
        with self._lock:
            self._epoch += 1
            self._flushes[reason] = self._flushes.get(reason, 0) + 1
            self._removed = self._removed or reason is InvalidationReason.PEER_REMOVED
            for grant in self._affected(grant_id):
                removed += grant.invalidate(reason, self._epoch, resource)
            self._adjust_bytes(-sum(bucket.bytes for bucket in removed))
        refused = decision_of(reason) is DeliveryDecision.REFUSE
        to_fail = tuple(flight for bucket in removed for flight in bucket.flights.values()) if refused else ()
        return Flushed(to_fail, tuple(removed))

    def suspend(self) -> None:
        """Insert nothing until `resume`. Existing entries stay: flush after this call, not before it."""
        with self._lock:
            self._suspended = True

    def resume(self) -> None:
        """Insert answers again."""
        with self._lock:
            self._suspended = False

    def stats(self) -> Stats:
        """Return the current figures."""
        with self._lock:
            self._read()
            buckets = list(self._buckets())
            for bucket in buckets:
                self._recount(bucket)
            return Stats(
                entries=sum(bucket.count for bucket in buckets),
                bytes=self.bytes,
                hits=self._hits,
                misses=self._misses,
                flushes=sum(self._flushes.values()),
                flights=sum(len(bucket.flights) for bucket in buckets),
                detached=len(self._detached),
            )

    def flushes(self) -> dict[InvalidationReason, int]:
        """Return the number of flushes so far, by reason."""
        with self._lock:
            return self._flushes.copy()

    def evict(self) -> bool:
        """Evict the expired or the least recently used entries of the largest bucket; `False` if there are none."""
        with self._lock:
            self._read()
            bucket = max(self._buckets(), key=lambda bucket: bucket.bytes, default=None)
            if bucket is None or not bucket.bytes:
                return False
            bucket.evict()
            self._recount(bucket)
            return True

    def reset_after_fork(self) -> None:
        """Empty the partition in a forked child, where its leases and flights are the parent's."""
        self._lock = Lock()
        self._epoch += 1
        self._detached = set()
        for grant in self._grants.values():
            grant.buckets = {}
        self.bytes = 0

    def _read(self) -> tuple[float, float]:
        clock = self._cache.clock
        self._elapsed = elapsed = clock.elapsed()
        return elapsed, clock.wall()

    def _buckets(self) -> Iterator[CacheBucket[F]]:
        return (bucket for grant in self._grants.values() for bucket in grant.buckets.values())

    def _bucket(self, key: Key) -> CacheBucket[F]:
        grant = self._grants.get(key.grant_id)
        if grant is None:
            grant = self._grants[key.grant_id] = GrantEntries()
        bucket = grant.buckets.get(key.resource)
        if bucket is None:
            if grant.needs_compaction():
                for each in grant.buckets.values():
                    self._recount(each)
                grant.compact()
            bucket = CacheBucket(self._epoch, self._cache.max_bytes, lambda: self._elapsed)
            grant.buckets[key.resource] = bucket
        return bucket

    def _bucket_for_insert(self, token: FetchToken) -> CacheBucket[F] | None:
        grant = self._grants.get(token.key.grant_id)
        return None if grant is None or self._removed or self._suspended else grant.bucket_for_insert(token)

    def _affected(self, grant_id: str) -> Iterable[GrantEntries[F]]:
        return (self._grants.setdefault(grant_id, GrantEntries()),) if grant_id else self._grants.values()

    def _recount(self, bucket: CacheBucket[F]) -> None:
        change = bucket.recount()
        if change:
            self._adjust_bytes(change)

    def _adjust_bytes(self, change: int) -> None:
        self.bytes += change
        self._cache.report_size(change)


class ResponseCache(Generic[F]):
    """The cached answers of all peers, within one limit in bytes.

    Fair share: below the limit, one peer may fill the whole cache. Above it, the largest partition evicts its least
    recently used entries, so a peer that holds no more than `max_bytes` / (number of peers with entries) loses nothing
    to other peers.

    `instance_id` identifies this cache object to the peers, which grant leases to it. A forked child has an empty cache
    with another id.
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
        """Return the partition of a peer, created by the first call."""
        with self._lock:
            partition = self._partitions.get(peer_id)
            if partition is None:
                partition = self._partitions[peer_id] = Partition(self)
            return partition

    def remove(self, peer_id: str) -> Flushed[F]:
        """Flush and remove a peer. Answers that still arrive for it are refused; its id may be used again."""
        partition = self._partitions.get(peer_id)
        if partition is None:
            return Flushed()
        # Before the partition is removed, so that its bytes leave the total first.
        flushed = partition.flush(InvalidationReason.PEER_REMOVED)
        with self._lock:
            self._partitions.pop(peer_id, None)
        return flushed

    def report_size(self, change: int) -> None:
        """Add a partition's change in bytes to the total."""
        with self._lock:
            self._total += change

    def evict_to_limit(self) -> None:
        """Evict until the total is within the limit."""
        while (victim := self._largest_partition()) is not None and victim.evict():
            pass

    def reset_after_fork(self) -> None:
        """Empty the cache and give it another instance id, in a forked child."""
        self._lock = Lock()
        self.instance_id = secrets.token_hex(16)
        self._total = 0
        for partition in self._partitions.values():
            partition.reset_after_fork()

    def _largest_partition(self) -> Partition[F] | None:
        with self._lock:
            if self._total <= self.max_bytes:
                return None
            return max(self._partitions.values(), key=lambda partition: partition.bytes, default=None)


_CACHES: Final["WeakSet[ResponseCache[Any]]"] = WeakSet()
"""Every cache of this process: a forked child resets its copies, which must not use the parent's instance id."""


def _reset_all_after_fork() -> None:
    for cache in list(_CACHES):
        cache.reset_after_fork()


os.register_at_fork(after_in_child=_reset_all_after_fork)
