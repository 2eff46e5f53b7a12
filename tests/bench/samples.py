"""Figures of one run: a block of calls a variant and round, and what many rounds say together."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import NamedTuple


class Spread(NamedTuple):
    """A median over rounds, and the quartiles about it."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, middle, high = quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high)

    def inverse(self) -> "Spread":
        """Return how many times faster, from how many times slower."""
        return Spread(1 / self.middle, 1 / self.high, 1 / self.low)


@dataclass
class Samples:
    """One variant: for each round the median of its calls, and the client's CPU time a call; microseconds."""

    wall_us: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    def add(self, took_ns: Sequence[float], cpu_s: float) -> None:
        """Take in a block."""
        self.wall_us.append(median(took_ns) / 1e3)
        self.cpu_us.append(cpu_s * 1e6 / len(took_ns))

    @property
    def p50_us(self) -> float:
        """The median of the rounds' medians."""
        return median(self.wall_us)

    @property
    def best_us(self) -> float:
        """The median of the best round."""
        return min(self.wall_us)

    def ratio(self, base: "Samples") -> Spread:
        """Return this variant as a multiple of another, round by round."""
        return Spread.of([mine / theirs for mine, theirs in zip(self.wall_us, base.wall_us, strict=True)])

    def beyond(self, base: "Samples") -> Spread:
        """Return by how many microseconds this variant took longer than another, round by round."""
        return Spread.of([mine - theirs for mine, theirs in zip(self.wall_us, base.wall_us, strict=True)])

    def best_ratio(self, base: "Samples") -> float:
        """Return the best round of this variant as a multiple of the other's best."""
        return self.best_us / base.best_us

    def cpu_ratio(self, base: "Samples") -> Spread:
        """Return the CPU time of the client as a multiple of another variant's, round by round."""
        return Spread.of([mine / theirs for mine, theirs in zip(self.cpu_us, base.cpu_us, strict=True)])
