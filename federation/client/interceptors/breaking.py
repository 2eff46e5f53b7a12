"""The circuit breaker in the chain: asks the circuit before each call and reports the end of each call to it."""

import logging
from collections.abc import Callable
from typing import Final

import grpc

from federation.breaker import CallResult, CircuitBreaker, CircuitState, Denied, Transition, classify
from federation.client.chain.call_stats import PeerHealth
from federation.client.chain.flow import Call, Flow, Outcome, Proceed, refused
from federation.clock import Clock
from federation.errors import Reason, Refusal
from federation.telemetry.metrics import FederationMetrics
from federation.wire.status import error_detail
from federation.wire.verbs import STREAMING_VERBS

CIRCUIT_EVENT = "federation.circuit"
"""Span event of a call that changed the circuit's state."""

_BEFORE_ALL: Final = -1
"""A generation before every opening."""
_logger = logging.getLogger(__name__)


def report(transition: Transition, peer: str, user: str, metrics: FederationMetrics | None) -> None:
    """Log and count a transition of a circuit."""
    log = _logger.warning if transition.after is CircuitState.OPEN else _logger.info
    log(
        "circuit of %s (user %s): %s to %s after %d failures in a row%s",
        peer,
        user,
        transition.before.value,
        transition.after.value,
        transition.consecutive_failures,
        f", next probe in {transition.retry_in_s:.0f} s" if transition.after is CircuitState.OPEN else "",
    )
    if metrics:
        metrics.circuit_transition(peer, transition.after.value)


class BreakingInterceptor:
    """One peer's circuit and statistics. No lock is held while a call is in flight.

    `on_transition` receives each change of state, outside the circuit's lock, in the thread of the call that caused
    it; `Transition.generation` shows a late report as outdated. A call that was admitted before the circuit opened may
    dial after it: at the end of each such call the opening is reported again. A probe is passed on with `call.probe`
    set.
    """

    def __init__(
        self,
        breaker: CircuitBreaker,
        health: PeerHealth,
        clock: Clock,
        on_transition: Callable[[Transition], None] = lambda _: None,
        metrics: FederationMetrics | None = None,
    ) -> None:
        self._breaker = breaker
        self._health = health
        self._now = clock.monotonic
        self._on_transition = on_transition
        self._metrics = metrics
        self._opening: Transition | None = None

    def intercept(self, proceed: Proceed, call: Call) -> Flow:
        """Refuse with `CIRCUIT_OPEN` at once, or pass the call on and record its result."""
        started = self._now()
        if call.verb in STREAMING_VERBS:
            return (yield from self._watch(proceed, call))
        permit = self._breaker.allow(started, call.deadline)
        if isinstance(permit, Denied):
            return self._refusal(call, permit)
        result = CallResult.IGNORED
        ended = started
        try:
            if permit.transition:
                self._report(permit.transition, call)
            outcome = yield from proceed(call._replace(probe=True) if permit.probe else call)
            ended = self._now()
            if outcome.code is grpc.StatusCode.OK:
                result = CallResult.SUCCESS
                self._health.record_success(ended - started)
            else:
                result = self._observe(outcome, call.deadline - started, ended - started)
        finally:
            transition = self._breaker.record(permit, result, ended, took_s=ended - started)
            if transition:
                self._report(transition, call)
            else:
                self._report_again(permit.generation, call.peer)
        return outcome

    def _watch(self, proceed: Proceed, call: Call) -> Flow:
        denied = self._breaker.check(self._now())
        if denied:
            return self._refusal(call, denied)
        try:
            return (yield from proceed(call))
        finally:
            self._report_again(_BEFORE_ALL, call.peer)

    def _observe(self, outcome: Outcome, budget_s: float, took_s: float) -> CallResult:
        """Record a call that did not succeed, and return its effect on the circuit."""
        detail = error_detail(outcome.trailing)
        code = outcome.code.name
        self._health.record_failure(code, detail.reason, outcome.details)
        if not detail.local and outcome.code is not grpc.StatusCode.CANCELLED:
            self._health.record_answer(took_s)
        return classify(code, detail.reason, local=detail.local, wire_budget_s=budget_s)

    def _report(self, transition: Transition, call: Call) -> None:
        """Log the transition, add it to the span, and notify the listener."""
        report(transition, call.peer, call.user, self._metrics)
        if call.trace is not None:
            call.trace.add_event(CIRCUIT_EVENT, {"before": transition.before.value, "after": transition.after.value})
        if transition.after is CircuitState.OPEN:
            self._opening = transition
        self._notify(transition, call.peer)

    def _report_again(self, generation: int, peer: str) -> None:
        """Report the opening again after a call of an earlier generation, which may have dialled since."""
        opening = self._opening
        if opening is not None and generation < opening.generation and self._breaker.check(self._now()):
            self._notify(opening, peer)

    def _notify(self, transition: Transition, peer: str) -> None:
        try:
            self._on_transition(transition)
        except Exception:
            _logger.exception("the transition listener of the circuit of %s raised; the circuit is not affected", peer)

    def _refusal(self, call: Call, denied: Denied) -> Outcome:
        return refused(
            Refusal(
                Reason.CIRCUIT_OPEN,
                f"{call.peer} failed repeatedly and is not called for now",
                retry_after_s=denied.retry_after_s,
            )
        )
