"""Every order in which events can happen: a depth-first search over a world that can only be run forward.

Generators can't be copied, so a branch is reached by doing its events anew in a fresh world. Two orders that lead to
the same state (`digest`) have the same future, so that future is walked once. A state with less left to happen
(`budget`) can do nothing that the same state with more left cannot, so where that one was seen, this one is covered.
Where two events do not touch each other (`apart`), the second way round leads to where the first one led. How many
orders were walked is counted afterwards on the graph of states.
"""

import gc
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol


class Violation(AssertionError):  # noqa: N818 - it reads as what it is
    """A promise was broken in some order."""


class World(Protocol):
    """What is explored. It is deterministic: the same events in the same order make the same world."""

    def enabled(self) -> Sequence[str]:
        """Return what may happen now. Each event happens finitely often; the world ends when this is empty."""
        ...

    def do(self, event: str, *, again: bool = False) -> None:
        """Let it happen. Raise `Violation` if that breaks a promise, which needs no check when it is done `again`."""
        ...

    def finish(self) -> None:
        """Check what must hold when nothing can happen any more."""
        ...

    def digest(self) -> Hashable:
        """Return all of the state that bears on what may still happen and on what may still be broken, but `budget`."""
        ...

    def budget(self) -> tuple[int, ...]:
        """Return how often each event of its own accord may still happen. None of them ever has to."""
        ...

    def names(self) -> Hashable:
        """Return which event names what: where two equal states agree in this, equal names mean the same."""
        ...

    def apart(self, one: str, other: str) -> bool:
        """Tell whether two events lead to the same state in either order, and break nothing in only one of them."""
        ...


@dataclass
class Explored:
    """What a search saw: distinct states, complete orders of events, and events done.

    `covered` of the states were not walked on from, because the same with more left to happen was; orders that end
    there count as one each. `known` counts the events whose end was known from another order. `digests` counts states
    without regard to what is left to happen. `seconds` are the processor's.
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
    """One state, by the path that found it first. `children` has the state that each event led to, by number."""

    path: tuple[str, ...]
    parent: int
    names: Hashable
    children: dict[str, int] = field(default_factory=dict)
    alike: dict[str, bool] = field(default_factory=dict)
    """Whether the child was found first by a path on which events have the same names as on this one."""


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
        """Return the number of the world's state, and whether its future is to be walked."""
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
        """Find out where an event leads from the order in which it came before the one that led here."""
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
    """Walk every order of events until a promise breaks, or all are walked, or time is up."""
    begun = time.process_time()
    search = _Search(make, merge, merge and cover, time.monotonic() + seconds)
    result = Explored()
    path: tuple[str, ...] = ()
    pending: list[tuple[int, str]] = []

    def expand(world: World, number: int) -> str:
        """Put off all events but the first whose end is not known; return that one."""
        events = world.enabled()
        if not events:
            world.finish()
        events = [event for event in events if not search.is_known(world, number, event)]
        pending.extend((number, event) for event in reversed(events[1:]))
        return events[0] if events else ""

    thresholds = gc.get_threshold()
    gc.set_threshold(thresholds[0], thresholds[1], 100)  # what is found is kept, and looking at it is slow
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
