"""Every order of events around one peer's cache, with the real cache, flights, caching flow and run."""

from collections.abc import Callable
from typing import Any

import pytest

from federation.cache import Partition
from federation.client.flight import Flight
from tests.race.explorer import Explored, explore
from tests.race.mutants import (
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
from tests.race.world import Scenario

EVERYTHING = {"revoke": True, "change": True, "scope": True, "cancel": True, "cuts": False}
SCENARIOS = {
    "two callers, every event of the peer": Scenario(**EVERYTHING),
    "two callers, revoked and cut": Scenario(revoke=True, change=True, cancel=True, ticks=2),
    "two callers, revoked, changed and doomed": Scenario(revoke=True, change=True, cancel=True, cuts=False, ticks=2),
    "two callers, another scope": Scenario(scope=True, change=True, cancel=True, ticks=1),
    "two callers, rotation": Scenario(revoke=True, rotate=True, cancel=True, cuts=False, ticks=2),
    "three callers, revoked": Scenario(verbs=("list",) * 3, revoke=True, cancel=True, cuts=False),
    "three callers, changes": Scenario(verbs=("list",) * 3, change=True, scope=True),
    "four callers, time": Scenario(verbs=("list",) * 4, ticks=2),
    "searches beside lists": Scenario(verbs=("list", "search", "list"), revoke=True, scope=True, cuts=False),
    "an impatient leader": Scenario(verbs=("list",) * 3, deadlines=(10, 1e6, 30), revoke=True, cancel=True, ticks=2),
    "flights that run on": Scenario(deadlines=(30, 30), detach=True, revoke=True, cancel=True, ticks=3),
    "two callers, every event and the end of every life": pytest.param(
        Scenario(**EVERYTHING, ticks=2), marks=[pytest.mark.long, pytest.mark.timeout(1800)]
    ),
}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
@pytest.mark.timeout(300)
def test_every_order_keeps_the_promises(scenario: Scenario, record_property: Callable[[str, Any], None]) -> None:
    """P1, P3, freshness and scope hold in every order of events; nobody sleeps and no flight is left."""
    result = explore(scenario, seconds=1500)
    print(result)
    record_property("explored", str(result))

    assert not result.violation, str(result)
    assert result.exhaustive, str(result)


def test_merging_equal_states_skips_no_order() -> None:
    """The count of orders is the same whether equal states are merged or every order is walked by itself."""
    scenario = Scenario(revoke=True, cancel=True, ticks=1)
    merged, one_by_one = explore(scenario), explore(scenario, merge=False)

    assert merged.orders == one_by_one.orders
    assert merged.states < one_by_one.states
    assert not one_by_one.violation


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
