"""Statistics of the calls to one peer: last success, last failure, and latencies."""

from collections import deque
from typing import Final, NamedTuple

from federation.clock import MICROSECONDS, Clock
from federation.sanitize import printable

WINDOW: Final = 512
"""Number of answered calls over which latency is computed."""
_CALLER_CODES: Final = frozenset({"NOT_FOUND", "INVALID_ARGUMENT", "CANCELLED"})
"""Codes that the caller caused; they say nothing about the peer."""


class CallFailure(NamedTuple):
    """A failed call, as `status` shows it."""

    at_us: int
    code: str
    """Canonical gRPC name."""
    reason: str
    """Reason of the rich error; may be empty."""
    message: str
    """Printable and short, whatever the peer sent."""


class Latency(NamedTuple):
    """Nearest-rank percentiles of the window, in milliseconds."""

    p50_ms: float
    p99_ms: float


class PeerHealth:
    """The call statistics of one peer, updated by every call that used the wire; kept in memory only.

    Thread-safe without a lock: each update is one assignment or one append.
    """

    def __init__(self, clock: Clock) -> None:
        self._wall = clock.wall
        self._last_success: float | None = None
        self._seen: float | None = None
        self._last_failure: CallFailure | None = None
        self._latencies_s: deque[float] = deque(maxlen=WINDOW)

    @property
    def last_success_us(self) -> int | None:
        """The time at which a call last succeeded (Unix microseconds), or `None` since the process started."""
        last = self._last_success
        return None if last is None else int(last * MICROSECONDS)

    @property
    def seen_us(self) -> int | None:
        """The time of the peer's last sign of life (Unix microseconds), or `None` since the process started."""
        seen = self._seen
        return None if seen is None else int(seen * MICROSECONDS)

    @property
    def last_failure(self) -> CallFailure | None:
        """The last call that failed, or `None` since the process started."""
        return self._last_failure

    def record_success(self, took_s: float) -> None:
        """Record a successful call."""
        self._last_success = self._seen = self._wall()
        self._latencies_s.append(took_s)

    def record_failure(self, code: str, reason: str, message: str) -> None:
        """Record a failed call, unless its caller caused the failure."""
        if code not in _CALLER_CODES:
            at_us = int(self._wall() * MICROSECONDS)
            self._last_failure = CallFailure(at_us, code, reason, printable(message))

    def record_answer(self, took_s: float) -> None:
        """Record how long the peer took for an answer that was not a success."""
        self.record_contact()
        self._latencies_s.append(took_s)

    def record_contact(self) -> None:
        """Record a sign of life other than an answer to a call."""
        self._seen = self._wall()

    def latency(self) -> Latency | None:
        """Return the percentiles over the last 512 answers, or `None` before the first."""
        ordered = sorted(self._latencies_s.copy())
        if not ordered:
            return None
        return Latency(nearest_rank(ordered, 50) * 1e3, nearest_rank(ordered, 99) * 1e3)


def nearest_rank(ordered: list[float], percent: int) -> float:
    """Return the nearest-rank percentile of a sorted, non-empty list."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
