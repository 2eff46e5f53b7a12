"""When a peer counts as down, and who may find out that it is back. Pure: the caller brings time and chance.

    closed ──failures in a row──▶ open ──cooldown over, one caller asks──▶ half-open ──the probe succeeds──▶ closed
                                   ▲                                          │
                                   └────────── the probe fails: cooldown x 2 ─┘

Nothing waits and no timer runs: a cooldown is over when somebody asks after its end. A transition is returned, never
reported from here, so that whoever logs it does so outside the lock. Every permit is handed back by `record`, also
that of a call which was cancelled or broke (`CallResult.IGNORED`). Only a driver that died, such as a loop that was
closed under its calls, hands nothing back: so a probe's permit lapses some time after the deadline of its call.
"""

import random
from collections.abc import Callable
from enum import Enum, StrEnum
from math import inf
from threading import Lock
from typing import Final, NamedTuple, Protocol

from federation.errors import Reason

__all__ = [
    "MIN_WIRE_BUDGET_S",
    "PROBE_PATIENCE_S",
    "CallResult",
    "CircuitBreaker",
    "CircuitSettings",
    "CircuitSnapshot",
    "CircuitState",
    "Denied",
    "Permit",
    "Transition",
    "classify",
]

MIN_WIRE_BUDGET_S: Final = 1.0
"""A timeout says something about the peer only if the peer had at least so long to answer."""
PROBE_PATIENCE_S: Final = 1.0
"""What a caller is told to wait while another one's probe is under way, and by how much that may outlast its call."""


class CircuitState(StrEnum):
    """Whether calls go out."""

    CLOSED = "closed"
    """All of them."""
    OPEN = "open"
    """None: the cooldown runs."""
    HALF_OPEN = "half_open"
    """The cooldown is over: one probe at a time."""


class CallResult(Enum):
    """What the end of a call says about the peer."""

    SUCCESS = "success"
    """It is alive, whatever it answered."""
    FAILURE = "failure"
    IGNORED = "ignored"
    """Nothing: the caller gave up, the call never went out, or the peer asked for patience."""


_FAILURES: Final = frozenset({"UNAVAILABLE", "INTERNAL", "UNKNOWN", "DATA_LOSS"})
_IGNORED_CODES: Final = frozenset({"CANCELLED", "RESOURCE_EXHAUSTED"})
_LOCAL_FAILURES: Final = frozenset({Reason.PEER_UNREACHABLE, Reason.PEER_TIMEOUT})


def classify(
    code: str, reason: str = "", *, local: bool = False, wire_budget_s: float = MIN_WIRE_BUDGET_S
) -> CallResult:
    """Return what a finished call says about the peer.

    `code` is the canonical gRPC name, `reason` that of the rich error (may be empty), `local` whether this gateway
    made the error itself, `wire_budget_s` what was left of the deadline when the call went to the wire. A peer that
    forges `local` only keeps its own circuit as it is.
    """
    if code in _IGNORED_CODES or (local and reason not in _LOCAL_FAILURES):
        return CallResult.IGNORED
    if code == "DEADLINE_EXCEEDED":
        return CallResult.FAILURE if wire_budget_s >= MIN_WIRE_BUDGET_S else CallResult.IGNORED
    return CallResult.FAILURE if code in _FAILURES else CallResult.SUCCESS


class CircuitSettings(Protocol):
    """What `[circuit]` of `gateway.toml` says (`CircuitConfig` holds defaults and meaning); times in seconds."""

    @property
    def failure_threshold(self) -> int:
        """Consecutive failures that open the circuit."""
        ...

    @property
    def cooldown_s(self) -> float:
        """The first cooldown."""
        ...

    @property
    def max_cooldown_s(self) -> float:
        """Bound of the doubling."""
        ...

    @property
    def jitter(self) -> float:
        """Random share by which a cooldown is made longer or shorter."""
        ...

    @property
    def slow_call_s(self) -> float | None:
        """A success slower than this is a failure; `None`: speed never counts."""
        ...


class Transition(NamedTuple):
    """A change of state that has happened. `generation` rises with each, so a report that comes late can be told."""

    before: CircuitState
    after: CircuitState
    generation: int
    consecutive_failures: int
    retry_in_s: float
    """The cooldown that begins; 0 unless the circuit opened."""


class Permit(NamedTuple):
    """Leave to make one call; goes back by `record`."""

    generation: int
    probe: bool = False
    """Whether this is the one call that a half-open circuit lets through."""
    transition: Transition | None = None
    """The change to half-open that asking for this permit brought about."""


class Denied(NamedTuple):
    """No call now."""

    retry_after_s: float


class CircuitSnapshot(NamedTuple):
    """The circuit at one instant. Offsets are seconds from that instant; `None` while closed."""

    state: CircuitState
    consecutive_failures: int
    opened_ago_s: float | None
    """Since the circuit last left `closed`."""
    retry_in_s: float | None
    """Until a probe may go out; 0 when it may now."""


class CircuitBreaker:
    """The circuit of one peer. Safe for threads; `now` is a monotonic clock in seconds, the same for all calls."""

    def __init__(self, settings: CircuitSettings, chance: Callable[[], float] = random.random) -> None:
        self._settings = settings
        self._chance = chance
        self._lock = Lock()
        self._state = CircuitState.CLOSED
        self._generation = 0
        self._closed: Permit | None = Permit(0)
        """The permit of every call while closed: it holds nothing of the call. Read without the lock, once."""
        self._probe: Permit | None = None
        self._probe_until = inf
        self._failures = 0
        self._trips = 0
        self._opened_at = 0.0
        self._retry_at = 0.0

    def allow(self, now: float, deadline: float = inf) -> Permit | Denied:
        """Return a permit, which must come back by `record`, or the time to wait.

        `deadline` is when the call will have ended at the latest, in the terms of `now`.
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
                return Denied(PROBE_PATIENCE_S)
            transition = self._turn(CircuitState.HALF_OPEN) if self._state is CircuitState.OPEN else None
            self._probe = Permit(self._generation, True, transition)
            self._probe_until = deadline + PROBE_PATIENCE_S
            return self._probe

    def look(self, now: float) -> Denied | None:
        """Tell whether a call that is no evidence (the watch) may go: only while closed. It takes no permit."""
        with self._lock:
            if self._state is CircuitState.CLOSED:
                return None
            return Denied(max(self._retry_at - now, 0.0) or PROBE_PATIENCE_S)

    def record(self, permit: Permit, evidence: CallResult, now: float, *, took_s: float = 0.0) -> Transition | None:
        """Take a permit back with what its call said; return the change of state that follows from it.

        `took_s` is how long the call was on the wire. Permits of an older generation change nothing.
        """
        slow = self._settings.slow_call_s
        if evidence is CallResult.SUCCESS and slow is not None and took_s > slow:
            evidence = CallResult.FAILURE
        if evidence is CallResult.SUCCESS and permit is self._closed and not self._failures:
            return None  # the healthy peer: nothing to change, so no lock
        with self._lock:
            if permit.generation != self._generation:
                return None
            if permit.probe:
                return self._record_probe(permit, evidence, now)
            if evidence is CallResult.SUCCESS:
                self._failures = 0
            elif evidence is CallResult.FAILURE:
                self._failures += 1
                if self._failures >= self._settings.failure_threshold:
                    self._opened_at = now
                    return self._open(now)
            return None

    def reset(self) -> Transition | None:
        """Close the circuit by hand and forget what was counted; calls under way no longer count."""
        with self._lock:
            return self._close()

    def snapshot(self, now: float) -> CircuitSnapshot:
        """Return the circuit as it is at `now`: open with its cooldown over is half-open."""
        with self._lock:
            if self._state is CircuitState.CLOSED:
                return CircuitSnapshot(CircuitState.CLOSED, self._failures, None, None)
            left = max(self._retry_at - now, 0.0) if self._state is CircuitState.OPEN else 0.0
            state = CircuitState.OPEN if left else CircuitState.HALF_OPEN
            return CircuitSnapshot(state, self._failures, max(now - self._opened_at, 0.0), left)

    def _record_probe(self, permit: Permit, evidence: CallResult, now: float) -> Transition | None:
        if permit is not self._probe:
            return None
        self._probe = None
        if evidence is CallResult.SUCCESS:
            return self._close()
        if evidence is CallResult.FAILURE:
            self._failures += 1
            return self._open(now)
        return None

    def _open(self, now: float) -> Transition:
        settings = self._settings
        cooldown = min(settings.cooldown_s * 2.0**self._trips, settings.max_cooldown_s)
        if cooldown < settings.max_cooldown_s:
            self._trips += 1
        cooldown *= 1.0 + settings.jitter * (2.0 * self._chance() - 1.0)
        self._retry_at = now + cooldown
        return self._turn(CircuitState.OPEN, cooldown)

    def _close(self) -> Transition | None:
        self._failures = self._trips = 0
        was = self._state
        transition = self._turn(CircuitState.CLOSED)
        return transition if was is not CircuitState.CLOSED else None

    def _turn(self, after: CircuitState, cooldown: float = 0.0) -> Transition:
        before, self._state = self._state, after
        self._generation += 1
        self._closed = Permit(self._generation) if after is CircuitState.CLOSED else None
        self._probe = None
        return Transition(before, after, self._generation, self._failures, cooldown)
