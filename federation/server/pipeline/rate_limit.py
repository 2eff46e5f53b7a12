"""A sliding-window counter limits the calls that each grant makes in a minute."""

from collections.abc import Callable
from math import floor
from time import monotonic
from typing import Final

from federation.errors import Reason, Refusal

WINDOW_S: Final = 60
MIN_WAIT_S: Final = 0.001


class GrantLimiter:
    """Estimates the calls of the last minute: those of this window, plus the share of the last window still in view.

    `monotonic` is a clock in seconds. Callers pass ids of known grants only, so the number of grants bounds the memory.
    """

    def __init__(self, monotonic: Callable[[], float] = monotonic) -> None:
        self._now = monotonic
        self._counts: dict[str, tuple[int, int, int]] = {}
        """Number of the window, calls of the window before, and calls of the window, by grant id."""

    def check(self, grant_id: str, per_minute: int) -> None:
        """Count one call of a grant, or raise `Refusal` RATE_LIMITED with the time until a call passes.

        A refused call is not counted. A changed limit applies to the calls already counted.
        """
        now = self._now()
        window, left_s = int(now // WINDOW_S), WINDOW_S - now % WINDOW_S
        counted, previous, current = self._counts.get(grant_id, (window, 0, 0))
        if counted != window:
            previous, current = current if counted == window - 1 else 0, 0
        if floor(previous * left_s / WINDOW_S + current) < per_minute:
            self._counts[grant_id] = (window, previous, current + 1)
            return
        if current < per_minute:
            wait_s = left_s - WINDOW_S * (per_minute - current) / previous
        else:
            wait_s = left_s + WINDOW_S * (1 - per_minute / current)
        wait_s = max(wait_s, 0.0) + MIN_WAIT_S
        raise Refusal(
            Reason.RATE_LIMITED,
            f"more than {per_minute} calls a minute under this grant; try again in {max(wait_s, 0.1):.1f} s",
            retry_after_s=wait_s,
        )
