"""Explores every order of events between a granting gateway and the caches that hold its answers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.interleaving.explorer import explore
from tests.interleaving.mutants import (
    AcksAtOnce,
    FlightsOutliveEpochs,
    FlightsStay,
    FlushKeepsEntries,
    HitsExtend,
    LateLeases,
    LeasesForgottenAtRestart,
    LeasesWithoutMargin,
    LifeFromArrival,
    NoCheckAtDelivery,
    NoFence,
    NoFlushWhenRearmed,
    NoRetryAfterAChange,
    WatchersNotAwaited,
    notify_before_refusing,
)
from tests.interleaving.protocol_world import Protocol, ProtocolWorld

# Coverage would double the time of the explorations, and the packages' own tests cover the same code.
pytestmark = pytest.mark.no_cover

LIST, LIST_B, SEARCH = (0, "list"), (1, "list"), (0, "search")
TWO_CACHES = (("a", "g1"), ("b", "g1"))
TWO_GRANTS = (("a", "g1"), ("a", "g2"))
ALL = Protocol(cuts=1, arms=1, changes=1, cancel=True, rotate=True, ticks=(34,))
SCENARIOS = {
    "two callers, all events but time": Protocol(cuts=1, changes=1, cancel=True, rotate=True),
    "three callers, revoked, rows change, acknowledgement lost": Protocol(calls=(LIST,) * 3, cuts=1, changes=1),
    "three callers, narrowed, rows change": Protocol(calls=(LIST,) * 3, acts=("narrow",), changes=1),
    "calls that block, narrowed, rows change, certificate rotated": Protocol(
        acts=("narrow",), blocking=True, changes=1, rotate=True
    ),
    "two callers, narrowed, then revoked, acknowledgement lost": Protocol(acts=("narrow", "revoke"), cuts=1),
    "narrowed, the watch cut": Protocol(acts=("narrow",), cuts=1),
    "revoked while a call blocks": Protocol(blocking=True, cuts=1, changes=1),
    "rows change while the watch is cut": Protocol(acts=(), cuts=1, arms=1, changes=1),
    "never watched": Protocol(armed=False, ticks=(29, 5)),
    "a slow clock": Protocol(cuts=1, ticks=(31, 1, 1.5), rate=0.95),
    "a fast clock": Protocol(cuts=1, ticks=(28, 1, 5), rate=1.05),
    "B killed in the middle": Protocol(crash=True, ticks=(29, 5)),
    "three callers, cancelled": Protocol(calls=(LIST,) * 3, cancel=True),
    "two caches of one grant": Protocol(sides=TWO_CACHES, calls=(LIST, LIST_B), ticks=(34,)),
    "two grants in one cache": Protocol(sides=TWO_GRANTS, calls=(LIST, LIST_B, LIST), cuts=1),
    "a search beside a list": Protocol(calls=(LIST, SEARCH), cuts=1, arms=1),
    "a search beside lists, calls that block": Protocol(calls=(LIST, SEARCH, LIST), acts=("narrow",), blocking=True),
    "four callers, never watched": Protocol(calls=(LIST,) * 4, armed=False, ticks=(20, 14)),
    "an impatient leader": Protocol(calls=(LIST,) * 3, deadlines=(10, 1e6, 30), cancel=True, ticks=(20, 12)),
    "flights that continue without callers": Protocol(deadlines=(15, 15), detach=True, cancel=True, ticks=(14, 14, 6)),
    "calls that outlast the lease": Protocol(deadlines=(60, 60), late=True, cancel=True, ticks=(16, 18)),
    "flights that outlast the lease": Protocol(
        deadlines=(30, 30), detach=True, late=True, cancel=True, ticks=(16, 16, 2)
    ),
}
LONG = {
    "two callers, all events": ALL,
    "three callers, revoked, rows change, acknowledgement lost, armed again": Protocol(
        calls=(LIST,) * 3, cuts=1, arms=1, changes=1
    ),
    "two callers, narrowed, rows change, cancelled, certificate rotated": Protocol(
        acts=("narrow",), changes=1, cancel=True, rotate=True
    ),
    "calls that block, narrowed, then revoked, rows change": Protocol(
        acts=("narrow", "revoke"), blocking=True, changes=1
    ),
    "two callers, all events, narrowed": replace(ALL, acts=("narrow",)),
    "two callers, narrowed, then revoked, armed again, until the lease ends": Protocol(
        acts=("narrow", "revoke"), cuts=1, arms=1, ticks=(34,)
    ),
    "three callers, all that cuts": Protocol(calls=(LIST,) * 3, cuts=1, arms=1, cancel=True),
    "two cuts": Protocol(cuts=2, arms=2),
    "a slow clock, armed again": Protocol(cuts=1, arms=1, ticks=(31, 1, 1.5), rate=0.95),
    "armed late, rows change": Protocol(armed=False, arms=1, ticks=(29, 5), changes=1),
    "two caches, cut": Protocol(sides=TWO_CACHES, calls=(LIST, LIST_B), cuts=1, ticks=(34,)),
    "B killed in the middle, armed again": Protocol(crash=True, ticks=(29, 5), arms=1),
    "calls that block, armed again": Protocol(blocking=True, cuts=1, arms=1, changes=1),
}


def holds(protocol: Protocol, record_property: Callable[[str, Any], None]) -> None:
    """Explore everything, and print what was seen."""
    result = explore(protocol, seconds=800)
    print(result)
    record_property("explored", str(result))
    assert not result.violation, str(result)
    assert result.exhaustive, str(result)


def ends(protocol: Protocol) -> set[tuple[Any, ...]]:
    """The answers of the callers, in every order explored."""
    found = set()

    class Ending(ProtocolWorld):
        def finish(self) -> None:
            super().finish()
            outcomes = (caller.run.outcome if caller.run else None for caller in self.callers)
            found.add(tuple((o.code, o.body, o.cached) if o else None for o in outcomes))

    result = explore(lambda: Ending(protocol), merge=False)
    print(result, len(found))
    assert result.exhaustive
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("protocol", SCENARIOS.values(), ids=SCENARIOS)
async def test_every_order_keeps_the_promises(protocol: Protocol, record_property: Callable[[str, Any], None]) -> None:
    """P1, P2, P3, scopes and changes hold in every order of the events of both sides, without real waiting."""
    holds(protocol, record_property)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("protocol", LONG.values(), ids=LONG)
async def test_every_order_of_more_events_keeps_the_promises(
    protocol: Protocol, record_property: Callable[[str, Any], None]
) -> None:
    """The same with more events at once."""
    holds(protocol, record_property)


@pytest.mark.long
async def test_merging_equal_states_skips_no_order() -> None:
    """The count of orders is the same whether equal states are merged or every order is walked by itself."""
    protocol = Protocol(calls=(LIST,), cuts=1, ticks=(34,))
    merged, one_by_one = explore(protocol, cover=False), explore(protocol, merge=False)
    assert merged.orders == one_by_one.orders
    assert merged.states < one_by_one.states
    assert not one_by_one.violation


@pytest.mark.long
@pytest.mark.parametrize(
    "protocol",
    [
        Protocol(calls=(LIST,), cuts=1),
        Protocol(calls=(LIST,), changes=1, cancel=True),
        Protocol(calls=(LIST,), acts=("narrow",), cuts=1),
        Protocol(calls=(LIST, LIST), armed=False, ticks=(34,)),
    ],
)
async def test_what_is_left_out_shows_callers_nothing_else(protocol: Protocol) -> None:
    """The explored orders give callers every result that the omitted orders give."""
    assert ends(protocol) == ends(replace(protocol, whole=True))


@pytest.mark.long
@pytest.mark.parametrize(
    "protocol",
    [
        Protocol(cuts=1, arms=1, rotate=True),
        Protocol(changes=1, cancel=True, ticks=(34,)),
        Protocol(acts=("narrow",), rotate=True, ticks=(34,)),
        Protocol(calls=(LIST,), crash=True, cuts=1, arms=1, ticks=(34,)),
    ],
)
async def test_what_is_covered_by_other_orders_reaches_nothing_new(protocol: Protocol) -> None:
    """Exploring also the covered states finds the same states, apart from their budgets."""
    covered, full = explore(protocol), explore(protocol, cover=False)
    assert covered.digests == full.digests
    assert covered.covered > 0
    assert covered.known > 0
    assert covered.steps < full.steps


MUTANTS = {
    "no fence on insert": (Protocol(blocking=True, partition=NoFence), "an entry is left at a gateway that knew"),
    "no look at delivery": (
        Protocol(acts=("narrow",), blocking=True, partition=NoCheckAtDelivery),
        "scope: rows of a scope",
    ),
    "a life from the receipt": (
        Protocol(armed=False, ticks=(5, 27, 2), partition=LifeFromArrival),
        "P1: an entry outlives the receipt",
    ),
    "a hit gives a new life": (
        Protocol(calls=(LIST,) * 3, armed=False, ticks=(20, 14), partition=HitsExtend),
        "P1: an entry outlives the receipt",
    ),
    "a lease recorded after its answer left": (Protocol(table=LateLeases, armed=False), "P1: an entry outlives"),
    "notified before refused": (
        Protocol(acts=("narrow",), steps=notify_before_refusing),
        "scope: rows of a scope",
    ),
    "no new epoch when armed again": (
        Protocol(acts=(), cuts=1, arms=1, changes=1, handler=NoFlushWhenRearmed),
        "an entry is kept from before a change",
    ),
    "flights of any epoch": (Protocol(acts=(), changes=1, partition=FlightsOutliveEpochs), "changes"),
    "no question after a change of scope": (
        Protocol(acts=("narrow",), partition=NoRetryAfterAChange),
        "scope: rows of a scope",
    ),
    "a flush forgets no entry": (
        Protocol(acts=(), changes=1, partition=FlushKeepsEntries),
        "an entry is kept from before a change",
    ),
    "flights stay registered": (Protocol(acts=(), partition=FlightsStay), "flights are left"),
    "one id for two caches": (
        Protocol(sides=TWO_CACHES, calls=(LIST, LIST_B), cuts=1, one_id=True),
        "P1: an entry outlives the receipt",
    ),
    "acknowledged without a flush": (Protocol(handler=AcksAtOnce), "P1"),
    "a lease without a margin": (
        Protocol(armed=False, ticks=(31,), rate=0.95, table=LeasesWithoutMargin),
        "P1: an entry outlives the receipt",
    ),
    "leases forgotten at a restart": (Protocol(crash=True, table=LeasesForgottenAtRestart), "P1: an entry outlives"),
    "watchers without a lease not awaited": (
        Protocol(calls=(SEARCH,), table=WatchersNotAwaited),
        "P1: rows were delivered after the receipt",
    ),
}


LIMITS = {
    "a call with a deadline of twice the lease": Protocol(deadlines=(60, 60), ticks=(34,)),
    "a shared call that continues for twice a deadline of one lease": Protocol(
        deadlines=(30, 30), detach=True, ticks=(16, 16, 2)
    ),
}


@pytest.mark.parametrize("protocol", LIMITS.values(), ids=LIMITS)
async def test_a_call_under_way_that_outlasts_the_lease_may_deliver_after_the_receipt(protocol: Protocol) -> None:
    """The documented limit: such a call began before the receipt, and no watch event has reached its gateway."""
    result = explore(protocol)
    assert result.violation == "P1: rows were delivered after the receipt", str(result)


@pytest.mark.parametrize(("protocol", "promise"), MUTANTS.values(), ids=MUTANTS)
async def test_each_mutant_is_caught(protocol: Protocol, promise: str) -> None:
    """A protocol with one rule broken violates a promise in some order, and the explorer names the order."""
    result = explore(protocol)
    print(result)
    assert promise in result.violation, str(result)
    assert result.trace
