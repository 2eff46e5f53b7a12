"""Explores every order of events: a depth-first search over a world that can only run forward.

Generators cannot be copied, so a branch is reached by replaying its events in a new world. Two orders that lead to the
same state (`digest`) have the same future, so that future is explored once. A state with fewer spontaneous events left
(`budget`) can do nothing that the same state with more left cannot, so it is covered by that state. If two events
commute (`apart`), the second order leads to the same state as the first. The number of orders is counted afterwards on
the graph of states.
"""

import gc
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol


class Violation(AssertionError):  # noqa: N818 - the name says what it is
    """A promise was broken in some order."""


class World(Protocol):
    """An explored world. It is deterministic: the same events in the same order lead to the same state."""

    def enabled(self) -> Sequence[str]:
        """Return the events that may happen now. Each happens finitely often; the world ends when this is empty."""
        ...

    def do(self, event: str, *, again: bool = False) -> None:
        """Apply an event. Raise `Violation` if a promise is broken; a replay (`again`) needs no check."""
        ...

    def finish(self) -> None:
        """Check what must hold when no event is possible any more."""
        ...

    def digest(self) -> Hashable:
        """Return the state that decides on later events and violations, without `budget`."""
        ...

    def budget(self) -> tuple[int, ...]:
        """Return how often each spontaneous event may still happen. None has to happen."""
        ...

    def names(self) -> Hashable:
        """Return the meaning of event names: if two equal states agree in it, equal names mean the same event."""
        ...

    def apart(self, one: str, other: str) -> bool:
        """Tell whether two events lead to the same state in either order, and break nothing in only one of them."""
        ...


@dataclass
class Explored:
    """The result of a search: distinct states, complete orders of events, and applied events.

    `covered` states were not explored further, because the same state with a larger budget was; orders that end there
    count as one each. `known` counts the events whose next state was known from another order. `digests` counts states
    without their budgets. `seconds` is CPU time.
    """

    orders: int = 0
    states: int = 0
    covered: int = 0
    digests: int = 0
    steps: int = 0
    known: int = 0
    seconds: float = 0.0
    exhaustive: bool = True
    violation: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        how = "all orders" if self.exhaustive else "not exhaustive"
        found = f"; BROKEN after {' -> '.join(self.trace)}: {self.violation}" if self.violation else ""
        return (
            f"{self.states:,} states ({self.covered:,} covered), {self.orders:,} orders, {self.steps:,} steps, "
            f"{self.seconds:.1f} s, {how}{found}"
        )


@dataclass
class _State:
    """A state, with the first path to it. `children` has the number of the next state by event."""

    path: tuple[str, ...]
    parent: int
    names: Hashable
    children: dict[str, int] = field(default_factory=dict)
    alike: dict[str, bool] = field(default_factory=dict)
    """Whether the child was first found by a path on which events have the same names as on this path."""


@dataclass
class _Search:
    make: Callable[[], World]
    merge: bool
    cover: bool
    until: float
    seen: dict[Hashable, list[tuple[tuple[int, ...], int]]] = field(default_factory=dict)
    states: list[_State] = field(default_factory=list)
    covered: int = 0
    steps: int = 0
    known: int = 0

    def arrive(self, world: World, parent: int, path: tuple[str, ...]) -> tuple[int, bool]:
        """Return the number of the world's state, and whether it must be explored further."""
        digest: Hashable = world.digest() if self.merge else len(self.states)
        budget, names = world.budget(), world.names()
        like = self.seen.setdefault(digest, [])
        number = next((number for known, number in like if known == budget), None)
        walked = number is None
        if number is None:
            number = len(self.states)
            if self.cover and any(_covers(known, budget) for known, _ in like):
                self.covered, walked = self.covered + 1, False
            like.append((budget, number))
            self.states.append(_State(path, parent, names))
        if path:
            self._link(parent, path[-1], number, alike=self.states[number].names == names)
        return number, walked

    def is_known(self, world: World, number: int, event: str) -> bool:
        """Take the next state of an event from the order in which it came before the last event, if known."""
        state = self.states[number]
        if not self.cover or not state.path:
            return False
        before, last = self.states[state.parent], state.path[-1]
        if not before.alike.get(event) or not world.apart(event, last):
            return False
        aside = self.states[before.children[event]]
        if last not in aside.children:
            return False
        self._link(number, event, aside.children[last], alike=aside.alike[last])
        self.known += 1
        return True

    def _link(self, parent: int, event: str, child: int, *, alike: bool) -> None:
        self.states[parent].children[event] = child
        self.states[parent].alike[event] = alike

    def replay(self, path: tuple[str, ...]) -> World:
        world = self.make()
        for event in path:
            world.do(event, again=True)
        self.steps += len(path)
        return world

    def orders(self) -> int:
        """Count the paths from the first state to any end."""
        counts: dict[int, int] = {}
        stack = [0]
        while stack:
            children = self.states[stack[-1]].children.values()
            missing = [child for child in children if child not in counts]
            if missing:
                stack += missing
                continue
            counts[stack.pop()] = sum(counts[child] for child in children) or 1
        return counts[0]


def _covers(known: tuple[int, ...], budget: tuple[int, ...]) -> bool:
    return all(more >= less for more, less in zip(known, budget, strict=True))


def explore(make: Callable[[], World], *, merge: bool = True, cover: bool = True, seconds: float = 120.0) -> Explored:
    """Explore every order of events until a promise is broken, all are explored, or time is up."""
    begun = time.process_time()
    search = _Search(make, merge, merge and cover, time.monotonic() + seconds)
    result = Explored()
    path: tuple[str, ...] = ()
    pending: list[tuple[int, str]] = []

    def expand(world: World, number: int) -> str:
        """Return the first event whose next state is not known, and defer the others."""
        events = world.enabled()
        if not events:
            world.finish()
        events = [event for event in events if not search.is_known(world, number, event)]
        pending.extend((number, event) for event in reversed(events[1:]))
        return events[0] if events else ""

    thresholds = gc.get_threshold()
    gc.set_threshold(thresholds[0], thresholds[1], 100)  # results are kept, and collecting them is slow
    try:
        world = make()
        number, _ = search.arrive(world, 0, ())
        event = expand(world, number)
        while True:
            while event:
                path = (*search.states[number].path, event)
                world.do(event)
                search.steps += 1
                number, walked = search.arrive(world, number, path)
                event = expand(world, number) if walked else ""
            if not pending:
                break
            if time.monotonic() > search.until:
                result.exhaustive = False
                break
            number, event = pending.pop()
            if search.is_known(world, number, event):
                event = ""
            else:
                world = search.replay(search.states[number].path)
    except Violation as broken:
        result.violation, result.trace, result.exhaustive = str(broken), path, False
    finally:
        gc.set_threshold(*thresholds)
    result.covered, result.steps, result.known = search.covered, search.steps, search.known
    result.states, result.digests = len(search.states), len(search.seen)
    result.orders = search.orders()
    result.seconds = time.process_time() - begun
    return result
