"""The circuit in the chain: asks it before the wire, tells it the end of every call, also of one that broke."""

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

__all__ = ["CIRCUIT_EVENT", "BreakingInterceptor", "report"]

CIRCUIT_EVENT = "federation.circuit"
"""Span event of a call that changed the circuit's state."""

_BEFORE_ALL: Final = -1
"""A generation that every opening is later than."""
_logger = logging.getLogger(__name__)


def report(transition: Transition, peer: str, user: str, metrics: FederationMetrics | None) -> None:
    """Log and count a change of a circuit, whoever brought it about."""
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
    """One peer's circuit and health. Two look-ups and no lock held while a call is under way.

    `on_transition` gets each change of state, outside the circuit's lock, in the thread of the call that caused it;
    `Transition.generation` tells a report that was overtaken. A call that was let go before the circuit opened may dial
    after it: at the end of each of those the opening is told once more. A probe goes on as `call.probe`.
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
        """Refuse with `CIRCUIT_OPEN` at once, or go on and record what the end says about the peer."""
        started = self._now()
        if call.verb in STREAMING_VERBS:
            return (yield from self._watch(proceed, call))
        permit = self._breaker.allow(started, call.deadline)
        if isinstance(permit, Denied):
            return self._open(call, permit)
        evidence = CallResult.IGNORED
        ended = started
        try:
            if permit.transition:
                self._report(permit.transition, call)
            outcome = yield from proceed(call._replace(probe=True) if permit.probe else call)
            ended = self._now()
            if outcome.code is grpc.StatusCode.OK:
                evidence = CallResult.SUCCESS
                self._health.succeeded(ended - started)
            else:
                evidence = self._observe(outcome, call.deadline - started, ended - started)
        finally:
            transition = self._breaker.record(permit, evidence, ended, took_s=ended - started)
            if transition:
                self._report(transition, call)
            else:
                self._leave_nothing(permit.generation, call.peer)
        return outcome

    def _watch(self, proceed: Proceed, call: Call) -> Flow:
        denied = self._breaker.look(self._now())
        if denied:
            return self._open(call, denied)
        try:
            return (yield from proceed(call))
        finally:
            self._leave_nothing(_BEFORE_ALL, call.peer)

    def _observe(self, outcome: Outcome, budget_s: float, took_s: float) -> CallResult:
        """Tell health of a call that did not succeed, and return what that says of the peer."""
        detail = error_detail(outcome.trailing)
        code = outcome.code.name
        self._health.failed(code, detail.reason, outcome.details)
        if not detail.local and outcome.code is not grpc.StatusCode.CANCELLED:
            self._health.answered(took_s)
        return classify(code, detail.reason, local=detail.local, wire_budget_s=budget_s)

    def _report(self, transition: Transition, call: Call) -> None:
        """Log, tell the span, tell the owner. A broken listener must not cost the call its answer."""
        report(transition, call.peer, call.user, self._metrics)
        if call.trace is not None:
            call.trace.add_event(CIRCUIT_EVENT, {"before": transition.before.value, "after": transition.after.value})
        if transition.after is CircuitState.OPEN:
            self._opening = transition
        self._tell(transition, call.peer)

    def _leave_nothing(self, generation: int, peer: str) -> None:
        """Tell of the opening again after a call of an earlier generation, which may have dialled since."""
        opening = self._opening
        if opening is not None and generation < opening.generation and self._breaker.look(self._now()):
            self._tell(opening, peer)

    def _tell(self, transition: Transition, peer: str) -> None:
        try:
            self._on_transition(transition)
        except Exception:
            _logger.exception("the listener to the circuit of %s broke; the circuit itself goes on", peer)

    def _open(self, call: Call, denied: Denied) -> Outcome:
        return refused(
            Refusal(
                Reason.CIRCUIT_OPEN,
                f"{call.peer} failed repeatedly and is not called for now",
                retry_after_s=denied.retry_after_s,
            )
        )
