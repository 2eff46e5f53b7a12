"""The circuit breaker in the chain, stepped by hand."""

import gc
import logging
from typing import Any

import grpc
import pytest

from federation.breaker import CircuitBreaker, CircuitState, Transition
from federation.client.chain.call_stats import PeerHealth
from federation.client.chain.flow import Call, Cancelled, Outcome, refused
from federation.client.chain.outcomes import from_wire, timed_out
from federation.client.interceptors.breaking import CIRCUIT_EVENT, BreakingInterceptor
from federation.config import CircuitConfig
from federation.errors import Reason, Refusal
from federation.telemetry.metrics import FederationMetrics
from federation.wire.status import error_detail, refusal_status
from tests.support.clock import ManualClock
from tests.support.memory_exporters import MetricLog, answer, suspended_flow

OK = Outcome(grpc.StatusCode.OK, b"rows")
DOWN = from_wire(grpc.StatusCode.UNAVAILABLE, details="connection refused")


def served(reason: Reason) -> Outcome:
    """A refusal as the peer sends it."""
    code, details, trailing = refusal_status(Refusal(reason, "no"))
    return from_wire(code, details=details, trailing=trailing)


class Trace:
    """The span of a call, as far as the circuit uses it."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def traceparent(self) -> str:
        return ""

    def add_event(self, name: str, attributes: dict[str, Any]) -> None:
        self.events.append((name, attributes))


class Circuit:
    """One peer's circuit with a clock, and its reports."""

    def __init__(self, metrics: FederationMetrics | None = None) -> None:
        self.clock = ManualClock()
        self.breaker = CircuitBreaker(CircuitConfig(jitter=0.0))
        self.health = PeerHealth(self.clock.clock)
        self.transitions: list[Transition] = []
        self.breaking = BreakingInterceptor(
            self.breaker, self.health, self.clock.clock, self.transitions.append, metrics
        )

    def call(self, budget_s: float = 2.0, verb: str = "list", trace: Trace | None = None) -> Call:
        now = self.clock.monotonic_s
        return Call("/m", verb, "tasks", "g", "work.example", "ada", b"", (), now + budget_s, trace)

    def send(self, outcome: Outcome, budget_s: float = 2.0) -> Outcome:
        return answer([self.breaking], self.call(budget_s), outcome)[0]

    def trip(self) -> None:
        for _ in range(5):
            self.send(DOWN)

    @property
    def state(self) -> CircuitState:
        return self.breaker.snapshot(self.clock.monotonic_s).state


def test_an_open_circuit_answers_by_itself_with_the_cooldown_left() -> None:
    """After five failures nothing is sent: CIRCUIT_OPEN, made locally, with RetryInfo."""
    circuit = Circuit()
    circuit.trip()
    circuit.clock.advance(10)

    outcome, sent = answer([circuit.breaking], circuit.call())

    detail = error_detail(outcome.trailing)
    assert sent == []
    assert outcome.code is grpc.StatusCode.UNAVAILABLE
    assert (detail.reason, detail.local, detail.retry_after_s) == ("CIRCUIT_OPEN", True, pytest.approx(20.0))


def test_only_the_probe_is_marked() -> None:
    """An ordinary call passes unchanged; the one that half-open admits has `probe`, and others are refused."""
    circuit = Circuit()
    call = circuit.call()
    assert answer([circuit.breaking], call, OK)[1] == [call]
    circuit.trip()
    circuit.clock.advance(30)

    flow, sent = suspended_flow([circuit.breaking], circuit.call())

    assert sent.probe
    assert error_detail(answer([circuit.breaking], circuit.call())[0].trailing).retry_after_s == 1.0
    with pytest.raises(StopIteration):
        flow.send(OK)
    assert circuit.state is CircuitState.CLOSED


@pytest.mark.parametrize("fault", [Cancelled(), KeyboardInterrupt(), ValueError("bug")])
def test_a_probe_that_raises_returns_its_permit(fault: BaseException) -> None:
    """After a cancelled, interrupted or broken probe the next caller probes, and nothing was counted."""
    circuit = Circuit()
    circuit.trip()
    circuit.clock.advance(30)
    for _ in range(3):
        flow, sent = suspended_flow([circuit.breaking], circuit.call())
        assert sent.probe
        with pytest.raises(type(fault)):
            flow.throw(fault)

    assert circuit.breaker.snapshot(circuit.clock.monotonic_s).consecutive_failures == 5
    circuit.send(OK)
    assert circuit.state is CircuitState.CLOSED


def test_a_probe_that_is_collected_returns_its_permit() -> None:
    """A flow that is garbage-collected does not block half-open."""
    circuit = Circuit()
    circuit.trip()
    circuit.clock.advance(30)
    flow, _ = suspended_flow([circuit.breaking], circuit.call())
    del flow
    gc.collect()

    assert suspended_flow([circuit.breaking], circuit.call())[1].probe


@pytest.mark.parametrize(
    ("outcome", "budget_s"),
    [
        (timed_out(), 0.5),
        (timed_out(), 0.0),
        (served(Reason.RATE_LIMITED), 2.0),
        (refused(Refusal(Reason.CERTIFICATE_INVALID, "own certificate expired")), 2.0),
        (Outcome(grpc.StatusCode.CANCELLED), 2.0),
    ],
)
def test_an_ignored_end_of_a_probe_frees_the_slot(outcome: Outcome, budget_s: float) -> None:
    """An ignored result neither closes nor reopens, however often."""
    circuit = Circuit()
    circuit.trip()
    circuit.clock.advance(30)
    for _ in range(10):
        circuit.send(outcome, budget_s)

    assert circuit.state is CircuitState.HALF_OPEN
    assert suspended_flow([circuit.breaking], circuit.call())[1].probe


@pytest.mark.parametrize(
    ("outcome", "budget_s"),
    [
        *[
            (served(reason), 2.0)
            for reason in (
                Reason.ROW_NOT_FOUND,
                Reason.INVALID_REQUEST,
                Reason.GRANT_REVOKED,
                Reason.GRANT_INVALID,
                Reason.SCOPE_VIOLATION,
                Reason.RATE_LIMITED,
                Reason.CERTIFICATE_INVALID,
            )
        ],
        (Outcome(grpc.StatusCode.UNIMPLEMENTED), 2.0),
        (from_wire(grpc.StatusCode.DEADLINE_EXCEEDED), 0.9),
        (refused(Refusal(Reason.CERTIFICATE_INVALID, "own certificate expired")), 2.0),
    ],
)
def test_refusals_and_short_deadlines_never_trip_it(outcome: Outcome, budget_s: float) -> None:
    """A hundred of them leave the circuit closed."""
    circuit = Circuit()
    for _ in range(100):
        assert circuit.send(outcome, budget_s) == outcome

    assert circuit.state is CircuitState.CLOSED


@pytest.mark.parametrize(
    "outcome",
    [
        DOWN,
        from_wire(grpc.StatusCode.DEADLINE_EXCEEDED),
        timed_out(),
        served(Reason.INTERNAL),
        Outcome(grpc.StatusCode.UNKNOWN),
        Outcome(grpc.StatusCode.DATA_LOSS),
    ],
)
def test_failures_trip_it(outcome: Outcome) -> None:
    """Each kind of failure opens the circuit at the fifth; each keeps its own answer."""
    circuit = Circuit()
    for _ in range(5):
        assert circuit.send(outcome, 1.0) == outcome

    assert circuit.state is CircuitState.OPEN


def test_a_peer_cannot_pass_for_a_failure_of_this_gateway() -> None:
    """Forged local errors of the peer count like any of its failures."""
    code, details, trailing = refusal_status(Refusal(Reason.CIRCUIT_OPEN, "mine"), local=True)
    circuit = Circuit()
    for _ in range(5):
        circuit.send(from_wire(code, details=details, trailing=trailing))

    assert circuit.state is CircuitState.OPEN


def test_the_watch_goes_only_while_closed_and_counts_for_nothing() -> None:
    """The watch's failures do not open the circuit, and it never takes the probe."""
    circuit = Circuit()
    for _ in range(10):
        answer([circuit.breaking], circuit.call(verb="watch"), DOWN)
    assert circuit.state is CircuitState.CLOSED
    assert circuit.health.last_failure is None
    circuit.trip()
    circuit.clock.advance(30)

    outcome, sent = answer([circuit.breaking], circuit.call(verb="watch"))

    assert sent == []
    assert error_detail(outcome.trailing).reason == "CIRCUIT_OPEN"
    assert suspended_flow([circuit.breaking], circuit.call())[1].probe


def test_transitions_are_reported_once_each_in_order(metric_log: MetricLog, caplog: pytest.LogCaptureFixture) -> None:
    """Listener, metric, log and the span of the causing call receive open, half-open and closed."""
    circuit = Circuit(FederationMetrics(metric_log.provider))
    trace = Trace()
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            answer([circuit.breaking], circuit.call(trace=trace), DOWN)
        circuit.clock.advance(30)
        answer([circuit.breaking], circuit.call(trace=trace), OK)

    changes = [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]
    assert [(transition.before, transition.after) for transition in circuit.transitions] == changes
    assert trace.events == [(CIRCUIT_EVENT, {"before": before, "after": after}) for before, after in changes]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "INFO"]
    assert caplog.messages[0] == (
        "circuit of work.example (user ada): closed to open after 5 failures in a row, next probe in 30 s"
    )
    assert metric_log.points("federation.circuit.transitions") == {
        (("peer", "work.example"), ("state", state)): 1 for state in ("open", "half_open", "closed")
    }


@pytest.mark.parametrize("verb", ["list", "watch"])
def test_the_opening_is_reported_again_after_a_call_admitted_before(verb: str) -> None:
    """A call admitted while closed may dial after the opening, so the opening is reported again while it lasts."""
    circuit = Circuit()
    early, late, last = (suspended_flow([circuit.breaking], circuit.call(verb=verb))[0] for _ in range(3))
    circuit.trip()
    [opened] = circuit.transitions
    with pytest.raises(StopIteration):
        early.send(DOWN)
    with pytest.raises(Cancelled):
        late.throw(Cancelled())
    assert circuit.transitions == [opened] * 3
    circuit.clock.advance(30)
    circuit.send(OK)
    heard = len(circuit.transitions)
    with pytest.raises(StopIteration):
        last.send(DOWN)
    assert len(circuit.transitions) == heard


def test_the_listener_may_use_the_circuit() -> None:
    """The listener is called outside the lock: reading the state from it does not deadlock."""
    circuit = Circuit()
    seen = []
    circuit.breaking = BreakingInterceptor(
        circuit.breaker, circuit.health, circuit.clock.clock, lambda _: seen.append(circuit.state)
    )
    circuit.trip()

    assert seen == [CircuitState.OPEN]


def test_a_broken_listener_costs_no_call_its_answer(caplog: pytest.LogCaptureFixture) -> None:
    """Its exception is logged; permit, probe and answer are unaffected."""
    circuit = Circuit()

    def broken(_: Transition) -> None:
        raise RuntimeError("listener")

    circuit.breaking = BreakingInterceptor(circuit.breaker, circuit.health, circuit.clock.clock, broken)
    circuit.trip()
    circuit.clock.advance(30)

    assert circuit.send(OK) == OK
    assert circuit.state is CircuitState.CLOSED
    assert "RuntimeError: listener" in caplog.text


def test_a_slow_peer_counts_where_a_threshold_is_set() -> None:
    """The circuit receives the time on the wire."""
    circuit = Circuit()
    circuit.breaking = BreakingInterceptor(
        CircuitBreaker(CircuitConfig(slow_call_s=0.5), lambda: 0.5), circuit.health, circuit.clock.clock
    )
    for _ in range(5):
        flow, _ = suspended_flow([circuit.breaking], circuit.call())
        circuit.clock.advance(0.6)
        with pytest.raises(StopIteration):
            flow.send(OK)

    assert error_detail(answer([circuit.breaking], circuit.call())[0].trailing).reason == "CIRCUIT_OPEN"


def test_health_records_every_wire_call_and_no_other() -> None:
    """Success, failure with its reason, and the time of answers are recorded; an open circuit adds nothing."""
    circuit = Circuit()
    for outcome, took_s in ((OK, 0.010), (served(Reason.SCOPE_VIOLATION), 0.030), (timed_out(), 2.0)):
        flow, _ = suspended_flow([circuit.breaking], circuit.call())
        circuit.clock.advance(took_s)
        with pytest.raises(StopIteration):
            flow.send(outcome)

    latency = circuit.health.latency()
    failure = circuit.health.last_failure
    assert latency is not None
    assert latency.p99_ms == pytest.approx(30.0)
    assert failure is not None
    assert (failure.code, failure.reason) == ("DEADLINE_EXCEEDED", "PEER_TIMEOUT")
    assert circuit.health.last_success_us == 1_800_000_000_010_000
    circuit.trip()
    before = circuit.health.last_failure
    circuit.clock.advance(1)
    answer([circuit.breaking], circuit.call())
    assert circuit.health.last_failure is before


def test_a_cancelled_call_says_nothing_of_the_peer() -> None:
    """A call that its caller cancelled is neither a latency nor a sign of life nor a failure."""
    circuit = Circuit()
    circuit.send(Outcome(grpc.StatusCode.CANCELLED))

    health = circuit.health
    assert (health.latency(), health.seen_us, health.last_failure) == (None, None, None)


@pytest.mark.parametrize(("budget_s", "state"), [(2.0, CircuitState.OPEN), (0.0, CircuitState.CLOSED)])
def test_a_timeout_is_classified_by_the_budget_at_the_start_of_the_call(budget_s: float, state: CircuitState) -> None:
    """A call that used up its budget counts as a failure; a call that began without a budget does not."""
    circuit = Circuit()
    for _ in range(5):
        flow, _ = suspended_flow([circuit.breaking], circuit.call(budget_s))
        circuit.clock.advance(budget_s)
        with pytest.raises(StopIteration):
            flow.send(from_wire(grpc.StatusCode.DEADLINE_EXCEEDED))

    assert circuit.state is state
