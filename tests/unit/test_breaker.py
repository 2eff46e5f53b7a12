"""The circuit breaker as a table, as histories, and under threads."""

import ast
import inspect
import sys
import threading
from dataclasses import replace

import grpc
import pytest

import federation.breaker
from federation.breaker import (
    PROBE_WAIT_S,
    CallResult,
    CircuitBreaker,
    CircuitState,
    Denied,
    Permit,
    Transition,
    classify,
)
from federation.config import CircuitConfig
from federation.errors import CODE_OF, Reason

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
SUCCESS, FAILURE, IGNORED = CallResult.SUCCESS, CallResult.FAILURE, CallResult.IGNORED


class History:
    """A circuit with its clock."""

    def __init__(self, chance: float = 0.5, **settings: float) -> None:
        self.now = 100.0
        self.breaker = CircuitBreaker(replace(CircuitConfig(), **settings), lambda: chance)  # type: ignore[arg-type]

    def permit(self) -> Permit:
        permit = self.breaker.allow(self.now)
        assert isinstance(permit, Permit)
        return permit

    def denied(self) -> float:
        denied = self.breaker.allow(self.now)
        assert isinstance(denied, Denied)
        return denied.retry_after_s

    def end(self, permit: Permit, result: CallResult, took_s: float = 0.0) -> Transition | None:
        return self.breaker.record(permit, result, self.now, took_s=took_s)

    def call(self, *result: CallResult) -> Transition | None:
        transition = None
        for one in result:
            transition = self.end(self.permit(), one)
        return transition

    @property
    def state(self) -> CircuitState:
        return self.breaker.snapshot(self.now).state

    def tripped(self) -> "History":
        self.call(*[FAILURE] * 5)
        assert self.state is OPEN
        return self


def expected_result(code: str, reason: str, local: bool, budget_s: float) -> CallResult:
    """The rule of DESIGN, written a second time and in another order."""
    if local and reason not in {"PEER_UNREACHABLE", "PEER_TIMEOUT"}:
        return IGNORED
    return {
        "CANCELLED": IGNORED,
        "RESOURCE_EXHAUSTED": IGNORED,
        "DEADLINE_EXCEEDED": FAILURE if budget_s >= 1.0 else IGNORED,
        "UNAVAILABLE": FAILURE,
        "INTERNAL": FAILURE,
        "UNKNOWN": FAILURE,
        "DATA_LOSS": FAILURE,
    }.get(code, SUCCESS)


@pytest.mark.parametrize("code", [code.name for code in grpc.StatusCode])
def test_every_code_with_every_reason_has_its_result(code: str) -> None:
    """The table from (code, reason, local, budget) to the result holds for each gRPC code and each reason."""
    for reason in ("", "SOMETHING_ELSE", *Reason):
        for local in (False, True):
            for budget_s in (-1.0, 0.0, 0.999, 1.0, 2.0):
                expected = expected_result(code, reason, local, budget_s)

                assert classify(code, reason, local=local, wire_budget_s=budget_s) is expected


@pytest.mark.parametrize(
    ("reason", "local", "result"),
    [
        (Reason.PEER_UNREACHABLE, True, FAILURE),
        (Reason.PEER_TIMEOUT, True, FAILURE),
        (Reason.INTERNAL, False, FAILURE),
        (Reason.CIRCUIT_OPEN, True, IGNORED),
        (Reason.CERTIFICATE_INVALID, True, IGNORED),
        (Reason.RATE_LIMITED, False, IGNORED),
        (Reason.INTERNAL, True, IGNORED),
        (Reason.CERTIFICATE_INVALID, False, SUCCESS),
        (Reason.GRANT_REVOKED, False, SUCCESS),
        (Reason.GRANT_INVALID, False, SUCCESS),
        (Reason.SCOPE_VIOLATION, False, SUCCESS),
        (Reason.ROW_NOT_FOUND, False, SUCCESS),
        (Reason.INVALID_REQUEST, False, SUCCESS),
    ],
)
def test_each_reason_as_it_really_comes(reason: Reason, local: bool, result: CallResult) -> None:
    """A refusal proves the peer alive; an error of this gateway itself counts only if the peer was unreachable."""
    assert classify(CODE_OF[reason], reason, local=local, wire_budget_s=2.0) is result


def test_the_defaults_of_classify() -> None:
    """By default a timeout counts as a failure, and an OK as a success."""
    assert classify("DEADLINE_EXCEEDED") is FAILURE
    assert classify("OK") is SUCCESS


def test_five_failures_in_a_row_open_it() -> None:
    """The fifth consecutive failure opens the circuit for the cooldown, and not the fourth."""
    circuit = History()

    assert circuit.call(*[FAILURE] * 4) is None
    assert circuit.state is CLOSED
    assert circuit.call(FAILURE) == Transition(CLOSED, OPEN, 1, 5, 30.0)
    assert circuit.state is OPEN
    assert circuit.denied() == 30.0


def test_a_success_between_failures_starts_the_count_again() -> None:
    """Only consecutive failures count; an ignored result neither counts nor interrupts."""
    circuit = History()
    circuit.call(*[FAILURE] * 4, SUCCESS, *[FAILURE] * 4)
    assert circuit.state is CLOSED

    circuit.call(IGNORED, IGNORED, FAILURE)

    assert circuit.state is OPEN


def test_the_cooldown_ends_to_the_moment() -> None:
    """Just before its end every call is denied with the time left; at its end one caller gets the probe."""
    circuit = History().tripped()
    circuit.now += 29.75
    assert circuit.denied() == 0.25

    circuit.now += 0.25
    permit = circuit.permit()

    assert permit.probe
    assert permit.transition == Transition(OPEN, HALF_OPEN, 2, 5, 0.0)


def test_half_open_lets_one_probe_through_at_a_time() -> None:
    """While the probe is under way other callers are denied, with a short time to wait."""
    circuit = History().tripped()
    circuit.now += 30
    circuit.permit()

    assert [circuit.denied() for _ in range(3)] == [PROBE_WAIT_S] * 3
    circuit.now += 1_000
    assert circuit.denied() == PROBE_WAIT_S


def test_the_permit_of_a_probe_that_never_ends_expires() -> None:
    """A second after the deadline of an unrecorded probe another may go; the first one's end is ignored."""
    circuit = History().tripped()
    circuit.now += 30
    lost = circuit.breaker.allow(circuit.now, circuit.now + 2)
    assert isinstance(lost, Permit)
    assert lost.probe

    circuit.now += 2.999
    assert circuit.denied() == PROBE_WAIT_S
    circuit.now += 0.001
    second = circuit.permit()
    assert second.probe
    assert second.transition is None
    assert circuit.breaker.record(lost, FAILURE, circuit.now) is None
    assert circuit.denied() == PROBE_WAIT_S
    closing = circuit.breaker.record(second, SUCCESS, circuit.now)
    assert closing is not None
    assert closing.after is CLOSED


def test_a_probe_that_succeeds_closes_and_resets() -> None:
    """A successful probe resets the failures and the grown cooldown."""
    circuit = History().tripped()
    for cooldown in (30, 60, 120):
        circuit.now += cooldown
        circuit.call(FAILURE)
    circuit.now += 240

    assert circuit.call(SUCCESS) == Transition(HALF_OPEN, CLOSED, 9, 0, 0.0)
    assert circuit.breaker.snapshot(circuit.now) == (CLOSED, 0, None, None)
    assert circuit.call(*[FAILURE] * 4) is None
    opened = circuit.call(FAILURE)
    assert opened is not None
    assert opened.retry_in_s == 30.0


def test_the_cooldown_doubles_while_probes_fail_up_to_its_bound() -> None:
    """30 s, doubling with each failed probe, never beyond five minutes; failures are still counted."""
    circuit = History()
    circuit.call(*[FAILURE] * 4)
    cooldowns = []
    for _ in range(8):
        transition = circuit.call(FAILURE)
        assert transition is not None
        cooldowns.append(transition.retry_in_s)
        circuit.now += transition.retry_in_s

    assert cooldowns == [30, 60, 120, 240, 300, 300, 300, 300]
    assert circuit.breaker.snapshot(circuit.now).consecutive_failures == 12


def test_a_circuit_that_fails_for_years_keeps_its_bound() -> None:
    """Thousands of failed probes overflow nothing."""
    circuit = History().tripped()
    for _ in range(3_000):
        circuit.now += 300
        circuit.call(FAILURE)

    assert circuit.denied() == 300


@pytest.mark.parametrize(("chance", "cooldown"), [(0.0, 27.0), (0.5, 30.0), (1.0, 33.0)])
def test_jitter_is_a_tenth_either_way(chance: float, cooldown: float) -> None:
    """The random share lengthens or shortens a cooldown by at most a tenth."""
    circuit = History(chance).tripped()

    assert circuit.denied() == pytest.approx(cooldown)


def test_no_jitter_when_none_is_set() -> None:
    """With jitter 0 chance changes nothing."""
    assert History(1.0, jitter=0.0).tripped().denied() == 30.0


@pytest.mark.parametrize("end", [IGNORED, None])
def test_an_ignored_probe_frees_the_slot(end: CallResult | None) -> None:
    """A cancelled or ignored probe neither closes nor reopens: the next caller probes at once."""
    circuit = History().tripped()
    circuit.now += 30
    for _ in range(10):
        probe = circuit.permit()
        assert probe.probe
        assert circuit.end(probe, end or IGNORED) is None
        assert circuit.state is HALF_OPEN

    assert circuit.permit().transition is None


def test_results_of_an_older_generation_change_nothing() -> None:
    """A slow call that began before the opening neither closes the circuit nor fails the probe when it ends."""
    circuit = History()
    slow = circuit.permit()
    circuit.tripped()

    assert circuit.end(slow, SUCCESS) is None
    assert circuit.state is OPEN
    circuit.now += 30
    probe = circuit.permit()
    assert circuit.end(slow, FAILURE) is None
    assert circuit.end(slow, SUCCESS) is None
    assert circuit.state is HALF_OPEN
    circuit.end(probe, SUCCESS)
    circuit.call(*[FAILURE] * 4)
    assert circuit.end(slow, FAILURE) is None
    assert circuit.state is CLOSED


def test_a_probe_permit_counts_once() -> None:
    """Recording one probe's permit twice does not end the next probe."""
    circuit = History().tripped()
    circuit.now += 30
    first = circuit.permit()
    circuit.end(first, IGNORED)
    second = circuit.permit()

    assert circuit.end(first, SUCCESS) is None
    assert circuit.state is HALF_OPEN
    assert circuit.denied() == PROBE_WAIT_S
    assert circuit.end(second, SUCCESS) is not None


def test_opened_at_is_when_it_last_left_closed() -> None:
    """Failed probes do not move the time since which the peer is down."""
    circuit = History().tripped()
    circuit.now += 30
    circuit.call(FAILURE)
    circuit.now += 10

    assert circuit.breaker.snapshot(circuit.now) == (OPEN, 6, 40.0, 50.0)
    circuit.now += 50
    assert circuit.breaker.snapshot(circuit.now) == (HALF_OPEN, 6, 90.0, 0.0)
    probe = circuit.permit()
    assert circuit.breaker.snapshot(circuit.now) == (HALF_OPEN, 6, 90.0, 0.0)
    circuit.end(probe, SUCCESS)
    circuit.now += 100
    circuit.tripped()
    assert circuit.breaker.snapshot(circuit.now).opened_ago_s == 0.0


def test_reset_closes_and_clears_the_counters() -> None:
    """A reset closes the circuit and clears the grown cooldown; calls under way no longer count."""
    circuit = History().tripped()
    circuit.now += 30
    circuit.call(FAILURE)
    circuit.now += 60
    probe = circuit.permit()

    reset = circuit.breaker.reset()

    assert reset is not None
    assert (reset.before, reset.after, reset.consecutive_failures) == (HALF_OPEN, CLOSED, 0)
    assert circuit.end(probe, FAILURE) is None
    assert circuit.breaker.snapshot(circuit.now) == (CLOSED, 0, None, None)
    assert circuit.tripped().denied() == 30.0


def test_a_reset_clears_the_probe_under_way() -> None:
    """After the next opening a probe may go, though the one from before the reset was never recorded."""
    circuit = History().tripped()
    circuit.now += 30.0
    circuit.permit()
    circuit.breaker.reset()
    circuit.call(*[FAILURE] * 5)
    circuit.now += 30.0

    assert circuit.permit().probe


def test_reset_of_a_closed_circuit_is_no_transition_and_forgets_the_count() -> None:
    """Resetting a healthy circuit reports nothing, yet four failures before it do not count after it."""
    circuit = History()
    circuit.call(*[FAILURE] * 4)
    late = circuit.permit()

    assert circuit.breaker.reset() is None
    assert circuit.end(late, FAILURE) is None
    circuit.call(*[FAILURE] * 4)
    assert circuit.state is CLOSED


def test_slow_answers_fail_where_a_threshold_is_set() -> None:
    """With `slow_call_s` a slower success is a failure, one as slow is not; an ignored result stays ignored."""
    circuit = History(slow_call_s=1.0)
    for took_s in (1.001, 1.5, 2.0, 9.0):
        circuit.end(circuit.permit(), SUCCESS, took_s)
    circuit.end(circuit.permit(), IGNORED, 9.0)
    assert circuit.state is CLOSED

    circuit.end(circuit.permit(), SUCCESS, 1.001)

    assert circuit.state is OPEN
    fast = History(slow_call_s=1.0)
    for took_s in (1.0, 0.5, 0.0):
        for _ in range(5):
            fast.end(fast.permit(), SUCCESS, took_s)
    eager = History(slow_call_s=0.5)
    assert eager.breaker.record(eager.permit(), SUCCESS, eager.now) is None
    assert eager.breaker.snapshot(eager.now).consecutive_failures == 0
    assert fast.breaker.snapshot(fast.now).consecutive_failures == 0


def test_speed_does_not_count_by_default() -> None:
    """Without a threshold the slowest success is a success."""
    circuit = History()
    for _ in range(10):
        circuit.end(circuit.permit(), SUCCESS, 1e9)

    assert circuit.breaker.snapshot(circuit.now).consecutive_failures == 0


def test_check_takes_no_permit() -> None:
    """The watch may go only while the circuit is closed, and `check` leaves the probe to other callers."""
    circuit = History()
    assert circuit.breaker.check(circuit.now) is None

    circuit.tripped()
    assert circuit.breaker.check(circuit.now + 10) == Denied(20.0)
    assert circuit.breaker.check(circuit.now + 29.75) == Denied(0.25)
    circuit.now += 30
    assert circuit.breaker.check(circuit.now) == Denied(PROBE_WAIT_S)
    assert circuit.breaker.check(circuit.now + 5) == Denied(PROBE_WAIT_S)
    assert circuit.permit().probe


def test_settings_are_obeyed() -> None:
    """Threshold, cooldown and bound are those of the settings."""
    circuit = History(failure_threshold=2, cooldown_s=4.0, max_cooldown_s=6.0)
    circuit.call(FAILURE, FAILURE)
    assert circuit.denied() == 4.0

    circuit.now += 4
    circuit.call(FAILURE)

    assert circuit.denied() == 6.0


def test_a_bound_below_the_first_cooldown_holds() -> None:
    """If the bound is smaller than the first cooldown, the bound is the cooldown."""
    assert History(cooldown_s=30.0, max_cooldown_s=10.0).tripped().denied() == 10.0


def test_fifty_threads_race_for_one_probe() -> None:
    """Of 50 threads that call `allow` at the same moment exactly one gets the permit, in every round."""
    circuit = History().tripped()
    for _ in range(20):
        circuit.now += 300
        barrier, permits = threading.Barrier(50), []

        def ask(barrier: threading.Barrier = barrier, permits: list[Permit] = permits) -> None:
            barrier.wait()
            permit = circuit.breaker.allow(circuit.now)
            if isinstance(permit, Permit):
                permits.append(permit)

        threads = [threading.Thread(target=ask) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert [permit.probe for permit in permits] == [True]
        circuit.end(permits[0], FAILURE)


def test_the_module_is_pure() -> None:
    """The policy imports the standard library and the package's error reasons only."""
    tree = ast.parse(inspect.getsource(federation.breaker))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}

    assert imported - set(sys.stdlib_module_names) <= {"collections.abc", "federation.errors"}
    assert not imported & {"asyncio", "time"}
