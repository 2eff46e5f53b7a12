"""Time as a value that is handed in, so that policy never asks the machine and tests never sleep."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

__all__ = ["MICROSECONDS", "SYSTEM_CLOCK", "Clock", "from_micros", "to_micros"]

MICROSECONDS: Final = 1_000_000
"""Microseconds in a second: the unit of every stored and transmitted instant."""


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


_ELAPSED: Final[Callable[[], float]] = _boottime if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic


@dataclass(frozen=True, slots=True)
class Clock:
    """Three readings of time, each for its own use.

    `monotonic` measures deadlines and cooldowns. `elapsed` also counts the time that a suspended machine slept
    (`CLOCK_BOOTTIME`; where the system has none, `time.monotonic`, which stands still during a suspend on some
    systems) and bounds lifetimes. `wall` is Unix time in seconds, for instants that people and certificates name.
    """

    monotonic: Callable[[], float] = time.monotonic
    elapsed: Callable[[], float] = _ELAPSED
    wall: Callable[[], float] = time.time

    def now(self) -> datetime:
        """Return the wall-clock instant, aware, in UTC."""
        return datetime.fromtimestamp(self.wall(), UTC)

    def now_us(self) -> int:
        """Return the wall-clock instant in microseconds since the Unix epoch."""
        return int(self.wall() * MICROSECONDS)


SYSTEM_CLOCK: Final = Clock()
"""The machine's own clocks."""


def to_micros(instant: datetime) -> int:
    """Return an aware instant as whole microseconds since the Unix epoch, without rounding through a float."""
    delta = instant - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * MICROSECONDS + delta.microseconds


def from_micros(micros: int) -> datetime:
    """Return the aware UTC instant of so many microseconds since the Unix epoch."""
    seconds, rest = divmod(micros, MICROSECONDS)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)
