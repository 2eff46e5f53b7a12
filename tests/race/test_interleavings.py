"""Every order of events around one peer's cache, with the real cache, flights, caching flow and run."""

from collections.abc import Callable
from typing import Any

import pytest

from federation.cache import Cause, Flushed, Hit, Key, Miss, Partition, Ticket, Verdict
from federation.client.flight import Flight
from federation.shelf import Grant, Shelf
from tests.race.explorer import Explored, explore
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


class NoFence(Partition[Flight]):
    """Inserts whatever arrives, whenever it was asked for."""

    def _fenced(self, ticket: Ticket) -> Shelf[Flight] | None:
        return self._shelf(ticket.key)


class NoLookAtDelivery(Partition[Flight]):
    """Delivers whatever arrives."""

    def verdict(self, ticket: Ticket) -> Verdict:
        return Verdict.DELIVER


class NoQuestionAfterAChange(Partition[Flight]):
    """Knows revocation, but not that a scope has ended."""

    def verdict(self, ticket: Ticket) -> Verdict:
        found = super().verdict(ticket)
        return Verdict.DELIVER if found is Verdict.ASK_AGAIN else found


class LifeFromReceipt(Partition[Flight]):
    """Counts an answer's life from its arrival."""

    def insert(self, ticket: Ticket, body: bytes, lease_s: float, filled_by: str = "") -> bool:
        with self._lock:
            elapsed, wall = self._read()
        return super().insert(ticket._replace(elapsed=elapsed, wall=wall), body, lease_s, filled_by)


class FlightsOutliveEpochs(Partition[Flight]):
    """Keys flights by the query alone: a flush leaves them where the next caller finds them."""

    def flush(self, cause: Cause, grant_id: str = "", resource: str = "") -> Flushed[Flight]:
        with self._lock:
            kept = {key: flight for shelf in self._shelves() for key, flight in shelf.flights.items()}
        flushed = super().flush(cause, grant_id, resource)
        with self._lock:
            for key, flight in kept.items():
                self._shelf(key).flights.setdefault(key, flight)
        return flushed


class HitsExtend(Partition[Flight]):
    """Gives an entry a new life with every hit."""

    def look(self, key: Key, join: Callable[[Flight], bool], launch: Callable[[Ticket], Flight]) -> Hit | Miss[Flight]:
        found = super().look(key, join, launch)
        if isinstance(found, Hit):
            with self._lock:
                elapsed, wall = self._read()
                shelf = self._shelf(key)
                shelf._entries[key] = shelf._entries[key]._replace(elapsed=elapsed, wall=wall)
        return found


class FlushForgetsEntries(Partition[Flight]):
    """Moves the epoch but leaves what was kept."""

    def flush(self, cause: Cause, grant_id: str = "", resource: str = "") -> Flushed[Flight]:
        with self._lock:
            kept = [(key, entry) for shelf in self._shelves() for key, entry in shelf._entries.items()]
        flushed = super().flush(cause, grant_id, resource)
        with self._lock:
            for key, entry in kept:
                self._shelf(key).keep(key, entry)
        return flushed


class FlightsStay(Partition[Flight]):
    """Never lets a flight go from the register."""

    def forget(self, ticket: Ticket, flight: Flight) -> None:
        """Forget nothing."""


class NothingIsFinal(Partition[Flight]):
    """Forgets a revocation as soon as it has flushed."""

    def flush(self, cause: Cause, grant_id: str = "", resource: str = "") -> Flushed[Flight]:
        flushed = super().flush(cause, grant_id, resource)
        with self._lock:
            self._grants[grant_id or next(iter(self._grants), "")] = Grant()
        return flushed


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
