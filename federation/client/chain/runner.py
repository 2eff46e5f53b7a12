"""What steps a flow, for every driver: no I/O here, only who may step, when, and with what."""

from collections.abc import Callable
from math import inf
from typing import Any, Final, Protocol

from federation.client.chain.flow import Call, Cancelled, Flight, Flow, Join, Outcome
from federation.client.chain.outcomes import interrupted, timed_out

__all__ = ["Driver", "FlowRunner", "Step"]

Resume = Callable[[Any], Call | Join]
_GRACE_S: Final = 0.25
"""How long after its deadline a flight of somebody else is waited for: beyond it, whoever drove it is gone."""


class Step:
    """A flow that is parked.

    Whoever claims the step may resume the flow, so an answer, a timer, a cancellation and a flight that arrive
    together can't resume it twice.
    """

    __slots__ = ("_claims", "_undo")

    def __init__(self) -> None:
        self._claims = [True]
        self._undo: list[Callable[[], object]] = []

    def claim(self) -> bool:
        """Take the right to resume; `False` where somebody else has it."""
        try:
            return self._claims.pop()  # atomic
        except IndexError:
            return False

    def on_claim(self, undo: Callable[[], object]) -> None:
        """Have `undo` (end the wire call, stop the timer) called once the step is claimed; at once if it has been."""
        self._undo.append(undo)
        if not self._claims:
            self.undo()

    def undo(self) -> None:
        """Let go of what the step waited for. Whoever claims a step without its answer calls this."""
        while self._undo:
            try:
                undo = self._undo.pop()
            except IndexError:
                return
            undo()


class Driver(Protocol):
    """What a driver does for a run. Nothing that it hands out may raise when it is called."""

    def send(self, run: "FlowRunner", step: Step, call: Call) -> Outcome | None:
        """Send the call. Return its outcome; or `None`, and later claim the step and `run.resume` with it.

        What it raises (an interrupt, a bug) is thrown into the flow.
        """
        ...

    def at_home(self, function: Callable[[], object]) -> Callable[[], None]:
        """Return a function that any thread may call, to have `function` called where this driver's flows run."""
        ...

    def soon(self, function: Callable[[], object]) -> None:
        """Have `function` called at home a little later: for finalizers, which may run inside any lock."""
        ...

    def timer(self, at: float, function: Callable[[], object]) -> Callable[[], object]:
        """Call `function` at home at the monotonic instant `at`; return how to stop it."""
        ...


class FlowRunner:
    """One flow under way: from its start until `done`, with either an `outcome` or an `error`.

    The error is `Cancelled`, an interrupt of the process, or a bug of the flow. A failed RPC is an outcome.
    """

    __slots__ = ("__weakref__", "_callbacks", "_flow", "_late", "_parked", "_port", "done", "error", "outcome", "owner")

    def __init__(self, port: Driver, flow: Flow, owner: object = None) -> None:
        self.owner = owner
        self.done = False
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None
        self._port = port
        self._flow = flow
        self._parked: Step | None = None
        self._late: tuple[Resume, Any] | None = None
        self._callbacks: list[Callable[[], object]] = []

    def start(self) -> None:
        """Step the flow until it ends or waits for something."""
        self.resume(self._flow.send, None)

    def resume(self, resume: Resume, value: Any) -> None:
        """Go on, by a step that the caller has claimed: `value` is sent or thrown into the flow."""
        while True:
            try:
                yielded = resume(value)
            except StopIteration as end:
                self._finish(end.value, None)
                return
            except BaseException as e:  # noqa: BLE001 - a flow's end by any exception is this run's end
                self._finish(None, e)
                return
            step = Step()
            self._parked = step  # before the look at `_late`: whoever comes later finds the step
            following = self._wait(step, yielded)
            if following is None:
                return
            resume, value = following

    def answer(self, step: Step, outcome: Outcome) -> None:
        """Go on with the outcome of a wire call, unless somebody else claimed the step."""
        if step.claim():
            self.resume(self._flow.send, outcome)

    def fail(self, step: Step, error: BaseException) -> None:
        """Go on by throwing what broke the sending, unless somebody else claimed the step."""
        if step.claim():
            self.resume(self._flow.throw, error)

    def cancel(self) -> bool:
        """End the flow by throwing `Cancelled` into it; `False` if it has ended."""
        if self.done:
            return False
        self._interrupt(self._flow.throw, Cancelled())
        return True

    def resolve(self, outcome: Outcome) -> bool:
        """Let what the flow waits for have this outcome, and drop the real one; `False` if the flow has ended."""
        if self.done:
            return False
        self._interrupt(self._flow.send, outcome)
        return True

    def cut(self, outcome: Outcome) -> None:
        """`resolve` from any thread: it happens where the driver's flows run, at once where that can be."""
        self._port.at_home(lambda: self.resolve(outcome))()

    def drop(self) -> None:
        """Cancel the flow because nobody holds its call any more; safe in a finalizer."""
        if not self.done:
            self._port.soon(self.cancel)

    def kill(self) -> None:
        """Cancel without regard to who may step. Only for a driver whose one thread does all stepping."""
        if self._parked is not None:
            self._parked.claim()
            self._parked.undo()
        if not self.done:
            self.resume(self._flow.throw, Cancelled())

    def when_done(self, callback: Callable[[], object]) -> None:
        """Call `callback` once at the end, in the thread that brought it; at once if it has come."""
        self._callbacks.append(callback)
        if self.done:
            self._call_back()

    def _wait(self, step: Step, yielded: Call | Join) -> tuple[Resume, Any] | None:
        """Begin what the flow asked for. Return how to go on at once, or `None` when somebody else will."""
        late = self._take_late(step)
        if late is None:
            try:
                ready = self._begin(step, yielded)
            except BaseException as e:  # noqa: BLE001 - Ctrl-C in a blocking port, and bugs: the flow must see them
                step.undo()
                ready = (self._flow.throw, e)
            if ready is not None:
                return ready if step.claim() else None
            late = self._take_late(step)
        return late

    def _begin(self, step: Step, yielded: Call | Join) -> tuple[Resume, Any] | None:
        if isinstance(yielded, Join):
            return self._join(step, yielded.flight, yielded.deadline)
        outcome = self._port.send(self, step, yielded)
        return None if outcome is None else (self._flow.send, outcome)

    def _join(self, step: Step, flight: Flight, deadline: float) -> tuple[Resume, Any] | None:
        flow = flight.take()
        if flow is not None:
            error = _start_shared_call(flight, FlowRunner(self._port, flow, self.owner), self._port)
            if error is not None:
                raise error
        if flight.landed:
            return self._landed(flight)
        patience = deadline if flow is not None else min(deadline, flight.deadline + _GRACE_S)
        if patience < inf and (flow is None or deadline < flight.deadline):  # the leader's driver may have died
            step.on_claim(self._port.timer(patience, lambda: self.answer(step, timed_out())))
        flight.subscribe(self._port.at_home(lambda: self._land(step, flight)))
        return None

    def _land(self, step: Step, flight: Flight) -> None:
        if step.claim():
            step.undo()
            self.resume(*self._landed(flight))

    def _landed(self, flight: Flight) -> tuple[Resume, Any]:
        try:
            return self._flow.send, flight.result()
        except BaseException as e:  # noqa: BLE001 - the flight's error is thrown into each waiting flow
            return self._flow.throw, e

    def _interrupt(self, resume: Resume, value: Any) -> None:
        self._late = (resume, value)  # before the look at the step: whoever parks later finds it
        step = self._parked
        if step is not None:
            late = self._take_late(step)
            if late is not None:
                self.resume(*late)

    def _take_late(self, step: Step) -> tuple[Resume, Any] | None:
        if self._late is None or not step.claim():
            return None
        step.undo()
        late, self._late = self._late, None
        return late

    def _finish(self, outcome: Outcome | None, error: BaseException | None) -> None:
        self.outcome, self.error = outcome, error
        self._parked = None
        self.done = True
        self._call_back()

    def _call_back(self) -> None:
        while self._callbacks:
            try:
                callback = self._callbacks.pop(0)
            except IndexError:
                return
            callback()


def _start_shared_call(flight: Flight, run: FlowRunner, port: Driver) -> BaseException | None:
    """Run a flight's flow. Return the interrupt that hit it in this very thread, for its leader alone."""

    def land() -> None:
        if isinstance(run.error, Exception) or run.error is None:
            flight.land(run.outcome, run.error)
        else:  # a waiter who did not cancel asks again; nobody else's interrupt may end its call
            flight.land(interrupted(), None)

    run.when_done(land)
    run.start()
    if not run.done:
        flight.on_abort(port.at_home(run.cancel))
        return None
    return None if isinstance(run.error, Exception | Cancelled) else run.error
