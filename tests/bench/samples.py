"""Samples of a variant over rounds, and their statistics."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import NamedTuple


class Spread(NamedTuple):
    """Median and quartiles over rounds."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of the values (at least one)."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, middle, high = quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high)

    def inverse(self) -> "Spread":
        """Return the reciprocals: a speed-up instead of a slow-down."""
        return Spread(1 / self.middle, 1 / self.high, 1 / self.low)


@dataclass
class Samples:
    """Samples of one variant in microseconds: per round the median of its calls and the client's CPU time per call."""

    wall_us: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    def add(self, took_ns: Sequence[float], cpu_s: float) -> None:
        """Add a block of calls."""
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
        """Return the ratio to another variant, round by round."""
        return Spread.of([mine / theirs for mine, theirs in zip(self.wall_us, base.wall_us, strict=True)])

    def beyond(self, base: "Samples") -> Spread:
        """Return the difference to another variant in microseconds, round by round."""
        return Spread.of([mine - theirs for mine, theirs in zip(self.wall_us, base.wall_us, strict=True)])

    def best_ratio(self, base: "Samples") -> float:
        """Return the ratio of the best rounds."""
        return self.best_us / base.best_us

    def cpu_ratio(self, base: "Samples") -> Spread:
        """Return the ratio of the client's CPU time to another variant's, round by round."""
        return Spread.of([mine / theirs for mine, theirs in zip(self.cpu_us, base.cpu_us, strict=True)])
