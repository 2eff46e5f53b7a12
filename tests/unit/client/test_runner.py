"""The driver's core by hand: who may step a flow, and with what. No gRPC, no loop."""

import itertools
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from federation.client.chain.flow import Call, Cancelled, Flight, Flow, Join, Outcome
from federation.client.chain.runner import FlowRunner, Step

CALL = Call("/m", "search", "tasks", "g", "work.example", "ada", b"", (), 10.0)
GOOD = Outcome(grpc.StatusCode.OK, b"good")


class HandPort:
    """A port whose wire, home and timers a test works by hand."""

    def __init__(self) -> None:
        self.sent: list[tuple[FlowRunner, Step, Call]] = []
        self.aborted = 0
        self.timers: list[tuple[float, Callable[[], object]]] = []
        self.posted: list[Callable[[], object]] = []
        self.answer: Outcome | BaseException | None = None
        self.during: Callable[[FlowRunner], object] = lambda _: None

    def send(self, run: FlowRunner, step: Step, call: Call) -> Outcome | None:
        self.sent.append((run, step, call))
        self.during(run)
        if isinstance(self.answer, BaseException):
            raise self.answer
        if self.answer is None:
            step.on_claim(self._abort)
        return self.answer

    def at_home(self, function: Callable[[], object]) -> Callable[[], None]:
        return lambda: self.posted.append(function)

    def soon(self, function: Callable[[], object]) -> None:
        self.posted.append(function)

    def timer(self, at: float, function: Callable[[], object]) -> Callable[[], object]:
        entry = (at, function)
        self.timers.append(entry)
        return lambda: self.timers.remove(entry)

    def arrive(self, outcome: Outcome = GOOD) -> None:
        """Answer the oldest call."""
        run, step, _ = self.sent.pop(0)
        run.answer(step, outcome)

    def go_home(self) -> None:
        """Do what was posted."""
        posted, self.posted = self.posted, []
        for function in posted:
            function()

    def _abort(self) -> None:
        self.aborted += 1


def plain(seen: list[Any]) -> Flow:
    """A flow that sends once and notes how that ended."""
    try:
        outcome = yield CALL
    except BaseException as e:
        seen.append(type(e))
        raise
    finally:
        seen.append("finally")
    return outcome


def started(port: HandPort, flow: Flow) -> FlowRunner:
    """A run of the flow, started."""
    run = FlowRunner(port, flow)
    run.start()
    return run


def test_flow_without_the_wire_is_done_when_started() -> None:
    """A flow that yields nothing ends in `start`, and callbacks come at once."""

    def flow() -> Flow:
        yield from ()
        return GOOD

    called: list[int] = []
    run = FlowRunner(HandPort(), flow())
    run.when_done(lambda: called.append(1))
    run.start()
    run.when_done(lambda: called.append(2))
    assert (run.done, run.outcome, called) == (True, GOOD, [1, 2])


def test_answer_resumes_once() -> None:
    """The outcome goes into the flow; a second answer to the same step, and a cancellation after it, do nothing."""
    port, seen = HandPort(), list[Any]()
    run = started(port, plain(seen))
    step = port.sent[0][1]
    port.arrive()
    run.answer(step, Outcome(grpc.StatusCode.INTERNAL))
    assert run.outcome is GOOD
    assert not run.cancel()
    assert not run.resolve(GOOD)
    assert (seen, port.aborted) == (["finally"], 0)


def test_cancel_reaches_flow_and_wire() -> None:
    """A parked flow gets `Cancelled`, the wire call is aborted once, and a late answer is dropped."""
    port, seen = HandPort(), list[Any]()
    run = started(port, plain(seen))
    assert run.cancel()
    port.arrive()
    assert isinstance(run.error, Cancelled)
    assert (seen, port.aborted, run.outcome) == ([Cancelled, "finally"], 1, None)


def test_cancel_while_sending_aborts_what_was_sent() -> None:
    """A cancellation that comes while the port sends claims the step; what the port then starts is aborted."""
    port, seen = HandPort(), list[Any]()
    port.during = lambda run: run.cancel()
    run = started(port, plain(seen))
    assert isinstance(run.error, Cancelled)
    assert port.aborted == 1


def test_cancel_while_the_flow_is_stepped_is_kept() -> None:
    """A cancellation that comes while the flow itself runs is delivered when it parks, before anything is sent."""
    port = HandPort()
    runs: list[FlowRunner] = []

    def flow() -> Flow:
        assert runs[0].cancel()
        return (yield CALL)

    runs.append(FlowRunner(port, flow()))
    runs[0].start()
    assert isinstance(runs[0].error, Cancelled)
    assert port.sent == []


def test_cancel_between_claim_and_park_is_not_lost() -> None:
    """A cancellation that finds the old step claimed is delivered at the next one."""
    port = HandPort()

    def flow() -> Flow:
        yield CALL
        return (yield CALL)

    run = started(port, flow())
    _, step, _ = port.sent[0]
    assert step.claim()
    assert run.cancel()
    run.resume(run._flow.send, GOOD)
    assert isinstance(run.error, Cancelled)
    assert len(port.sent) == 1


def test_resolve_gives_an_outcome_in_place_of_the_wire() -> None:
    """`resolve` ends the wire call and lets the flow have the outcome; `cut` does it at home."""
    for resolve in (lambda run, _: run.resolve(GOOD), lambda run, port: (run.cut(GOOD), port.go_home())):
        port, seen = HandPort(), list[Any]()
        run = started(port, plain(seen))
        resolve(run, port)
        assert (run.outcome, seen, port.aborted) == (GOOD, ["finally"], 1)


def test_interrupt_in_the_port_is_thrown_into_the_flow() -> None:
    """What the port raises, Ctrl-C in a blocking call, is seen by the flow, which gives back what it holds."""
    port, seen = HandPort(), list[Any]()
    port.answer = KeyboardInterrupt()
    run = started(port, plain(seen))
    assert (type(run.error), seen) == (KeyboardInterrupt, [KeyboardInterrupt, "finally"])


def test_bug_in_a_flow_is_the_runs_error() -> None:
    """An exception that a flow raises by itself ends the run."""

    def flow() -> Flow:
        yield CALL
        raise ValueError("bug")

    port = HandPort()
    port.answer = GOOD
    run = started(port, flow())
    assert isinstance(run.error, ValueError)


def test_failed_sending_is_thrown_into_the_flow() -> None:
    """`fail` throws what broke the sending, once."""
    port, seen = HandPort(), list[Any]()
    run = started(port, plain(seen))
    _, step, _ = port.sent[0]
    run.fail(step, ValueError("broken"))
    run.fail(step, ValueError("again"))
    assert isinstance(run.error, ValueError)
    assert seen == [ValueError, "finally"]


def test_many_immediate_answers_do_not_recurse() -> None:
    """A flow may ask ten thousand times of a port that answers at once."""

    def flow() -> Flow:
        for _ in range(10_000):
            yield CALL
        return GOOD

    port = HandPort()
    port.answer = GOOD
    assert started(port, flow()).outcome is GOOD


def test_kill_ends_a_flow_that_nobody_may_step_any_more() -> None:
    """`kill` works though the step was claimed by a driver that an interrupt took away."""
    port, seen = HandPort(), list[Any]()
    run = started(port, plain(seen))
    port.sent[0][1].claim()
    run.kill()
    run.kill()
    assert isinstance(run.error, Cancelled)
    assert port.aborted == 1


def test_kill_after_the_end_leaves_the_last_step_alone() -> None:
    """A run forgets its parked step at its end, so that nothing of a finished wire call is aborted."""
    port = HandPort()
    run = started(port, plain([]))
    port.arrive()
    run.kill()
    assert run.outcome is GOOD
    assert port.aborted == 0


def test_drop_posts_the_cancellation() -> None:
    """A finalizer does nothing by itself: the cancellation happens at home, later."""
    port, seen = HandPort(), list[Any]()
    run = started(port, plain(seen))
    run.drop()
    assert not run.done
    port.go_home()
    assert isinstance(run.error, Cancelled)
    run.drop()
    assert port.posted == []


class Shared:
    """A flight with a leader and followers, each a run of its own."""

    def __init__(self, deadline: float = 10.0) -> None:
        self.port = HandPort()
        self.flight = Flight(deadline, 1)
        self.seen: list[Any] = []
        self.flight.launch(plain(self.seen))

    def wait(self, deadline: float = 10.0) -> FlowRunner:
        """Start one who waits for the flight."""

        def flow() -> Flow:
            self.flight.join(deadline)
            try:
                return (yield Join(self.flight, deadline))
            finally:
                if self.flight.leave():
                    self.flight.abort()

        return started(self.port, flow())


def test_flight_runs_once_and_wakes_all() -> None:
    """The first waiter starts the flow; everybody gets its outcome, late comers at once."""
    shared = Shared()
    runs = [shared.wait() for _ in range(3)]
    assert len(shared.port.sent) == 1
    shared.port.arrive()
    assert not runs[0].done
    shared.port.go_home()
    assert [run.outcome for run in runs] == [GOOD] * 3
    assert shared.port.timers == []
    assert shared.wait().outcome is GOOD


def test_flight_that_lands_at_once() -> None:
    """A flight whose flow ends without waiting gives its outcome in the same step."""
    shared = Shared()
    shared.port.answer = GOOD
    assert shared.wait().outcome is GOOD
    assert shared.port.posted == []


def test_last_waiter_ends_the_flight() -> None:
    """Cancelling one waiter ends its wait; cancelling the last ends the flight and its wire call, by way of home."""
    shared = Shared()
    leader, follower = shared.wait(), shared.wait()
    leader.cancel()
    assert shared.seen == []
    follower.cancel()
    shared.port.go_home()
    assert (shared.seen, shared.port.aborted) == ([Cancelled, "finally"], 1)
    assert shared.flight.result().code is grpc.StatusCode.CANCELLED


def test_waiter_keeps_its_own_deadline() -> None:
    """A follower has a timer even when the leader's deadline is sooner: the leader's driver may have died."""
    shared = Shared(deadline=10.0)
    leader = shared.wait(10.0)
    hasty, patient = shared.wait(5.0), shared.wait(20.0)
    assert sorted(at for at, _ in shared.port.timers) == [5.0, 10.25]
    shared.port.timers[0][1]()
    assert hasty.outcome is not None
    assert hasty.outcome.code is grpc.StatusCode.DEADLINE_EXCEEDED
    shared.port.arrive()
    shared.port.go_home()
    assert leader.outcome is patient.outcome is GOOD


def test_waiter_does_not_outwait_a_flight_whose_driver_is_gone() -> None:
    """A quarter of a second after its deadline a flight that did not land is given up, with the waiter's time left."""
    shared = Shared(deadline=10.0)
    shared.wait(10.0)
    late = shared.wait(60.0)
    [(at, fire)] = shared.port.timers
    assert at == 10.25
    fire()
    assert late.outcome is not None
    assert late.outcome.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_leader_of_a_longer_flight_has_a_timer() -> None:
    """Where the flight may run on after its leader, the leader's wait ends in its time."""
    shared = Shared(deadline=20.0)
    leader = shared.wait(10.0)
    [(at, fire)] = shared.port.timers
    assert at == 10.0
    fire()
    assert leader.outcome is not None
    assert leader.outcome.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_interrupt_of_the_leaders_thread_is_its_own() -> None:
    """Ctrl-C during the shared call is raised in the thread that made it; whoever else waits may ask again."""
    shared = Shared()
    followers: list[FlowRunner] = []

    def join(_: FlowRunner) -> None:
        shared.port.during = lambda _: None
        followers.append(shared.wait())

    shared.port.during = join
    shared.port.answer = KeyboardInterrupt()
    leader = shared.wait()
    shared.port.go_home()
    assert isinstance(leader.error, KeyboardInterrupt)
    assert followers[0].error is None
    assert followers[0].outcome is not None
    assert followers[0].outcome.code is grpc.StatusCode.CANCELLED


def test_bug_in_a_flight_is_everybodys_error() -> None:
    """A shared flow that breaks breaks each waiting flow, by the same exception."""
    shared = Shared()
    runs = [shared.wait(), shared.wait()]
    run, step, _ = shared.port.sent[0]
    run.fail(step, ValueError("bug"))
    shared.port.go_home()
    assert [type(run.error) for run in runs] == [ValueError, ValueError]


@pytest.mark.parametrize("order", list(itertools.permutations(["answer", "cancel", "resolve"])))
def test_only_the_first_of_several_events_counts(order: tuple[str, ...]) -> None:
    """Answer, cancellation and resolution in any order: the flow is resumed once, by the first."""
    port, seen = HandPort(), list[Any]()
    run = started(port, plain(seen))
    _, step, _ = port.sent[0]
    other = Outcome(grpc.StatusCode.PERMISSION_DENIED)
    events = {
        "answer": lambda: run.answer(step, GOOD),
        "cancel": run.cancel,
        "resolve": lambda: run.resolve(other),
    }
    for name in order:
        events[name]()
    expected = {"answer": GOOD, "cancel": None, "resolve": other}[order[0]]
    assert run.outcome is expected
    assert seen.count("finally") == 1


def test_cancel_that_races_with_parking_is_not_lost() -> None:
    """A flow that parks just before the cancellation is noted is found at its new step."""
    port = HandPort()

    def flow() -> Flow:
        yield CALL
        return (yield CALL)

    class Raced(FlowRunner):
        __slots__ = ()

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "_late" and value is not None and len(port.sent) == 1:
                self.resume(self._flow.send, GOOD)  # what the thread that claimed the first step does meanwhile
            super().__setattr__(name, value)

    run = Raced(port, flow())
    run.start()
    assert port.sent[0][1].claim()
    assert run.cancel()
    assert isinstance(run.error, Cancelled)
    assert port.aborted == 1


def test_port_that_breaks_after_it_began_is_undone() -> None:
    """What a port began before it raised is ended."""
    port = HandPort()

    def begin_and_break(_: FlowRunner) -> None:
        port.sent[-1][1].on_claim(port._abort)
        raise ValueError("broken")

    port.during = begin_and_break
    run = started(port, plain([]))
    assert isinstance(run.error, ValueError)
    assert port.aborted == 1
