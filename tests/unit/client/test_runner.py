"""The runner by hand: who may step a flow, and with what. No gRPC, no loop."""

import itertools
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from federation.client.chain.flow import Call, Cancelled, Flight, Flow, Join, Outcome
from federation.client.chain.runner import FlowRunner, Suspension

CALL = Call("/m", "search", "tasks", "g", "work.example", "ada", b"", (), 10.0)
GOOD = Outcome(grpc.StatusCode.OK, b"good")


class HandDriver:
    """A driver whose wire, loop and timers a test operates by hand."""

    def __init__(self) -> None:
        self.sent: list[tuple[FlowRunner, Suspension, Call]] = []
        self.aborted = 0
        self.timers: list[tuple[float, Callable[[], object]]] = []
        self.posted: list[Callable[[], object]] = []
        self.answer: Outcome | BaseException | None = None
        self.during: Callable[[FlowRunner], object] = lambda _: None

    def send(self, run: FlowRunner, suspension: Suspension, call: Call) -> Outcome | None:
        self.sent.append((run, suspension, call))
        self.during(run)
        if isinstance(self.answer, BaseException):
            raise self.answer
        if self.answer is None:
            suspension.on_claim(self._abort)
        return self.answer

    def in_loop(self, function: Callable[[], object]) -> Callable[[], None]:
        return lambda: self.posted.append(function)

    def call_soon(self, function: Callable[[], object]) -> None:
        self.posted.append(function)

    def timer(self, at: float, function: Callable[[], object]) -> Callable[[], object]:
        entry = (at, function)
        self.timers.append(entry)
        return lambda: self.timers.remove(entry)

    def arrive(self, outcome: Outcome = GOOD) -> None:
        """Answer the oldest call."""
        run, suspension, _ = self.sent.pop(0)
        run.answer(suspension, outcome)

    def go_home(self) -> None:
        """Run the posted callbacks."""
        posted, self.posted = self.posted, []
        for function in posted:
            function()

    def _abort(self) -> None:
        self.aborted += 1


def plain(seen: list[Any]) -> Flow:
    """A flow that sends once and records how that ended."""
    try:
        outcome = yield CALL
    except BaseException as e:
        seen.append(type(e))
        raise
    finally:
        seen.append("finally")
    return outcome


def started(driver: HandDriver, flow: Flow) -> FlowRunner:
    """A runner of the flow, started."""
    run = FlowRunner(driver, flow)
    run.start()
    return run


def test_flow_without_the_wire_is_done_when_started() -> None:
    """A flow that yields nothing ends in `start`, and callbacks are called at once."""

    def flow() -> Flow:
        yield from ()
        return GOOD

    called: list[int] = []
    run = FlowRunner(HandDriver(), flow())
    run.when_done(lambda: called.append(1))
    run.start()
    run.when_done(lambda: called.append(2))
    assert (run.done, run.outcome, called) == (True, GOOD, [1, 2])


def test_answer_resumes_once() -> None:
    """The outcome is sent into the flow; a second answer, and a cancellation after it, do nothing."""
    driver, seen = HandDriver(), list[Any]()
    run = started(driver, plain(seen))
    suspension = driver.sent[0][1]
    driver.arrive()
    run.answer(suspension, Outcome(grpc.StatusCode.INTERNAL))
    assert run.outcome is GOOD
    assert not run.cancel()
    assert not run.resolve(GOOD)
    assert (seen, driver.aborted) == (["finally"], 0)


def test_cancel_reaches_flow_and_wire() -> None:
    """A suspended flow gets `Cancelled`, the wire call is cancelled once, and a late answer is dropped."""
    driver, seen = HandDriver(), list[Any]()
    run = started(driver, plain(seen))
    assert run.cancel()
    driver.arrive()
    assert isinstance(run.error, Cancelled)
    assert (seen, driver.aborted, run.outcome) == ([Cancelled, "finally"], 1, None)


def test_cancel_while_sending_cancels_the_wire_call() -> None:
    """A cancellation during `send` claims the suspension; the wire call that starts afterwards is cancelled."""
    driver, seen = HandDriver(), list[Any]()
    driver.during = lambda run: run.cancel()
    run = started(driver, plain(seen))
    assert isinstance(run.error, Cancelled)
    assert driver.aborted == 1


def test_cancel_while_the_flow_is_stepped_is_delivered_later() -> None:
    """A cancellation while the flow itself runs is delivered at its next suspension, before anything is sent."""
    driver = HandDriver()
    runs: list[FlowRunner] = []

    def flow() -> Flow:
        assert runs[0].cancel()
        return (yield CALL)

    runs.append(FlowRunner(driver, flow()))
    runs[0].start()
    assert isinstance(runs[0].error, Cancelled)
    assert driver.sent == []


def test_cancel_between_claim_and_suspension_is_not_lost() -> None:
    """A cancellation that finds the old suspension claimed is delivered at the next one."""
    driver = HandDriver()

    def flow() -> Flow:
        yield CALL
        return (yield CALL)

    run = started(driver, flow())
    _, suspension, _ = driver.sent[0]
    assert suspension.claim()
    assert run.cancel()
    run.resume(run._flow.send, GOOD)
    assert isinstance(run.error, Cancelled)
    assert len(driver.sent) == 1


def test_resolve_gives_an_outcome_in_place_of_the_wire() -> None:
    """`resolve` ends the wire call and gives the flow the outcome; `resolve_threadsafe` does so in the loop."""
    for resolve in (
        lambda run, _: run.resolve(GOOD),
        lambda run, driver: (run.resolve_threadsafe(GOOD), driver.go_home()),
    ):
        driver, seen = HandDriver(), list[Any]()
        run = started(driver, plain(seen))
        resolve(run, driver)
        assert (run.outcome, seen, driver.aborted) == (GOOD, ["finally"], 1)


def test_interrupt_in_the_driver_is_thrown_into_the_flow() -> None:
    """An exception of the driver, such as Ctrl-C in a blocking call, reaches the flow, which releases its resources."""
    driver, seen = HandDriver(), list[Any]()
    driver.answer = KeyboardInterrupt()
    run = started(driver, plain(seen))
    assert (type(run.error), seen) == (KeyboardInterrupt, [KeyboardInterrupt, "finally"])


def test_bug_in_a_flow_is_the_runners_error() -> None:
    """An exception that a flow raises by itself is the runner's error."""

    def flow() -> Flow:
        yield CALL
        raise ValueError("bug")

    driver = HandDriver()
    driver.answer = GOOD
    run = started(driver, flow())
    assert isinstance(run.error, ValueError)


def test_failed_sending_is_thrown_into_the_flow() -> None:
    """`fail` throws the error of the sending, once."""
    driver, seen = HandDriver(), list[Any]()
    run = started(driver, plain(seen))
    _, suspension, _ = driver.sent[0]
    run.fail(suspension, ValueError("broken"))
    run.fail(suspension, ValueError("again"))
    assert isinstance(run.error, ValueError)
    assert seen == [ValueError, "finally"]


def test_many_immediate_answers_do_not_recurse() -> None:
    """A flow may send ten thousand calls to a driver that answers at once."""

    def flow() -> Flow:
        for _ in range(10_000):
            yield CALL
        return GOOD

    driver = HandDriver()
    driver.answer = GOOD
    assert started(driver, flow()).outcome is GOOD


def test_force_cancel_ends_a_flow_whose_suspension_is_claimed() -> None:
    """`force_cancel` works although an interrupted driver had claimed the suspension."""
    driver, seen = HandDriver(), list[Any]()
    run = started(driver, plain(seen))
    driver.sent[0][1].claim()
    run.force_cancel()
    run.force_cancel()
    assert isinstance(run.error, Cancelled)
    assert driver.aborted == 1


def test_force_cancel_after_the_end_does_nothing() -> None:
    """A runner drops its suspension at its end, so that a finished wire call is not cancelled."""
    driver = HandDriver()
    run = started(driver, plain([]))
    driver.arrive()
    run.force_cancel()
    assert run.outcome is GOOD
    assert driver.aborted == 0


def test_cancel_soon_posts_the_cancellation() -> None:
    """`cancel_soon` does nothing by itself: the cancellation runs later in the driver's loop."""
    driver, seen = HandDriver(), list[Any]()
    run = started(driver, plain(seen))
    run.cancel_soon()
    assert not run.done
    driver.go_home()
    assert isinstance(run.error, Cancelled)
    run.cancel_soon()
    assert driver.posted == []


class Shared:
    """A flight with a leader and followers, each with a runner of its own."""

    def __init__(self, deadline: float = 10.0) -> None:
        self.driver = HandDriver()
        self.flight = Flight(deadline)
        self.seen: list[Any] = []
        self.flight.set_flow(plain(self.seen))

    def wait(self, deadline: float = 10.0) -> FlowRunner:
        """Start a runner that waits for the flight."""

        def flow() -> Flow:
            self.flight.join(deadline)
            try:
                return (yield Join(self.flight, deadline))
            finally:
                if self.flight.remove_waiter():
                    self.flight.cancel()

        return started(self.driver, flow())


def test_flight_runs_once_and_wakes_all() -> None:
    """The first waiter starts the flow; every waiter gets its outcome, a later one at once."""
    shared = Shared()
    runs = [shared.wait() for _ in range(3)]
    assert len(shared.driver.sent) == 1
    shared.driver.arrive()
    assert not runs[0].done
    shared.driver.go_home()
    assert [run.outcome for run in runs] == [GOOD] * 3
    assert shared.driver.timers == []
    assert shared.wait().outcome is GOOD


def test_flight_that_is_resolved_at_once() -> None:
    """A flight whose flow ends without waiting gives its outcome in the same step."""
    shared = Shared()
    shared.driver.answer = GOOD
    assert shared.wait().outcome is GOOD
    assert shared.driver.posted == []


def test_last_waiter_ends_the_flight() -> None:
    """Cancelling one waiter ends its wait; cancelling the last cancels the flight and its wire call in the loop."""
    shared = Shared()
    leader, follower = shared.wait(), shared.wait()
    leader.cancel()
    assert shared.seen == []
    follower.cancel()
    shared.driver.go_home()
    assert (shared.seen, shared.driver.aborted) == ([Cancelled, "finally"], 1)
    assert shared.flight.result().code is grpc.StatusCode.CANCELLED


def test_waiter_keeps_its_own_deadline() -> None:
    """A follower has a timer even when the leader's deadline is sooner: the leader's driver may have died."""
    shared = Shared(deadline=10.0)
    leader = shared.wait(10.0)
    hasty, patient = shared.wait(5.0), shared.wait(20.0)
    assert sorted(at for at, _ in shared.driver.timers) == [5.0, 10.25]
    shared.driver.timers[0][1]()
    assert hasty.outcome is not None
    assert hasty.outcome.code is grpc.StatusCode.DEADLINE_EXCEEDED
    shared.driver.arrive()
    shared.driver.go_home()
    assert leader.outcome is patient.outcome is GOOD


def test_waiter_does_not_outwait_a_flight_whose_driver_died() -> None:
    """A flight that is not done a quarter of a second after its deadline ends the wait, with the waiter's time left."""
    shared = Shared(deadline=10.0)
    shared.wait(10.0)
    late = shared.wait(60.0)
    [(at, fire)] = shared.driver.timers
    assert at == 10.25
    fire()
    assert late.outcome is not None
    assert late.outcome.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_leader_of_a_longer_flight_has_a_timer() -> None:
    """If the flight may run on after its leader, the leader's wait ends at its own deadline."""
    shared = Shared(deadline=20.0)
    leader = shared.wait(10.0)
    [(at, fire)] = shared.driver.timers
    assert at == 10.0
    fire()
    assert leader.outcome is not None
    assert leader.outcome.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_interrupt_of_the_leaders_thread_is_its_own() -> None:
    """Ctrl-C during the shared call is raised in the thread that made it; the other waiters may call again."""
    shared = Shared()
    followers: list[FlowRunner] = []

    def join(_: FlowRunner) -> None:
        shared.driver.during = lambda _: None
        followers.append(shared.wait())

    shared.driver.during = join
    shared.driver.answer = KeyboardInterrupt()
    leader = shared.wait()
    shared.driver.go_home()
    assert isinstance(leader.error, KeyboardInterrupt)
    assert followers[0].error is None
    assert followers[0].outcome is not None
    assert followers[0].outcome.code is grpc.StatusCode.CANCELLED


def test_bug_in_a_flight_is_the_error_of_every_waiter() -> None:
    """The exception of a shared flow is raised in each waiting flow."""
    shared = Shared()
    runs = [shared.wait(), shared.wait()]
    run, suspension, _ = shared.driver.sent[0]
    run.fail(suspension, ValueError("bug"))
    shared.driver.go_home()
    assert [type(run.error) for run in runs] == [ValueError, ValueError]


@pytest.mark.parametrize("order", list(itertools.permutations(["answer", "cancel", "resolve"])))
def test_only_the_first_of_several_events_counts(order: tuple[str, ...]) -> None:
    """Answer, cancellation and resolution in any order: the flow is resumed once, by the first."""
    driver, seen = HandDriver(), list[Any]()
    run = started(driver, plain(seen))
    _, suspension, _ = driver.sent[0]
    other = Outcome(grpc.StatusCode.PERMISSION_DENIED)
    events = {
        "answer": lambda: run.answer(suspension, GOOD),
        "cancel": run.cancel,
        "resolve": lambda: run.resolve(other),
    }
    for name in order:
        events[name]()
    expected = {"answer": GOOD, "cancel": None, "resolve": other}[order[0]]
    assert run.outcome is expected
    assert seen.count("finally") == 1


def test_cancel_that_races_with_the_suspension_is_not_lost() -> None:
    """A flow that suspends just before the cancellation is stored is found at its new suspension."""
    driver = HandDriver()

    def flow() -> Flow:
        yield CALL
        return (yield CALL)

    class Raced(FlowRunner):
        __slots__ = ()

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "_interruption" and value is not None and len(driver.sent) == 1:
                self.resume(self._flow.send, GOOD)  # what the thread that claimed the first step does meanwhile
            super().__setattr__(name, value)

    run = Raced(driver, flow())
    run.start()
    assert driver.sent[0][1].claim()
    assert run.cancel()
    assert isinstance(run.error, Cancelled)
    assert driver.aborted == 1


def test_driver_that_raises_after_sending_is_undone() -> None:
    """A wire call that the driver began before it raised is cancelled."""
    driver = HandDriver()

    def begin_and_break(_: FlowRunner) -> None:
        driver.sent[-1][1].on_claim(driver._abort)
        raise ValueError("broken")

    driver.during = begin_and_break
    run = started(driver, plain([]))
    assert isinstance(run.error, ValueError)
    assert driver.aborted == 1
