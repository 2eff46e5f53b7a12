"""What the calls to one peer have shown: last success, last failure, and how long answers took."""

from collections import deque
from typing import Final, NamedTuple

from federation.clock import MICROSECONDS, Clock
from federation.sanitize import printable

__all__ = ["CallFailure", "Latency", "PeerHealth", "nearest_rank"]

WINDOW: Final = 512
"""Answered calls over which latency is told."""
_NO_FAULT: Final = frozenset({"NOT_FOUND", "INVALID_ARGUMENT", "CANCELLED"})
"""What the caller asked for or did himself; it says nothing of how the peer fares."""


class CallFailure(NamedTuple):
    """The end of a call that an operator wants to know of."""

    at_us: int
    code: str
    """Canonical gRPC name."""
    reason: str
    """Of the rich error; may be empty."""
    message: str
    """Printable and short, whatever the peer sent."""


class Latency(NamedTuple):
    """Nearest-rank percentiles of the window, in milliseconds."""

    p50_ms: float
    p99_ms: float


class PeerHealth:
    """The record of one peer, fed by every call that used its wire; kept in memory only.

    Safe for threads without a lock: each note is one assignment or one append.
    """

    def __init__(self, clock: Clock) -> None:
        self._wall = clock.wall
        self._last_success: float | None = None
        self._seen: float | None = None
        self._last_failure: CallFailure | None = None
        self._took_s: deque[float] = deque(maxlen=WINDOW)

    @property
    def last_success_us(self) -> int | None:
        """When a call last succeeded, or `None` since the process started."""
        last = self._last_success
        return None if last is None else int(last * MICROSECONDS)

    @property
    def seen_us(self) -> int | None:
        """When the peer last showed that it is there, or `None` since the process started."""
        seen = self._seen
        return None if seen is None else int(seen * MICROSECONDS)

    @property
    def last_failure(self) -> CallFailure | None:
        """The last call that failed, or `None` since the process started."""
        return self._last_failure

    def succeeded(self, took_s: float) -> None:
        """Note a call that ended well."""
        self._last_success = self._seen = self._wall()
        self._took_s.append(took_s)

    def failed(self, code: str, reason: str, message: str) -> None:
        """Note a call that did not; what the caller did himself is left out."""
        if code not in _NO_FAULT:
            at_us = int(self._wall() * MICROSECONDS)
            self._last_failure = CallFailure(at_us, code, reason, printable(message))

    def answered(self, took_s: float) -> None:
        """Note how long the peer took for an answer that was no success."""
        self.seen()
        self._took_s.append(took_s)

    def seen(self) -> None:
        """Note a sign of life other than an answer to a call."""
        self._seen = self._wall()

    def latency(self) -> Latency | None:
        """Return the percentiles over the last 512 answers, or `None` before the first."""
        ordered = sorted(self._took_s.copy())
        if not ordered:
            return None
        return Latency(nearest_rank(ordered, 50) * 1e3, nearest_rank(ordered, 99) * 1e3)


def nearest_rank(ordered: list[float], percent: int) -> float:
    """Return the smallest value of a sorted, not empty list that at least `percent` of all do not exceed."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
