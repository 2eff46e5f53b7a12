"""Pauses between the attempts of work that fails: each is longer than the one before, up to a bound. Pure."""

from collections.abc import Callable
from typing import Final

MAX_STEPS: Final = 32
"""Number of failures after which the pause grows no more, so that the power does not overflow."""


def pause_after(failures: int, first_s: float, longest_s: float, factor: float = 2.0) -> float:
    """Return the pause after `failures` (from 1) in a row, without jitter."""
    return min(first_s * factor ** min(failures - 1, MAX_STEPS), longest_s)


def shortened(pause_s: float, chance: float) -> float:
    """Return between half of a pause (`chance` 0) and all of it (1), so that callers do not retry in step."""
    return pause_s * (0.5 + 0.5 * chance)


class Backoff:
    """Counts failures in a row, and computes the pause after each.

    `chance` returns a random number in [0, 1) for the jitter of `shortened`; without it, pauses have no jitter.
    """

    def __init__(
        self, first_s: float, longest_s: float, factor: float = 2.0, *, chance: Callable[[], float] = lambda: 1.0
    ) -> None:
        self._first_s, self._longest_s, self._factor, self._chance = first_s, longest_s, factor, chance
        self._failures = 0

    def failed(self) -> float:
        """Count a failure; return the pause before the next attempt."""
        self._failures += 1
        return shortened(pause_after(self._failures, self._first_s, self._longest_s, self._factor), self._chance())

    def reset(self) -> None:
        """Forget the failures: the next pause is the first one again."""
        self._failures = 0
