"""The circuit breaker of one peer. Pure: the caller supplies the time and the random numbers.

    closed ──consecutive failures──▶ open ──cooldown over, a caller asks──▶ half-open ──the probe succeeds──▶ closed
                                      ▲                                        │
                                      └────────── the probe fails: cooldown x 2 ─┘

Nothing waits and no timer runs: the first `allow` after the end of a cooldown moves the circuit to half-open. A
transition is returned, not logged here, so that the caller logs it outside the lock. `record` returns every permit,
also that of a call which was cancelled or raised (`CallResult.IGNORED`). A driver that died, such as a loop that was
closed under its calls, never calls `record`; so the permit of a probe expires shortly after the deadline of its call.
"""

import random
from collections.abc import Callable
from enum import Enum, StrEnum
from math import inf
from threading import Lock
from typing import Final, NamedTuple, Protocol

from federation.errors import Reason

MIN_WIRE_BUDGET_S: Final = 1.0
"""A timeout counts as a failure only if the peer had at least this long to answer."""
PROBE_WAIT_S: Final = 1.0
"""The `retry_after_s` while a probe is under way, and how long after its deadline the permit of a probe expires."""


class CircuitState(StrEnum):
    """The state of a circuit, which decides whether calls are sent."""

    CLOSED = "closed"
    """All calls are sent."""
    OPEN = "open"
    """No call is sent until the cooldown is over."""
    HALF_OPEN = "half_open"
    """The cooldown is over: one probe at a time is sent."""


class CallResult(Enum):
    """The effect of a finished call on the circuit."""

    SUCCESS = "success"
    """The peer is alive, whatever it answered."""
    FAILURE = "failure"
    IGNORED = "ignored"
    """The call says nothing about the peer: cancelled, not sent, or refused for its rate."""


_FAILURES: Final = frozenset({"UNAVAILABLE", "INTERNAL", "UNKNOWN", "DATA_LOSS"})
_IGNORED_CODES: Final = frozenset({"CANCELLED", "RESOURCE_EXHAUSTED"})
_LOCAL_FAILURES: Final = frozenset({Reason.PEER_UNREACHABLE, Reason.PEER_TIMEOUT})


def classify(
    code: str, reason: str = "", *, local: bool = False, wire_budget_s: float = MIN_WIRE_BUDGET_S
) -> CallResult:
    """Return the effect of a finished call on the circuit.

    `code` is the canonical gRPC name, `reason` that of the rich error (may be empty), `local` whether this gateway
    made the error itself, `wire_budget_s` the time that was left until the deadline when the call was sent. A peer that
    forges `local` only keeps its own circuit unchanged.
    """
    if code in _IGNORED_CODES or (local and reason not in _LOCAL_FAILURES):
        return CallResult.IGNORED
    if code == "DEADLINE_EXCEEDED":
        return CallResult.FAILURE if wire_budget_s >= MIN_WIRE_BUDGET_S else CallResult.IGNORED
    return CallResult.FAILURE if code in _FAILURES else CallResult.SUCCESS


class CircuitSettings(Protocol):
    """The settings of `[circuit]` in `gateway.toml` (`CircuitConfig` holds defaults and meaning); times in seconds."""

    @property
    def failure_threshold(self) -> int:
        """Consecutive failures that open the circuit."""
        ...

    @property
    def cooldown_s(self) -> float:
        """Duration of the first cooldown."""
        ...

    @property
    def max_cooldown_s(self) -> float:
        """Longest cooldown; the duration doubles up to it."""
        ...

    @property
    def jitter(self) -> float:
        """Greatest random share by which a cooldown is made longer or shorter."""
        ...

    @property
    def slow_call_s(self) -> float | None:
        """A success slower than this counts as a failure; `None` switches the rule off."""
        ...


class Transition(NamedTuple):
    """A change of state that has happened. `generation` rises with each, which shows a late report as outdated."""

    before: CircuitState
    after: CircuitState
    generation: int
    consecutive_failures: int
    retry_in_s: float
    """Duration of the cooldown that begins; 0 unless the circuit opened."""


class Permit(NamedTuple):
    """Permission to make one call; it must be returned by `CircuitBreaker.record`."""

    generation: int
    probe: bool = False
    """Whether the call is the probe of a half-open circuit."""
    transition: Transition | None = None
    """The change to half-open that this `allow` caused."""


class Denied(NamedTuple):
    """No call may be made now; `retry_after_s` is the time to wait in seconds."""

    retry_after_s: float


class CircuitSnapshot(NamedTuple):
    """The circuit at one instant. Offsets are seconds from that instant; `None` while closed."""

    state: CircuitState
    consecutive_failures: int
    opened_ago_s: float | None
    """Time since the circuit last left `closed`."""
    retry_in_s: float | None
    """Time until a probe may be sent; 0 if it may now."""


class CircuitBreaker:
    """The circuit of one peer. Thread-safe; `now` is a monotonic clock in seconds, the same for all calls."""

    def __init__(self, settings: CircuitSettings, chance: Callable[[], float] = random.random) -> None:
        self._settings = settings
        self._chance = chance
        self._lock = Lock()
        self._state = CircuitState.CLOSED
        self._generation = 0
        self._closed: Permit | None = Permit(0)
        """The permit of every call while closed; it holds no state of the call. Read without the lock, once."""
        self._probe: Permit | None = None
        self._probe_until = inf
        self._failures = 0
        self._openings = 0
        self._opened_at = 0.0
        self._retry_at = 0.0

    def allow(self, now: float, deadline: float = inf) -> Permit | Denied:
        """Return a permit, which must be returned by `record`, or the time to wait.

        `deadline` is the latest end of the call on the clock of `now`.
        """
        closed = self._closed
        if closed is not None:
            return closed
        with self._lock:
            if self._closed is not None:
                return self._closed
            if self._state is CircuitState.OPEN and now < self._retry_at:
                return Denied(self._retry_at - now)
            if self._probe is not None and now < self._probe_until:
                return Denied(PROBE_WAIT_S)
            transition = self._transition(CircuitState.HALF_OPEN) if self._state is CircuitState.OPEN else None
            self._probe = Permit(self._generation, True, transition)
            self._probe_until = deadline + PROBE_WAIT_S
            return self._probe

    def check(self, now: float) -> Denied | None:
        """Return why a call that does not count (the watch) may not be made; `None` while closed. Takes no permit."""
        with self._lock:
            if self._state is CircuitState.CLOSED:
                return None
            return Denied(max(self._retry_at - now, 0.0) or PROBE_WAIT_S)

    def record(self, permit: Permit, result: CallResult, now: float, *, took_s: float = 0.0) -> Transition | None:
        """Return a permit with the result of its call; return the transition that follows from it.

        `took_s` is how long the call was on the wire. Permits of an older generation change nothing.
        """
        slow = self._settings.slow_call_s
        if result is CallResult.SUCCESS and slow is not None and took_s > slow:
            result = CallResult.FAILURE
        if result is CallResult.SUCCESS and permit is self._closed and not self._failures:
            return None  # the healthy peer: nothing to change, so no lock
        with self._lock:
            if permit.generation != self._generation:
                return None
            if permit.probe:
                return self._record_probe(permit, result, now)
            if result is CallResult.SUCCESS:
                self._failures = 0
            elif result is CallResult.FAILURE:
                self._failures += 1
                if self._failures >= self._settings.failure_threshold:
                    self._opened_at = now
                    return self._open(now)
            return None

    def reset(self) -> Transition | None:
        """Close the circuit and clear its counters; calls under way no longer count."""
        with self._lock:
            return self._close()

    def snapshot(self, now: float) -> CircuitSnapshot:
        """Return the circuit as it is at `now`: an open circuit whose cooldown is over shows as half-open."""
        with self._lock:
            if self._state is CircuitState.CLOSED:
                return CircuitSnapshot(CircuitState.CLOSED, self._failures, None, None)
            left = max(self._retry_at - now, 0.0) if self._state is CircuitState.OPEN else 0.0
            state = CircuitState.OPEN if left else CircuitState.HALF_OPEN
            return CircuitSnapshot(state, self._failures, max(now - self._opened_at, 0.0), left)

    def _record_probe(self, permit: Permit, result: CallResult, now: float) -> Transition | None:
        if permit is not self._probe:
            return None
        self._probe = None
        if result is CallResult.SUCCESS:
            return self._close()
        if result is CallResult.FAILURE:
            self._failures += 1
            return self._open(now)
        return None

    def _open(self, now: float) -> Transition:
        settings = self._settings
        cooldown = min(settings.cooldown_s * 2.0**self._openings, settings.max_cooldown_s)
        if cooldown < settings.max_cooldown_s:
            self._openings += 1
        cooldown *= 1.0 + settings.jitter * (2.0 * self._chance() - 1.0)
        self._retry_at = now + cooldown
        return self._transition(CircuitState.OPEN, cooldown)

    def _close(self) -> Transition | None:
        self._failures = self._openings = 0
        was = self._state
        transition = self._transition(CircuitState.CLOSED)
        return transition if was is not CircuitState.CLOSED else None

    def _transition(self, after: CircuitState, cooldown: float = 0.0) -> Transition:
        before, self._state = self._state, after
        self._generation += 1
        self._closed = Permit(self._generation) if after is CircuitState.CLOSED else None
        self._probe = None
        return Transition(before, after, self._generation, self._failures, cooldown)
