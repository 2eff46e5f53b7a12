"""The cache as pure policy: values in, values out, and a manual clock."""

import ast
import gc
import os
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import federation.cache.entries
import federation.cache.response_cache
from federation.cache.entries import ENTRY_OVERHEAD, DeliveryDecision, FetchToken, InvalidationReason, Key
from federation.cache.response_cache import MAX_DETACHED, Flushed, Hit, Miss, Partition, ResponseCache, Stats
from federation.config import CacheConfig
from tests.support.clock import ManualClock

GRANT = "grant-1"
LEASE_S = 30.0


def key(query: str = "q", *, grant: str = GRANT, resource: str = "tasks", verb: str = "list") -> Key:
    """A key that differs from another in what is named."""
    return Key(grant, verb, resource, query)


def join(_: str) -> bool:
    """Join any flight."""
    return True


def lookup(partition: Partition[str], k: Key) -> Hit | Miss[str]:
    """Look a key up; a miss launches a flight named after its query."""
    return partition.lookup(k, join, lambda token: f"flight of {token.key.query_hash}")


def send(partition: Partition[str], k: Key) -> FetchToken:
    """Begin a call that the cache does not register, and return its fetch token."""
    found = lookup(partition, k)
    assert isinstance(found, Miss)
    return found.token


def fill(partition: Partition[str], k: Key, body: bytes = b"rows", lease_s: float = LEASE_S) -> bool:
    """Call and answer at once; tell whether the answer was inserted."""
    found = lookup(partition, k)
    assert isinstance(found, Miss)
    kept = partition.insert(found.token, body, lease_s, "trace of the filler")
    partition.remove_flight(found.token, found.flight)
    return kept


def total(cache: ResponseCache[Any], figure: str = "bytes") -> int:
    """The sum of a figure over all peers."""
    return sum(getattr(partition.stats(), figure) for partition in cache._partitions.values())


def is_kept(partition: Partition[str], k: Key) -> bool:
    """Look up without leaving a flight."""
    found = lookup(partition, k)
    if isinstance(found, Hit):
        return True
    partition.remove_flight(found.token, found.flight)
    return False


@pytest.fixture
def time() -> ManualClock:
    """A clock that does not advance by itself."""
    return ManualClock()


@pytest.fixture
def cache(time: ManualClock) -> ResponseCache[str]:
    """A cache with the default settings."""
    return ResponseCache(time.clock)


@pytest.fixture
def partition(cache: ResponseCache[str]) -> Partition[str]:
    """The partition of one peer."""
    return cache.partition("peer-1")


# -- what a hit is


def test_an_answer_is_found_again_with_its_age_and_filler(partition: Partition[str], time: ManualClock) -> None:
    """A hit has the cached bytes, the seconds since the request was sent, and the trace that filled it."""
    time.elapsed_s = 3.0
    fill(partition, key(), b"rows")
    time.advance(12.5)

    assert lookup(partition, key()) == Hit(b"rows", 12.5, "trace of the filler")


@pytest.mark.parametrize(
    "other",
    [
        key("another page"),
        key(verb="get"),
        key(resource="notes"),
        key(grant="grant-2"),
    ],
    ids=["query", "verb", "resource", "grant"],
)
def test_every_part_of_the_key_tells_answers_apart(partition: Partition[str], other: Key) -> None:
    """A call that differs in query, verb, resource or grant is a miss."""
    fill(partition, key())

    assert not is_kept(partition, other)


def test_peers_share_nothing_even_with_one_grant_id(cache: ResponseCache[str]) -> None:
    """Two peers that use the same grant id, one of them hostile, never see each other's answers, flights or flushes."""
    mine, hostile = cache.partition("peer-1"), cache.partition("peer-2")
    fill(mine, key(), b"mine")
    send(mine, key("under way"))

    assert not is_kept(hostile, key())
    assert lookup(hostile, key("under way")).leads  # type: ignore[union-attr]
    hostile.flush(InvalidationReason.GRANT_REVOKED, GRANT)
    assert is_kept(mine, key())
    assert mine.decision(send(mine, key("x"))) is DeliveryDecision.DELIVER


def test_a_partition_is_one_object_a_peer(cache: ResponseCache[str]) -> None:
    """Asking for a peer's partition twice gives the same one."""
    assert cache.partition("peer-1") is cache.partition("peer-1")
    assert cache.partition("peer-1") is not cache.partition("peer-2")


# -- how long an answer lives


@pytest.mark.parametrize(("ttl_s", "lease_s", "life_s"), [(30.0, 60.0, 30.0), (30.0, 7.0, 7.0), (5.0, 30.0, 5.0)])
def test_life_is_the_shorter_of_limit_and_lease(time: ManualClock, ttl_s: float, lease_s: float, life_s: float) -> None:
    """An answer lives for min(ttl, lease), and no longer."""
    partition: Partition[str] = ResponseCache[str](time.clock, ttl_s=ttl_s).partition("p")
    fill(partition, key(), lease_s=lease_s)

    time.advance(life_s - 0.001)
    assert is_kept(partition, key())
    time.advance(0.001)
    assert not is_kept(partition, key())


def test_life_counts_from_the_sending_of_the_request(partition: Partition[str], time: ManualClock) -> None:
    """An answer that took long has only the rest of its lifetime left."""
    token = send(partition, key())
    time.advance(20)
    assert partition.insert(token, b"rows", LEASE_S)

    time.advance(9.999)
    assert lookup(partition, key()) == Hit(b"rows", pytest.approx(29.999), "")
    time.advance(0.001)
    assert not is_kept(partition, key())


def test_an_answer_that_expired_on_the_way_is_not_inserted(partition: Partition[str], time: ManualClock) -> None:
    """An answer that arrives at the end of its lifetime is not inserted."""
    token = send(partition, key())
    time.advance(30)

    assert not partition.insert(token, b"rows", LEASE_S)
    assert partition.stats().entries == 0


@pytest.mark.parametrize("lease_s", [0.0, -1.0, float("nan")])
def test_without_a_lease_nothing_is_kept(partition: Partition[str], lease_s: float) -> None:
    """A zero or invalid lease inserts nothing."""
    assert not fill(partition, key(), lease_s=lease_s)
    assert partition.stats().entries == 0


def test_hits_never_lengthen_a_life(partition: Partition[str], time: ManualClock) -> None:
    """However often an entry is hit, the peer is called again after 30 s."""
    fill(partition, key())
    for _ in range(29):
        time.advance(1)
        assert is_kept(partition, key())

    time.advance(1)
    assert not is_kept(partition, key())


@pytest.mark.parametrize(
    ("elapsed_s", "wall_s"),
    [(30, 0), (0, 30), (30, 30), (1, 300), (300, 1), (0, -1), (0, -0.1), (10, -20), (10, 5), (10, 9.5), (-1, 0)],
    ids=[
        "wall stood still",
        "a suspend that only wall time saw",
        "both",
        "wall jumped ahead",
        "a suspend that only elapsed time saw",
        "wall before the sending",
        "wall a tenth of a second before the sending",
        "wall far back",
        "wall back, but after the sending",
        "wall half a second back",
        "elapsed time before the sending",
    ],
)
def test_either_clock_ends_a_life(
    partition: Partition[str], time: ManualClock, elapsed_s: float, wall_s: float
) -> None:
    """An entry dies when either clock passes its life, and when wall time ran backwards."""
    fill(partition, key())
    time.elapsed_s += elapsed_s
    time.wall_s += wall_s

    assert not is_kept(partition, key())
    assert partition.stats().entries == 0


@pytest.mark.parametrize(("elapsed_s", "wall_s"), [(29.9, 29.9), (10, 29.9), (10, 9.8)])
def test_clocks_may_differ_a_little(
    partition: Partition[str], time: ManualClock, elapsed_s: float, wall_s: float
) -> None:
    """Within the lifetime, a wall clock that is ahead or is being slewed ends no entry."""
    fill(partition, key())
    time.elapsed_s += elapsed_s
    time.wall_s += wall_s

    assert is_kept(partition, key())


def test_an_answer_whose_wall_clock_ran_backwards_on_the_way_is_not_kept(
    partition: Partition[str], time: ManualClock
) -> None:
    """A fill that reads a wall time before its sending is not inserted."""
    token = send(partition, key())
    time.advance(1)
    time.wall_s -= 5

    assert not partition.insert(token, b"rows", LEASE_S)


def test_a_newer_answer_takes_the_place_of_an_older(partition: Partition[str], time: ManualClock) -> None:
    """Of two calls for one key, the later answer is cached, counted once, with its own lifetime."""
    first, second = send(partition, key()), send(partition, key())
    assert partition.insert(first, b"old", LEASE_S)
    time.advance(1)
    assert partition.insert(second._replace(elapsed=time.elapsed_s, wall=time.wall_s), b"newer", LEASE_S)

    assert lookup(partition, key()) == Hit(b"newer", 0.0, "")
    assert partition.stats().entries == 1


# -- the fence


FLUSHES: dict[str, tuple[InvalidationReason, str, str]] = {
    "revoked": (InvalidationReason.GRANT_REVOKED, GRANT, ""),
    "changed": (InvalidationReason.GRANT_CHANGED, GRANT, ""),
    "rotation": (InvalidationReason.ROTATION, "", ""),
    "removed": (InvalidationReason.PEER_REMOVED, "", ""),
    "resource": (InvalidationReason.RESOURCE_CHANGED, GRANT, "tasks"),
    "resource of all grants": (InvalidationReason.RESOURCE_CHANGED, "", "tasks"),
    "refused": (InvalidationReason.REFUSED, GRANT, ""),
    "rearmed": (InvalidationReason.WATCH_REARMED, "", ""),
}

DECISIONS = {
    InvalidationReason.GRANT_REVOKED: DeliveryDecision.REFUSE,
    InvalidationReason.GRANT_CHANGED: DeliveryDecision.RETRY,
    InvalidationReason.ROTATION: DeliveryDecision.DELIVER,
    InvalidationReason.PEER_REMOVED: DeliveryDecision.REFUSE,
    InvalidationReason.RESOURCE_CHANGED: DeliveryDecision.DELIVER,
    InvalidationReason.REFUSED: DeliveryDecision.RETRY,
    InvalidationReason.WATCH_REARMED: DeliveryDecision.DELIVER,
}


@pytest.mark.parametrize("flush", FLUSHES.values(), ids=FLUSHES)
def test_every_flush_drops_and_fences(partition: Partition[str], flush: tuple[InvalidationReason, str, str]) -> None:
    """Each reason removes the entries, and an answer that was requested before is not inserted afterwards."""
    fill(partition, key())
    token = send(partition, key("under way"))

    assert partition.stats().bytes == len(b"rows") + sum(map(len, key())) + ENTRY_OVERHEAD

    partition.flush(*flush)

    assert partition.flushes() == {flush[0]: 1}
    assert not partition.insert(token, b"late", LEASE_S)
    assert not is_kept(partition, key())
    assert not is_kept(partition, key("under way"))
    assert (partition.stats().entries, partition.stats().bytes) == (0, 0)


@pytest.mark.parametrize("reason", InvalidationReason)
def test_the_reason_decides_on_answers_under_way(partition: Partition[str], reason: InvalidationReason) -> None:
    """Revoked and removed refuse; a change of scope retries; every other reason delivers."""
    token = send(partition, key())
    assert partition.decision(token) is DeliveryDecision.DELIVER

    partition.flush(reason, GRANT, "tasks" if reason is InvalidationReason.RESOURCE_CHANGED else "")

    assert partition.decision(token) is DECISIONS[reason]


@pytest.mark.parametrize("reason", [InvalidationReason.GRANT_CHANGED, InvalidationReason.REFUSED])
def test_a_call_sent_after_a_change_is_delivered_and_cached(
    partition: Partition[str], reason: InvalidationReason
) -> None:
    """A call that was sent after the flush is delivered and cached."""
    partition.flush(reason, GRANT)
    token = send(partition, key())

    assert partition.decision(token) is DeliveryDecision.DELIVER
    assert partition.insert(token, b"rows", LEASE_S)


@pytest.mark.parametrize(
    "later",
    [c for c in InvalidationReason if c is not InvalidationReason.RESOURCE_CHANGED],
    ids=lambda reason: str(reason.value),
)
def test_revoked_is_final(partition: Partition[str], later: InvalidationReason) -> None:
    """After a revocation nothing is delivered or inserted, whatever follows."""
    partition.flush(InvalidationReason.GRANT_REVOKED, GRANT)
    partition.flush(later, GRANT)
    token = send(partition, key())

    assert partition.decision(token) is DeliveryDecision.REFUSE
    assert not partition.insert(token, b"rows", LEASE_S)


def test_a_change_of_scope_outweighs_a_later_rotation(partition: Partition[str]) -> None:
    """An answer from before both is retried."""
    token = send(partition, key())
    partition.flush(InvalidationReason.GRANT_CHANGED, GRANT)
    partition.flush(InvalidationReason.ROTATION)

    assert partition.decision(token) is DeliveryDecision.RETRY


def test_a_changed_resource_flushes_no_other_resource(partition: Partition[str]) -> None:
    """`resource_changed` flushes and fences that resource only."""
    fill(partition, key(resource="tasks"))
    fill(partition, key(resource="notes"))
    token = send(partition, key("under way", resource="notes"))

    partition.flush(InvalidationReason.RESOURCE_CHANGED, GRANT, "tasks")

    assert not is_kept(partition, key(resource="tasks"))
    assert is_kept(partition, key(resource="notes"))
    assert partition.insert(token, b"rows", LEASE_S)
    partition.flush(InvalidationReason.RESOURCE_CHANGED, GRANT, "memory")
    assert partition.stats().entries == 2


def test_a_call_sent_after_another_resource_changed_is_cached(partition: Partition[str]) -> None:
    """A changed resource does not stop the caching of later calls of a resource that has answers already."""
    fill(partition, key(resource="notes"))
    partition.flush(InvalidationReason.RESOURCE_CHANGED, GRANT, "tasks")

    assert fill(partition, key("later", resource="notes"))


def test_a_flush_of_one_grant_leaves_the_others_alone(partition: Partition[str]) -> None:
    """A partition may hold several grants; each is flushed by itself, and all of them without a name."""
    fill(partition, key(grant="grant-1"))
    fill(partition, key(grant="grant-2"))
    token = send(partition, key("under way", grant="grant-2"))

    partition.flush(InvalidationReason.GRANT_REVOKED, "grant-1")

    assert is_kept(partition, key(grant="grant-2"))
    assert partition.decision(token) is DeliveryDecision.DELIVER
    assert partition.insert(token, b"rows", LEASE_S)
    assert partition.stats().entries == 2
    partition.flush(InvalidationReason.ROTATION)
    assert partition.stats().entries == 0


def test_a_revocation_counts_before_the_first_call(partition: Partition[str]) -> None:
    """A grant can be revoked before the first call under it."""
    partition.flush(InvalidationReason.GRANT_REVOKED, GRANT)

    assert partition.decision(send(partition, key())) is DeliveryDecision.REFUSE


def test_uncached_calls_have_a_decision_as_well(partition: Partition[str]) -> None:
    """A fetch token serves calls that neither look up nor share."""
    k = key(verb="search", resource="notes,tasks")
    before = partition.fetch_token(k)
    assert partition.decision(before) is DeliveryDecision.DELIVER
    partition.flush(InvalidationReason.GRANT_CHANGED, GRANT)

    assert partition.decision(before) is DeliveryDecision.RETRY
    assert partition.decision(partition.fetch_token(k)) is DeliveryDecision.DELIVER
    assert not partition.insert(partition.fetch_token(k), b"never looked up", LEASE_S)


@pytest.mark.parametrize(
    ("reason", "resource"), [(InvalidationReason.RESOURCE_CHANGED, ""), (InvalidationReason.ROTATION, "tasks")]
)
def test_a_resource_is_given_for_its_own_reason_only(
    partition: Partition[str], reason: InvalidationReason, resource: str
) -> None:
    """A contradictory flush raises `ValueError` and flushes nothing."""
    fill(partition, key())
    with pytest.raises(ValueError, match="resource"):
        partition.flush(reason, GRANT, resource)

    assert is_kept(partition, key())
    assert partition.stats().flushes == 0


def test_a_removed_peer_is_empty_and_its_id_may_be_used_again(cache: ResponseCache[str]) -> None:
    """Removal is final; a peer that is added later under the same id has a partition of its own."""
    old = cache.partition("peer-1")
    fill(old, key())
    token = send(old, key("under way"))

    cache.remove("peer-1")
    assert old.stats().entries == 0
    assert old.decision(token) is DeliveryDecision.REFUSE
    assert not fill(old, key("later"))
    assert fill(cache.partition("peer-1"), key("under way"))
    assert cache.remove("never heard of") == Flushed()


# -- flights


def test_the_first_leads_and_the_others_join(partition: Partition[str]) -> None:
    """One flight a query: the first miss launches it, later ones get the same."""
    first, second = lookup(partition, key()), lookup(partition, key())

    assert isinstance(first, Miss)
    assert isinstance(second, Miss)
    assert (first.leads, second.leads) == (True, False)
    assert first.flight is second.flight
    assert first.token.epoch == second.token.epoch
    assert partition.stats().flights == 1


def test_a_flight_that_cannot_be_joined_is_replaced(partition: Partition[str]) -> None:
    """A flight that cannot be joined is replaced; its end does not remove the new one."""
    first = partition.lookup(key(), join, lambda _: "first")
    second = partition.lookup(key(), lambda flight: flight != "first", lambda _: "second")
    assert isinstance(first, Miss)
    assert second == Miss(first.token, "second", True)

    partition.remove_flight(first.token, "first")
    assert partition.lookup(key(), join, lambda _: "third") == Miss(first.token, "second", False)


def test_a_flight_that_ended_is_removed(partition: Partition[str]) -> None:
    """After `remove_flight` the next caller launches a new flight; a second removal is harmless."""
    found = lookup(partition, key())
    assert isinstance(found, Miss)
    partition.remove_flight(found.token, found.flight)
    partition.remove_flight(found.token, found.flight)

    assert partition.stats().flights == 0
    assert lookup(partition, key()).leads  # type: ignore[union-attr]


@pytest.mark.parametrize("flush", FLUSHES.values(), ids=FLUSHES)
def test_no_caller_joins_a_flight_from_before_a_flush(
    partition: Partition[str], flush: tuple[InvalidationReason, str, str]
) -> None:
    """Flights belong to their epoch: a later call starts a new one, which the old one's end leaves in place."""
    old = lookup(partition, key())
    assert isinstance(old, Miss)
    partition.flush(*flush)

    new = partition.lookup(key(), join, lambda _: "new")
    partition.remove_flight(old.token, old.flight)

    assert isinstance(new, Miss)
    assert new.leads
    assert lookup(partition, key()).flight == "new"  # type: ignore[union-attr]


@pytest.mark.parametrize("flush", FLUSHES.values(), ids=FLUSHES)
def test_only_flights_that_must_not_be_delivered_are_failed(
    partition: Partition[str], flush: tuple[InvalidationReason, str, str]
) -> None:
    """Revoked and removed return the flights to fail; after any other flush they run on for their waiters."""
    send(partition, key("a"))
    send(partition, key("b"))

    failed = set(partition.flush(*flush).to_fail)

    assert failed == ({"flight of a", "flight of b"} if DECISIONS[flush[0]] is DeliveryDecision.REFUSE else set())
    assert partition.stats().flights == 0


def test_a_few_flights_may_run_on_alone(partition: Partition[str]) -> None:
    """At most 8 detached flights a peer, each counted once; the end of one makes room for another."""
    tokens = [send(partition, key(str(n))) for n in range(MAX_DETACHED + 1)]
    names = [f"flight of {n}" for n in range(MAX_DETACHED + 1)]

    assert MAX_DETACHED == 8
    assert [partition.detach(name) for name in names] == [True] * 8 + [False]
    assert not partition.detach(names[0])
    assert partition.stats().detached == MAX_DETACHED
    partition.remove_flight(tokens[0], names[0])
    assert partition.detach(names[-1])


def test_a_flight_is_detached_once(partition: Partition[str]) -> None:
    """A second waiter cannot detach a flight that runs on already, so it leaves the flight like any other waiter."""
    assert partition.detach("flight")
    assert not partition.detach("flight")
    assert partition.stats().detached == 1


def test_a_removed_peer_detaches_nothing(cache: ResponseCache[str], partition: Partition[str]) -> None:
    """No flight is detached for a removed peer."""
    send(partition, key())
    cache.remove("peer-1")

    assert not partition.detach("flight of q")


# -- room


def small(time: ManualClock, entries: int) -> tuple[ResponseCache[str], int]:
    """A cache with room for so many one-byte answers of `key('000')`, and the bytes of one."""
    each = 1 + sum(map(len, key("000"))) + ENTRY_OVERHEAD
    return ResponseCache(time.clock, max_bytes=entries * each), each


def test_the_defaults_are_those_of_the_settings(cache: ResponseCache[str]) -> None:
    """Half a minute, 64 MiB, as `[cache]` in the settings says."""
    settings = CacheConfig()

    assert (cache.ttl_s, cache.max_bytes) == (settings.ttl_s, settings.max_bytes) == (30.0, 67_108_864)


def test_the_total_is_the_sum_of_the_partitions(time: ManualClock) -> None:
    """The total that decides on evictions counts every insert, eviction, expiry, flush and removal."""
    cache, each = small(time, 50)
    for n in range(500):
        fill(cache.partition(f"peer-{n % 3}"), key(f"{n:03}"), b"x")
    assert cache._total == total(cache) == 50 * each

    cache.partition("peer-0").flush(InvalidationReason.ROTATION)
    cache.remove("peer-1")
    assert cache._total == total(cache) == cache.partition("peer-2").stats().bytes > 0
    time.advance(60)
    assert total(cache) == cache._total == 0


def test_bytes_count_bodies_keys_and_overhead(partition: Partition[str]) -> None:
    """The size of an entry is its body, the text of its key, and a fixed overhead."""
    fill(partition, key("abc"), b"x" * 1000)

    assert partition.stats().bytes == 1000 + sum(map(len, key("abc"))) + ENTRY_OVERHEAD


def test_one_peer_may_fill_all_the_room_there_is(time: ManualClock) -> None:
    """Below the limit a peer may exceed its share; above it, its least recently used entry is evicted."""
    cache, each = small(time, 4)
    partition = cache.partition("p")
    for n in range(4):
        fill(partition, key(f"{n:03}"), b"x")
    assert total(cache) == 4 * each
    assert is_kept(partition, key("000"))  # used last now

    fill(partition, key("004"), b"x")

    assert not is_kept(partition, key("001"))
    assert all(is_kept(partition, key(f"{n:03}")) for n in (0, 2, 3, 4))
    assert total(cache) == 4 * each


def test_the_largest_peer_is_evicted_first(time: ManualClock) -> None:
    """The largest peer loses entries to new peers until the shares are equal; a peer below its share loses none."""
    cache, _ = small(time, 6)
    greedy, modest, late = (cache.partition(name) for name in ("greedy", "modest", "late"))
    for n in range(6):
        fill(greedy, key(f"{n:03}"), b"x")
    for partition in (modest, late):
        for n in range(2):
            fill(partition, key(f"{n:03}"), b"x")
    assert [p.stats().entries for p in (greedy, modest, late)] == [2, 2, 2]

    for n in range(10, 40):
        fill(greedy, key(f"{n:03}"), b"x")

    assert [p.stats().entries for p in (greedy, modest, late)] == [2, 2, 2]


def test_a_flushed_peer_is_not_evicted_from(time: ManualClock) -> None:
    """A flushed peer no longer counts as the largest: the limit is kept by the remaining ones."""
    cache, each = small(time, 4)
    greedy, modest = cache.partition("greedy"), cache.partition("modest")
    for n in range(4):
        fill(greedy, key(f"{n:03}"), b"x")
    greedy.flush(InvalidationReason.ROTATION)
    for n in range(6):
        fill(modest, key(f"{n:03}"), b"x")

    assert total(cache) == modest.stats().bytes == 4 * each
    assert not greedy.evict()


def test_within_a_peer_the_largest_resource_is_evicted_first(time: ManualClock) -> None:
    """A resource with many entries does not evict those of one with few."""
    cache, _ = small(time, 5)
    partition = cache.partition("p")
    fill(partition, key("000", resource="notes"), b"x")
    for n in range(10):
        fill(partition, key(f"{n:03}"), b"x")

    assert is_kept(partition, key("000", resource="notes"))


def test_an_answer_above_the_limit_is_not_inserted(time: ManualClock) -> None:
    """An answer above the limit is not inserted, and evicts nothing."""
    cache, each = small(time, 2)
    partition = cache.partition("p")
    fill(partition, key("000"), b"x")

    assert not fill(partition, key("001"), b"x" * 3 * each)
    assert is_kept(partition, key("000"))
    assert fill(partition, key("002"), b"x" * (2 * each - sum(map(len, key("002"))) - ENTRY_OVERHEAD))
    assert total(cache) == 2 * each


def test_expired_entries_are_evicted_before_live_ones(time: ManualClock) -> None:
    """Expired entries of the largest partition are evicted before live ones."""
    cache, _ = small(time, 4)
    one, other = cache.partition("one"), cache.partition("other")
    for n in range(2):
        fill(one, key(f"{n:03}"), b"x", lease_s=1)
    fill(one, key("002"), b"x")
    fill(other, key("000"), b"x")
    time.advance(1)
    fill(other, key("001"), b"x")

    assert is_kept(one, key("002"))
    assert total(cache, "entries") == 3


def test_a_bucket_that_expired_whole_is_dropped_whole(partition: Partition[str], time: ManualClock) -> None:
    """The first insert after every entry expired uses a new container, with exact figures."""
    for n in range(50):
        fill(partition, key(str(n)))
    time.advance(30)
    fill(partition, key("new"))

    assert partition.stats().entries == 1
    assert is_kept(partition, key("new"))


def test_a_longer_life_outlives_the_end_of_a_shorter(partition: Partition[str], time: ManualClock) -> None:
    """The expiry of an entry with a short lease does not end those with a longer one."""
    fill(partition, key("long"), lease_s=30)
    fill(partition, key("short"), lease_s=5)
    time.advance(10)
    fill(partition, key("new"))

    assert is_kept(partition, key("long"))
    assert not is_kept(partition, key("short"))


def test_many_resources_leave_no_empty_buckets(partition: Partition[str], time: ManualClock) -> None:
    """Callers choose the names of resources; the number of empty buckets is bounded, and live entries stay."""
    for n in range(1_000):
        fill(partition, key(resource=f"r{n}"), lease_s=1)
        time.advance(0.5)
    fill(partition, key("q", resource="tasks"))

    [grant] = partition._grants.values()
    assert len(grant.buckets) < 200
    assert is_kept(partition, key("q", resource="tasks"))


def test_a_bucket_with_a_flight_is_not_compacted(partition: Partition[str]) -> None:
    """Compaction leaves a bucket with a flight in place."""
    token = send(partition, key("under way", resource="r"))
    for n in range(500):
        fill(partition, key(resource=f"r{n}"), lease_s=0)

    assert partition.insert(token, b"rows", LEASE_S)


def test_a_flush_costs_the_same_for_many_entries() -> None:
    """Removing the buckets touches no entry: the entries are freed later, with the flush's result."""
    partition: Partition[str] = ResponseCache[str]().partition("p")
    for n in range(5_000):
        fill(partition, key(str(n)))
    touched = 0

    def count(_frame: Any, event: str, _arg: Any) -> None:
        nonlocal touched
        touched += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        flushed = partition.flush(InvalidationReason.ROTATION)
    finally:
        sys.setprofile(None)

    assert len(flushed.evicted[0]._entries) == 5_000  # type: ignore[attr-defined]
    assert touched < 60


def test_dropped_answers_leave_memory_without_the_collector(partition: Partition[str]) -> None:
    """No cycle holds a removed bucket: freeing the flush's result frees the bodies."""
    fill(partition, key(), b"secret")
    gc.collect()
    gc.disable()
    try:
        flushed = partition.flush(InvalidationReason.ROTATION)
        container = weakref.ref(flushed.evicted[0]._entries)  # type: ignore[attr-defined]
        assert container() is not None
        del flushed
        assert container() is None
    finally:
        gc.enable()


# -- figures


def test_flushes_are_counted_by_reason() -> None:
    """The flushes of the peer alone, by reason, whatever they removed."""
    cache: ResponseCache[object] = ResponseCache()
    partition = cache.partition("work")
    for reason in (InvalidationReason.ROTATION, InvalidationReason.WATCH_REARMED, InvalidationReason.ROTATION):
        partition.flush(reason)
    partition.flush(InvalidationReason.RESOURCE_CHANGED, "grant", "tasks")
    cache.partition("lab").flush(InvalidationReason.REFUSED)

    assert partition.flushes() == {
        InvalidationReason.ROTATION: 2,
        InvalidationReason.WATCH_REARMED: 1,
        InvalidationReason.RESOURCE_CHANGED: 1,
    }
    assert partition.stats().flushes == 4


def test_figures_add_up(cache: ResponseCache[str], partition: Partition[str]) -> None:
    """Entries, bytes, hits, misses and flushes of each peer."""
    fill(partition, key())
    lookup(partition, key())
    lookup(partition, key())
    fill(cache.partition("peer-2"), key("other"))
    cache.partition("peer-2").flush(InvalidationReason.ROTATION)

    one = partition.stats()
    assert one == Stats(entries=1, bytes=one.bytes, hits=2, misses=1, flushes=0, flights=0, detached=0)
    other = cache.partition("peer-2").stats()
    assert other == Stats(entries=0, bytes=0, hits=0, misses=1, flushes=1, flights=0, detached=0)


def test_figures_do_not_count_expired_entries(partition: Partition[str], time: ManualClock) -> None:
    """An expired entry is not counted, even without a lookup since."""
    fill(partition, key())
    time.advance(30)

    assert (partition.stats().entries, partition.stats().bytes) == (0, 0)


# -- processes and threads


def test_a_forked_child_is_a_cache_of_its_own(cache: ResponseCache[str], partition: Partition[str]) -> None:
    """A child has another instance id, no entries and no flights, even if a thread of the parent held the lock."""
    fill(partition, key())
    token = send(partition, key("under way"))
    partition.detach("flight of under way")
    cache._lock.acquire()
    partition._lock.acquire()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        good = (
            not partition.insert(token, b"late", LEASE_S)
            and partition.stats().detached == 0
            and total(cache) == cache._total == 0
            and len(cache.instance_id) == 32
            and not is_kept(partition, key())
            and fill(partition, key())
            and is_kept(partition, key())
        )
        os.write(writer, f"{good} {cache.instance_id}".encode())
        os._exit(0)
    cache._lock.release()
    partition._lock.release()
    os.waitpid(child, 0)
    went_well, instance_id = os.read(reader, 200).decode().split()
    os.close(reader)
    os.close(writer)

    assert went_well == "True"
    assert instance_id != cache.instance_id
    assert is_kept(partition, key())


def test_a_fork_fences_off_the_calls_that_were_sent_before_it(
    cache: ResponseCache[str], partition: Partition[str]
) -> None:
    """A forked child inserts no answer to a call of its parent, though it has called the same resource itself."""
    token = send(partition, key())
    cache.reset_after_fork()
    send(partition, key("another"))

    assert not partition.insert(token, b"rows", LEASE_S)


def test_instance_ids_are_128_random_bits(cache: ResponseCache[str]) -> None:
    """Every cache object has an id of 32 lower-case hexadecimal digits."""
    other: ResponseCache[str] = ResponseCache()

    assert len(bytes.fromhex(cache.instance_id)) == 16
    assert cache.instance_id == cache.instance_id.lower()
    assert cache.instance_id != other.instance_id


def in_threads(*works: Callable[[], None]) -> None:
    """Run all at the same time with a switch after almost every instruction; fail with any exception of theirs."""
    errors: list[BaseException] = []

    def recorded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as e:  # noqa: BLE001 - reported by the test's own thread
            errors.append(e)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=recorded, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(before)
    assert errors == []
    assert not any(thread.is_alive() for thread in threads)


def test_threads_keep_the_counts_right(time: ManualClock) -> None:
    """Fills, hits, flushes and evictions from many threads end with exact figures within the bound."""
    cache, each = small(time, 20)
    names = ("a", "b", "c")

    def busy(seed: int) -> Callable[[], None]:
        def work() -> None:
            for n in range(300):
                partition = cache.partition(names[(n + seed) % 3])
                k = key(f"{(n * seed) % 40:03}", resource=("tasks", "notes")[n % 2])
                found = lookup(partition, k)
                if isinstance(found, Miss):
                    partition.insert(found.token, b"x", LEASE_S)
                    partition.remove_flight(found.token, found.flight)
                if n % 50 == seed:
                    partition.flush(InvalidationReason.ROTATION)

        return work

    in_threads(*(busy(seed) for seed in range(1, 7)))

    assert set(cache._partitions) == set(names)
    assert cache._total == total(cache) == total(cache, "entries") * each <= 20 * each
    assert total(cache, "hits") + total(cache, "misses") == 1800
    assert total(cache, "flights") == 0


def test_only_one_of_many_threads_leads(partition: Partition[str]) -> None:
    """Threads that miss the same query at the same time get one flight, led by one of them."""
    barrier = threading.Barrier(16)
    found: list[Any] = []

    def work() -> None:
        barrier.wait()
        found.append(lookup(partition, key()))

    in_threads(*[work] * 16)

    assert sum(miss.leads for miss in found) == 1
    assert len({id(miss.flight) for miss in found}) == 1


def test_after_a_flush_returned_no_thread_finds_what_it_dropped(partition: Partition[str]) -> None:
    """A lookup that begins after a flush returned never hits an answer from before it."""
    stop = threading.Event()
    at_the_peer = told = 0
    stale: list[tuple[int, int]] = []

    def read() -> None:
        while not stop.is_set():
            known = told
            found = lookup(partition, key())
            if isinstance(found, Miss):
                partition.insert(found.token, str(at_the_peer).encode(), LEASE_S)
                partition.remove_flight(found.token, found.flight)
            elif int(found.body) < known:
                stale.append((int(found.body), known))

    def write() -> None:
        nonlocal at_the_peer, told
        for n in range(1, 300):
            at_the_peer = n
            partition.flush(InvalidationReason.RESOURCE_CHANGED, GRANT, "tasks")
            told = n
        stop.set()

    in_threads(read, read, read, write)

    assert stale == []


# -- purity


@pytest.mark.parametrize(
    "module", [federation.cache.response_cache, federation.cache.entries], ids=lambda module: module.__name__
)
def test_the_policy_imports_no_transport(module: Any) -> None:
    """Cache and buckets import neither gRPC nor asyncio, and of the package only the clock and each other."""
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    standard = {name for name in names if name.split(".")[0] in sys.stdlib_module_names}

    assert names - standard <= {"cachetools", "federation.clock", "federation.cache.entries"}
    assert "asyncio" not in standard
