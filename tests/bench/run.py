"""One interleaved run: each round has one block of each variant, in random order, so that all share the same load."""

import gc
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tests.bench.breaker import ClosedBreaker
from tests.bench.clients import Clients
from tests.bench.growth import Growth
from tests.bench.many_peers import PEERS, ManyPeers
from tests.bench.samples import Samples
from tests.bench.sessions import SessionTimes
from tests.bench.shared_calls import SharedCalls
from tests.bench.status import StatusTimes
from tests.bench.variants import BlockSizes, InvalidBlockError, Variant, variants


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured. `entries` and `peers` are powers of ten: the largest sizes."""

    rounds: int
    calls: BlockSizes
    loops: int
    growth_rounds: int
    growth_calls: int
    entries: int
    peers: int
    session_rounds: int
    session_calls: int
    many_peers_rounds: int
    many_peers_count: int
    status_rounds: int
    status_peers: int


DEFAULT: Final = Plan(
    rounds=30,
    calls=BlockSizes(live=100, quick=400),
    loops=2_000,
    growth_rounds=30,
    growth_calls=400,
    entries=6,
    peers=3,
    session_rounds=30,
    session_calls=10,
    many_peers_rounds=5,
    many_peers_count=PEERS,
    status_rounds=10,
    status_peers=1_000,
)
QUICK: Final = Plan(
    rounds=3,
    calls=BlockSizes(live=20, quick=50),
    loops=200,
    growth_rounds=3,
    growth_calls=50,
    entries=3,
    peers=2,
    session_rounds=3,
    session_calls=3,
    many_peers_rounds=1,
    many_peers_count=20,
    status_rounds=1,
    status_peers=20,
)


@dataclass(frozen=True)
class Run:
    """The results of a run."""

    plan: Plan
    rows: dict[str, tuple[Variant, Samples]]
    breaker: ClosedBreaker
    shared_calls: SharedCalls
    growth: Growth
    sessions: SessionTimes
    many_peers: ManyPeers
    status: StatusTimes
    took_s: float

    def __getitem__(self, name: str) -> Samples:
        return self.rows[name][1]


def measure(plan: Plan, progress: Callable[[str, int, int], None]) -> Run:
    """Make a complete run. `progress` is called with the part, the completed rounds and their total."""
    begun = time.monotonic()
    rows = {variant.name: (variant, Samples()) for variant in variants(plan.calls)}
    breaker, shared_calls = ClosedBreaker(plan.loops), SharedCalls()
    with Clients.open() as clients:
        for variant, _ in rows.values():
            with suppress(InvalidBlockError):
                variant.measure(clients, Samples())
        for number in range(plan.rounds):
            progress("calls", number, plan.rounds)
            _round(clients, list(rows.values()), breaker, shared_calls)
        progress("calls", plan.rounds, plan.rounds)
    progress("filling", 0, plan.growth_rounds)
    growth = Growth(plan.entries, plan.peers)
    gc.collect()
    for number in range(plan.growth_rounds):
        progress("growth", number, plan.growth_rounds)
        growth.round(plan.growth_calls)
    progress("growth", plan.growth_rounds, plan.growth_rounds)
    sessions, many_peers = _sessions(plan, progress), _many_peers(plan, progress)
    status = _status(plan, progress)
    return Run(plan, rows, breaker, shared_calls, growth, sessions, many_peers, status, time.monotonic() - begun)


def _sessions(plan: Plan, progress: Callable[[str, int, int], None]) -> SessionTimes:
    progress("sessions", 0, plan.session_rounds)
    with SessionTimes(plan.session_calls) as sessions:
        for number in range(plan.session_rounds):
            gc.collect()
            sessions.round()
            progress("sessions", number + 1, plan.session_rounds)
    return sessions


def _many_peers(plan: Plan, progress: Callable[[str, int, int], None]) -> ManyPeers:
    progress("many peers", 0, plan.many_peers_rounds)
    many_peers = ManyPeers(plan.many_peers_count)
    for number in range(plan.many_peers_rounds):
        many_peers.round()
        progress("many peers", number + 1, plan.many_peers_rounds)
    return many_peers


def _status(plan: Plan, progress: Callable[[str, int, int], None]) -> StatusTimes:
    progress("status", 0, plan.status_rounds)
    with StatusTimes(plan.status_peers) as status:
        for number in range(plan.status_rounds):
            status.round()
            progress("status", number + 1, plan.status_rounds)
    return status


def _round(
    clients: Clients, rows: list[tuple[Variant, Samples]], breaker: ClosedBreaker, shared_calls: SharedCalls
) -> None:
    for variant, samples in random.sample(rows, len(rows)):
        gc.collect()
        variant.measure(clients, samples)
    breaker.round()
    shared_calls.round(clients)
