"""Measures a cache hit at different sizes: 10^2 to 10^6 entries of one peer, and 1 to 10^3 peers of one entry.

A hit here is the chain without span and call object, from the request to the tagged outcome, for a random entry. The
call object and the loop add the same at every size, so the growth through a stub is smaller. The size limit of the
cache is raised, and entries are inserted directly.
"""

import random
import time
from dataclasses import dataclass, field
from math import inf

from federation.breaker import CircuitBreaker
from federation.cache.entries import Key
from federation.cache.response_cache import ResponseCache
from federation.client.chain.call_stats import PeerHealth
from federation.client.chain.chain import build_chain
from federation.client.chain.flow import Flight, Proceed, compose
from federation.client.chain.methods import new_call
from federation.client.interceptors.breaking import BreakingInterceptor
from federation.client.interceptors.caching import CachingInterceptor
from federation.client.interceptors.propagation import PropagationInterceptor
from federation.client.interceptors.tagging import TaggingInterceptor
from federation.clock import SYSTEM_CLOCK
from federation.config import CircuitConfig
from federation.v1 import federation_pb2 as pb
from federation.wire.requests import query_hash, serialize
from federation.wire.verbs import VERB_BY_NAME
from tests.bench.samples import Samples
from tests.bench.server import ROWS, rows
from tests.support.manual_driver import ScriptedSink

_LONG_S = 86_400.0
_BODY = pb.ListResponse(rows=rows(1)[:1]).SerializeToString()
_LIST = VERB_BY_NAME["list"]


@dataclass(frozen=True)
class CachedPeer:
    """A peer's identity for calls, and its chain."""

    name: str
    grant_id: str
    user: str
    proceed: Proceed


@dataclass
class FilledCache:
    """A cache with `peers` peers of `entries` entries each. `fill_us` is the CPU time of one insertion."""

    peers: int
    entries: int
    fill_us: float = 0.0
    samples: Samples = field(default_factory=Samples)

    def __post_init__(self) -> None:
        self._cache: ResponseCache[Flight] = ResponseCache(SYSTEM_CLOCK, ttl_s=_LONG_S, max_bytes=1 << 36)
        self._cached_peers = [self._cached_peer(number) for number in range(self.peers)]
        begun = time.process_time()
        for number in range(self.peers):
            self._fill(number)
        self.fill_us = (time.process_time() - begun) * 1e6 / (self.peers * self.entries)

    def measure(self, calls: int) -> None:
        """Measure one block of hits on random entries of random peers."""
        pairs = [(random.choice(self._cached_peers), _request(random.randrange(self.entries))) for _ in range(calls)]
        now, took, cpu = time.perf_counter_ns, [], time.process_time()
        for peer, request in pairs:
            begun = now()
            outcome = None
            try:
                call = new_call(_LIST, peer, request, None, None, now=0.0, default_s=inf)
                next(peer.proceed(call))
            except StopIteration as end:
                outcome = end.value
            took.append(now() - begun)
            assert outcome is not None
            assert outcome.cached
        self.samples.add(took, time.process_time() - cpu)

    def _cached_peer(self, number: int) -> CachedPeer:
        breaking = BreakingInterceptor(CircuitBreaker(CircuitConfig()), PeerHealth(SYSTEM_CLOCK), SYSTEM_CLOCK)
        chain = build_chain(
            tagging=TaggingInterceptor(f"peer-{number}"),
            caching=CachingInterceptor(self._cache.partition(f"peer-{number}"), SYSTEM_CLOCK, ScriptedSink()),
            breaking=breaking,
            propagation=PropagationInterceptor(lambda: self._cache.instance_id),
        )
        return CachedPeer(f"peer-{number}", f"grant-{number}", "ada", compose(chain))

    def _fill(self, number: int) -> None:
        partition, grant_id = self._cache.partition(f"peer-{number}"), f"grant-{number}"
        for entry in range(self.entries):
            key = Key(grant_id, "list", "tasks", query_hash(serialize(_request(entry))))
            miss = partition.lookup(key, lambda _: False, lambda _: Flight(inf))
            assert not hasattr(miss, "body")
            partition.insert(miss.token, _BODY, _LONG_S)
            partition.remove_flight(miss.token, miss.flight)


class Growth:
    """All sizes, so that each round measures all of them under the same load."""

    def __init__(self, powers_of_entries: int, powers_of_peers: int) -> None:
        self.by_entries = [FilledCache(1, 10**power) for power in range(2, powers_of_entries + 1)]
        self.by_peers = [FilledCache(10**power, 1) for power in range(powers_of_peers + 1)]

    def round(self, calls: int) -> None:
        """Measure every size, in random order."""
        sizes = [*self.by_entries, *self.by_peers]
        for size in random.sample(sizes, len(sizes)):
            size.measure(calls)


def _request(number: int) -> pb.ListRequest:
    return pb.ListRequest(resource="tasks", where={"number": str(number)}, page_size=ROWS)
