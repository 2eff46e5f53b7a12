"""Whether a hit costs more where more is kept: 10^2 to 10^6 entries of one peer, and 1 to 10^3 peers of one entry.

A hit here is the chain without span and call object, from the request to the tagged outcome, of a random entry of all.
What the call object and the loop add is the same for every size, so through a stub the growth is smaller. The bound
of bytes is raised for this; entries are put in by the cache's own door, as fast as a peer never could.
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
class Asker:
    """Whose calls they are, and the chain that answers them."""

    name: str
    grant_id: str
    user: str
    proceed: Proceed


@dataclass
class Shelved:
    """One size: so many peers with so many entries each. `fill_us` is what keeping one entry took."""

    peers: int
    entries: int
    fill_us: float = 0.0
    samples: Samples = field(default_factory=Samples)

    def __post_init__(self) -> None:
        self._cache: ResponseCache[Flight] = ResponseCache(SYSTEM_CLOCK, ttl_s=_LONG_S, max_bytes=1 << 36)
        self._askers = [self._asker(number) for number in range(self.peers)]
        begun = time.process_time()
        for number in range(self.peers):
            self._fill(number)
        self.fill_us = (time.process_time() - begun) * 1e6 / (self.peers * self.entries)

    def measure(self, calls: int) -> None:
        """Run one block of hits of random entries of random peers."""
        questions = [(random.choice(self._askers), _request(random.randrange(self.entries))) for _ in range(calls)]
        now, took, cpu = time.perf_counter_ns, [], time.process_time()
        for asker, request in questions:
            begun = now()
            outcome = None
            try:
                call = new_call(_LIST, asker, request, None, None, now=0.0, default_s=inf)
                next(asker.proceed(call))
            except StopIteration as end:
                outcome = end.value
            took.append(now() - begun)
            assert outcome is not None
            assert outcome.cached
        self.samples.add(took, time.process_time() - cpu)

    def _asker(self, number: int) -> Asker:
        breaking = BreakingInterceptor(CircuitBreaker(CircuitConfig()), PeerHealth(SYSTEM_CLOCK), SYSTEM_CLOCK)
        chain = build_chain(
            tagging=TaggingInterceptor(f"peer-{number}"),
            caching=CachingInterceptor(self._cache.partition(f"peer-{number}"), SYSTEM_CLOCK, ScriptedSink()),
            breaking=breaking,
            propagation=PropagationInterceptor(lambda: self._cache.instance_id),
        )
        return Asker(f"peer-{number}", f"grant-{number}", "ada", compose(chain))

    def _fill(self, number: int) -> None:
        partition, grant_id = self._cache.partition(f"peer-{number}"), f"grant-{number}"
        for entry in range(self.entries):
            key = Key(grant_id, "list", "tasks", query_hash(serialize(_request(entry))))
            miss = partition.lookup(key, lambda _: False, lambda _: Flight(inf))
            assert not hasattr(miss, "body")
            partition.insert(miss.token, _BODY, _LONG_S)
            partition.remove_flight(miss.token, miss.flight)


class Growth:
    """Every size at once, so that each round sees all of them under the same load."""

    def __init__(self, powers_of_entries: int, powers_of_peers: int) -> None:
        self.by_entries = [Shelved(1, 10**power) for power in range(2, powers_of_entries + 1)]
        self.by_peers = [Shelved(10**power, 1) for power in range(powers_of_peers + 1)]

    def round(self, calls: int) -> None:
        """Measure every size, in random order."""
        sizes = [*self.by_entries, *self.by_peers]
        for shelved in random.sample(sizes, len(sizes)):
            shelved.measure(calls)


def _request(number: int) -> pb.ListRequest:
    return pb.ListRequest(resource="tasks", where={"number": str(number)}, page_size=ROWS)
