"""One interleaved run: in every round each variant has its block, in random order, so that all see the same machine."""

import gc
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tests.bench.breaker import ClosedBreaker
from tests.bench.crowd import CROWD, Crowd
from tests.bench.growth import Growth
from tests.bench.samples import Samples
from tests.bench.sessions import SessionTimes
from tests.bench.sharing import Sharing
from tests.bench.status import StatusTimes
from tests.bench.variants import Calls, Variant, VoidError, variants
from tests.bench.world import World


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured. The powers are of ten: the largest numbers of entries and of peers."""

    rounds: int
    calls: Calls
    loops: int
    growth_rounds: int
    growth_calls: int
    entries: int
    peers: int
    session_rounds: int
    session_calls: int
    crowd_rounds: int
    crowd_peers: int
    status_rounds: int
    status_peers: int


DEFAULT: Final = Plan(
    rounds=30,
    calls=Calls(live=100, quick=400),
    loops=2_000,
    growth_rounds=30,
    growth_calls=400,
    entries=6,
    peers=3,
    session_rounds=30,
    session_calls=10,
    crowd_rounds=5,
    crowd_peers=CROWD,
    status_rounds=10,
    status_peers=1_000,
)
QUICK: Final = Plan(
    rounds=3,
    calls=Calls(live=20, quick=50),
    loops=200,
    growth_rounds=3,
    growth_calls=50,
    entries=3,
    peers=2,
    session_rounds=3,
    session_calls=3,
    crowd_rounds=1,
    crowd_peers=20,
    status_rounds=1,
    status_peers=20,
)


@dataclass(frozen=True)
class Run:
    """What was measured."""

    plan: Plan
    rows: dict[str, tuple[Variant, Samples]]
    breaker: ClosedBreaker
    sharing: Sharing
    growth: Growth
    sessions: SessionTimes
    crowd: Crowd
    status: StatusTimes
    took_s: float

    def __getitem__(self, name: str) -> Samples:
        return self.rows[name][1]


def measure(plan: Plan, progress: Callable[[str, int, int], None]) -> Run:
    """Do a whole run. `progress` is told the part, how far it is, and how far it goes."""
    begun = time.monotonic()
    rows = {variant.name: (variant, Samples()) for variant in variants(plan.calls)}
    breaker, sharing = ClosedBreaker(plan.loops), Sharing()
    with World.open() as world:
        for variant, _ in rows.values():
            with suppress(VoidError):
                variant.measure(world, Samples())
        for number in range(plan.rounds):
            progress("calls", number, plan.rounds)
            _round(world, list(rows.values()), breaker, sharing)
        progress("calls", plan.rounds, plan.rounds)
    progress("filling", 0, plan.growth_rounds)
    growth = Growth(plan.entries, plan.peers)
    gc.collect()
    for number in range(plan.growth_rounds):
        progress("growth", number, plan.growth_rounds)
        growth.round(plan.growth_calls)
    progress("growth", plan.growth_rounds, plan.growth_rounds)
    sessions, crowd = _sessions(plan, progress), _crowd(plan, progress)
    status = _status(plan, progress)
    return Run(plan, rows, breaker, sharing, growth, sessions, crowd, status, time.monotonic() - begun)


def _sessions(plan: Plan, progress: Callable[[str, int, int], None]) -> SessionTimes:
    progress("sessions", 0, plan.session_rounds)
    with SessionTimes(plan.session_calls) as sessions:
        for number in range(plan.session_rounds):
            gc.collect()
            sessions.round()
            progress("sessions", number + 1, plan.session_rounds)
    return sessions


def _crowd(plan: Plan, progress: Callable[[str, int, int], None]) -> Crowd:
    progress("crowd", 0, plan.crowd_rounds)
    crowd = Crowd(plan.crowd_peers)
    for number in range(plan.crowd_rounds):
        crowd.round()
        progress("crowd", number + 1, plan.crowd_rounds)
    return crowd


def _status(plan: Plan, progress: Callable[[str, int, int], None]) -> StatusTimes:
    progress("status", 0, plan.status_rounds)
    with StatusTimes(plan.status_peers) as status:
        for number in range(plan.status_rounds):
            status.round()
            progress("status", number + 1, plan.status_rounds)
    return status


def _round(world: World, rows: list[tuple[Variant, Samples]], breaker: ClosedBreaker, sharing: Sharing) -> None:
    for variant, samples in random.sample(rows, len(rows)):
        gc.collect()
        variant.measure(world, samples)
    breaker.round()
    sharing.round(world)
