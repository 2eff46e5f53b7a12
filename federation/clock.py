"""Clocks as injectable values: policy code reads no system clock, and tests need not sleep."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

MICROSECONDS: Final = 1_000_000
"""Microseconds in a second. Stored and transmitted instants are in microseconds."""


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


_ELAPSED: Final[Callable[[], float]] = _boottime if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic


@dataclass(frozen=True, slots=True)
class Clock:
    """Three clocks, each in seconds and each for one purpose.

    `monotonic` measures deadlines and cooldowns. `elapsed` bounds lifetimes: it includes the time during which the
    machine was suspended (`CLOCK_BOOTTIME`; where the system lacks it, `time.monotonic`, which some systems stop during
    a suspend). `wall` is Unix time, for instants shown to people or stored in certificates.
    """

    monotonic: Callable[[], float] = time.monotonic
    elapsed: Callable[[], float] = _ELAPSED
    wall: Callable[[], float] = time.time

    def now(self) -> datetime:
        """Return the wall-clock time as an aware datetime in UTC."""
        return datetime.fromtimestamp(self.wall(), UTC)

    def now_us(self) -> int:
        """Return the wall-clock time in microseconds since the Unix epoch."""
        return int(self.wall() * MICROSECONDS)


SYSTEM_CLOCK: Final = Clock()
"""The system clocks."""


def to_micros(when: datetime) -> int:
    """Return an aware datetime as microseconds since the Unix epoch; exact, without a float in between."""
    delta = when - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * MICROSECONDS + delta.microseconds


def from_micros(micros: int) -> datetime:
    """Return the aware UTC datetime of a number of microseconds since the Unix epoch."""
    seconds, rest = divmod(micros, MICROSECONDS)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)


def instant(micros: int) -> str:
    """Return an instant in UTC as text for people."""
    return f"{from_micros(micros):%Y-%m-%d %H:%M:%S} UTC"
