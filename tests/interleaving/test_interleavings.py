"""Every order of events around one peer's cache, with the real cache, flights, caching flow and run."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from federation.cache.response_cache import Partition
from federation.client.chain.flow import Flight
from tests.interleaving.explorer import Explored, explore
from tests.interleaving.mutants import (
    FlightsOutliveEpochs,
    FlightsStay,
    FlushForgetsEntries,
    HitsExtend,
    LifeFromReceipt,
    NoFence,
    NoLookAtDelivery,
    NoQuestionAfterAChange,
    NothingIsFinal,
)
from tests.interleaving.world import Scenario

EVERYTHING = Scenario(revoke=True, change=True, scope=True, cancel=True, rotate=True, cuts=False)
SCENARIOS = {
    "two callers, all events of a cache but time": EVERYTHING,
    "two callers, cut and not doomed": replace(EVERYTHING, scope=False, cuts=True),
    "two callers, revoked, changed and doomed, time": Scenario(
        revoke=True, change=True, cancel=True, cuts=False, ticks=2
    ),
    "two callers, armed again": Scenario(revoke=True, change=True, cancel=True, rearm=True),
    "three callers, revoked": Scenario(verbs=("list",) * 3, revoke=True, cancel=True, cuts=False),
    "three callers, changes": Scenario(verbs=("list",) * 3, change=True, scope=True),
    "four callers, time": Scenario(verbs=("list",) * 4, ticks=2),
    "searches beside lists": Scenario(verbs=("list", "search", "list"), revoke=True, scope=True, cuts=False),
    "an impatient leader": Scenario(verbs=("list",) * 3, deadlines=(10, 1e6, 30), revoke=True, cancel=True, ticks=2),
    "flights that run on": Scenario(deadlines=(30, 30), detach=True, revoke=True, cancel=True, ticks=3),
}
LONG = {
    "two callers, all events of a cache": replace(EVERYTHING, ticks=1, tick_s=31.0),
    "two callers, all events of a cache but time, cut": replace(EVERYTHING, cuts=True),
    "two callers, all events of a cache but time, armed again": replace(EVERYTHING, rearm=True),
    "three callers, all changes": Scenario(verbs=("list",) * 3, revoke=True, change=True, scope=True, rotate=True),
}


def holds(scenario: Scenario, record_property: Callable[[str, Any], None]) -> None:
    """Explore everything, and print what was seen."""
    result = explore(scenario, seconds=800)
    print(result)
    record_property("explored", str(result))
    assert not result.violation, str(result)
    assert result.exhaustive, str(result)


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
@pytest.mark.timeout(300)
def test_every_order_keeps_the_promises(scenario: Scenario, record_property: Callable[[str, Any], None]) -> None:
    """P1, P3, freshness and scope hold in every order of events; nobody sleeps and no flight is left."""
    holds(scenario, record_property)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("scenario", LONG.values(), ids=LONG)
def test_every_order_of_more_events_keeps_the_promises(
    scenario: Scenario, record_property: Callable[[str, Any], None]
) -> None:
    """The same with more events at once."""
    holds(scenario, record_property)


def test_merging_equal_states_skips_no_order() -> None:
    """The count of orders is the same whether equal states are merged or every order is walked by itself."""
    scenario = Scenario(revoke=True, cancel=True, ticks=1)
    merged, one_by_one = explore(scenario, cover=False), explore(scenario, merge=False)

    assert merged.orders == one_by_one.orders
    assert merged.states < one_by_one.states
    assert not one_by_one.violation


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(change=True, scope=True, rotate=True),
        Scenario(change=True, cancel=True, rotate=True, ticks=2),
        Scenario(revoke=True, change=True, rearm=True, cuts=False, ticks=1),
    ],
)
def test_what_is_covered_by_other_orders_reaches_nothing_new(scenario: Scenario) -> None:
    """Walking on from every state finds the same states, but for what is left to happen."""
    covered, full = explore(scenario), explore(scenario, cover=False)

    assert covered.digests == full.digests
    assert covered.covered > 0
    assert covered.known > 0
    assert covered.steps < full.steps


# -- the explorer finds what it is for


MUTANTS: dict[type[Partition[Flight]], tuple[Scenario, str]] = {
    NoFence: (Scenario(revoke=True, cuts=False), "an entry is left after the revocation"),
    NoLookAtDelivery: (Scenario(revoke=True, cuts=False), "after the revocation was acknowledged"),
    NoQuestionAfterAChange: (Scenario(scope=True), "a scope that was known to be over"),
    LifeFromReceipt: (Scenario(ticks=2), "P3: a hit was 40 s old"),
    FlightsOutliveEpochs: (Scenario(change=True), "freshness"),
    HitsExtend: (Scenario(verbs=("list",) * 3, ticks=2), "P3: a hit was 40 s old"),
    FlushForgetsEntries: (Scenario(change=True), "an entry is kept from before a change"),
    FlightsStay: (Scenario(), "never answered|flights are left"),
    NothingIsFinal: (Scenario(revoke=True, cuts=False), "P1"),
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_each_mutant_is_caught(mutant: type[Partition[Flight]]) -> None:
    """A cache with one rule broken violates a promise in some order, and the explorer names the order."""
    scenario, promise = MUTANTS[mutant]
    result: Explored = explore(Scenario(**{**vars(scenario), "partition": mutant}))
    print(result)

    assert promise.split("|")[0] in result.violation or promise.split("|")[-1] in result.violation, str(result)
    assert result.trace
