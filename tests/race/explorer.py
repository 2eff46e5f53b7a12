"""Every order in which events can happen: a depth-first search over a world that can only be run forward.

Generators can't be copied, so a branch is reached by doing its events anew in a fresh world. Two orders that lead to
the same state (`digest`) have the same future, so that future is walked once; how many orders it stands for is
counted afterwards on the graph of states.
"""

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
        """Return all of the state that bears on what may still happen and on what may still be broken."""
        ...


@dataclass
class Explored:
    """What a search saw. `orders` counts complete interleavings, `states` distinct states, `steps` events done."""

    orders: int = 0
    states: int = 0
    steps: int = 0
    seconds: float = 0.0
    exhaustive: bool = True
    violation: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        how = "all orders" if self.exhaustive else "not exhaustive"
        found = f"; BROKEN after {' -> '.join(self.trace)}: {self.violation}" if self.violation else ""
        return (
            f"{self.states:,} states, {self.orders:,} orders, {self.steps:,} steps, {self.seconds:.1f} s, {how}{found}"
        )


@dataclass
class _Search:
    make: Callable[[], World]
    merge: bool
    until: float
    seen: dict[Hashable, int] = field(default_factory=dict)
    children: list[list[int]] = field(default_factory=list)
    steps: int = 0

    def number(self, world: World) -> tuple[int, bool]:
        """Return the number of the world's state, and whether it is new."""
        digest: Hashable = world.digest() if self.merge else len(self.children)
        known = self.seen.get(digest)
        if known is not None:
            return known, False
        self.seen[digest] = len(self.children)
        self.children.append([])
        return len(self.children) - 1, True

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
            state = stack[-1]
            missing = [child for child in self.children[state] if child not in counts]
            if missing:
                stack += missing
                continue
            counts[state] = sum(counts[child] for child in self.children[state]) or 1
            stack.pop()
        return counts[0]


def explore(make: Callable[[], World], *, merge: bool = True, seconds: float = 120.0) -> Explored:
    """Walk every order of events until a promise breaks, or all are walked, or time is up."""
    begun = time.monotonic()
    search = _Search(make, merge, begun + seconds)
    root, _ = search.number(make())
    path: tuple[str, ...] = ()
    result = Explored()
    pending: list[tuple[int, tuple[str, ...]]] = [(root, (event,)) for event in reversed(make().enabled())]
    try:
        while pending:
            if time.monotonic() > search.until:
                result.exhaustive = False
                break
            parent, path = pending.pop()
            world = search.replay(path[:-1])
            while True:
                world.do(path[-1])
                search.steps += 1
                state, is_new = search.number(world)
                search.children[parent].append(state)
                if not is_new:
                    break
                events = world.enabled()
                if not events:
                    world.finish()
                    break
                pending += [(state, (*path, event)) for event in reversed(events[1:])]
                parent, path = state, (*path, events[0])
    except Violation as broken:
        result.violation, result.trace, result.exhaustive = str(broken), path, False
    result.states, result.steps = len(search.children), search.steps
    result.orders = search.orders()
    result.seconds = time.monotonic() - begun
    return result
