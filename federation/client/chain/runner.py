"""The runner of a flow, for every driver: decides who may step the flow, when, and with what. No I/O."""

from collections.abc import Callable
from math import inf
from typing import Any, Final, Protocol

from federation.client.chain.flow import Call, Cancelled, Flight, Flow, Join, Outcome
from federation.client.chain.outcomes import interrupted, timed_out

Resume = Callable[[Any], Call | Join]
_GRACE_S: Final = 0.25
"""Seconds after its deadline for which a flight of another driver is awaited: its thread or loop may have ended."""


class Suspension:
    """The point at which a flow is suspended.

    The caller that claims the suspension may resume the flow, so an answer, a timer, a cancellation and a flight that
    arrive together cannot resume it twice.
    """

    __slots__ = ("_claims", "_undo")

    def __init__(self) -> None:
        self._claims = [True]
        self._undo: list[Callable[[], object]] = []

    def claim(self) -> bool:
        """Claim the right to resume the flow; `False` if it has been claimed."""
        try:
            return self._claims.pop()  # atomic
        except IndexError:
            return False

    def on_claim(self, undo: Callable[[], object]) -> None:
        """Call `undo` (cancel the wire call, stop the timer) once the suspension is claimed; at once if it has been."""
        self._undo.append(undo)
        if not self._claims:
            self.undo()

    def undo(self) -> None:
        """Run what `on_claim` registered. Called by a claimer that does not bring the answer."""
        while self._undo:
            try:
                undo = self._undo.pop()
            except IndexError:
                return
            undo()


class Driver(Protocol):
    """The I/O side of a flow: sends calls, sets timers and moves callbacks to its thread or loop.

    No callback that a driver returns may raise.
    """

    def send(self, runner: "FlowRunner", suspension: Suspension, call: Call) -> Outcome | None:
        """Send the call. Return its outcome; or `None`, and later claim the suspension and resume the runner with it.

        An exception raised here (an interrupt, a bug) is thrown into the flow.
        """
        ...

    def in_loop(self, function: Callable[[], object]) -> Callable[[], None]:
        """Return a function for any thread, which has `function` called in the driver's thread or loop."""
        ...

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call `function` later in the driver's thread or loop. For finalizers, which may run under any lock."""
        ...

    def timer(self, at: float, function: Callable[[], object]) -> Callable[[], object]:
        """Call `function` in the driver's thread or loop at the monotonic instant `at`; return how to cancel that."""
        ...


class FlowRunner:
    """Runs one flow from its start until `done`, with either an `outcome` or an `error`.

    The error is `Cancelled`, an interrupt of the process, or a bug of the flow. A failed RPC is an outcome.
    """

    __slots__ = (
        "__weakref__",
        "_callbacks",
        "_driver",
        "_flow",
        "_interruption",
        "_suspension",
        "done",
        "error",
        "outcome",
        "owner",
    )

    def __init__(self, driver: Driver, flow: Flow, owner: object = None) -> None:
        self.owner = owner
        self.done = False
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None
        self._driver = driver
        self._flow = flow
        self._suspension: Suspension | None = None
        self._interruption: tuple[Resume, Any] | None = None
        self._callbacks: list[Callable[[], object]] = []

    def start(self) -> None:
        """Step the flow until it ends or waits for something."""
        self.resume(self._flow.send, None)

    def resume(self, resume: Resume, value: Any) -> None:
        """Continue the flow after its suspension was claimed: `value` is sent or thrown into it."""
        while True:
            try:
                yielded = resume(value)
            except StopIteration as end:
                self._finish(end.value, None)
                return
            except BaseException as e:  # noqa: BLE001 - any exception of the flow ends the runner
                self._finish(None, e)
                return
            suspension = Suspension()
            self._suspension = suspension  # before `_interruption` is read: a later interruption finds it
            following = self._wait(suspension, yielded)
            if following is None:
                return
            resume, value = following

    def answer(self, suspension: Suspension, outcome: Outcome) -> None:
        """Continue with the outcome of a wire call, unless the suspension has been claimed."""
        if suspension.claim():
            self.resume(self._flow.send, outcome)

    def fail(self, suspension: Suspension, error: BaseException) -> None:
        """Continue by throwing the error of a failed sending, unless the suspension has been claimed."""
        if suspension.claim():
            self.resume(self._flow.throw, error)

    def cancel(self) -> bool:
        """Cancel the flow by throwing `Cancelled` into it; `False` if it has ended."""
        if self.done:
            return False
        self._interrupt(self._flow.throw, Cancelled())
        return True

    def resolve(self, outcome: Outcome) -> bool:
        """Give the flow this outcome for what it waits for, and drop the real one; `False` if the flow has ended."""
        if self.done:
            return False
        self._interrupt(self._flow.send, outcome)
        return True

    def resolve_threadsafe(self, outcome: Outcome) -> None:
        """Call `resolve` in the driver's thread or loop, from any thread; at once if this is it."""
        self._driver.in_loop(lambda: self.resolve(outcome))()

    def cancel_soon(self) -> None:
        """Cancel the flow because its call object was collected; safe in a finalizer."""
        if not self.done:
            self._driver.call_soon(self.cancel)

    def force_cancel(self) -> None:
        """Cancel even if the suspension has been claimed. Only for a driver whose one thread does all stepping."""
        if self._suspension is not None:
            self._suspension.claim()
            self._suspension.undo()
        if not self.done:
            self.resume(self._flow.throw, Cancelled())

    def when_done(self, callback: Callable[[], object]) -> None:
        """Call `callback` once at the end, in the thread that ended the flow; at once if it has ended."""
        self._callbacks.append(callback)
        if self.done:
            self._run_callbacks()

    def _wait(self, suspension: Suspension, yielded: Call | Join) -> tuple[Resume, Any] | None:
        """Begin what the flow yielded. Return how to continue at once, or `None` if a callback will continue."""
        interruption = self._take_interruption(suspension)
        if interruption is None:
            try:
                ready = self._begin(suspension, yielded)
            except BaseException as e:  # noqa: BLE001 - Ctrl-C in a blocking driver, and bugs: the flow must see them
                suspension.undo()
                ready = (self._flow.throw, e)
            if ready is not None:
                return ready if suspension.claim() else None
            interruption = self._take_interruption(suspension)
        return interruption

    def _begin(self, suspension: Suspension, yielded: Call | Join) -> tuple[Resume, Any] | None:
        if isinstance(yielded, Join):
            return self._join(suspension, yielded.flight, yielded.deadline)
        outcome = self._driver.send(self, suspension, yielded)
        return None if outcome is None else (self._flow.send, outcome)

    def _join(self, suspension: Suspension, flight: Flight, deadline: float) -> tuple[Resume, Any] | None:
        flow = flight.take_flow()
        if flow is not None:
            error = _start_shared_call(flight, FlowRunner(self._driver, flow, self.owner), self._driver)
            if error is not None:
                raise error
        if flight.done:
            return self._flight_result(flight)
        wait_until = deadline if flow is not None else min(deadline, flight.deadline + _GRACE_S)
        if wait_until < inf and (flow is None or deadline < flight.deadline):  # the leader's driver may have died
            suspension.on_claim(self._driver.timer(wait_until, lambda: self.answer(suspension, timed_out())))
        flight.subscribe(self._driver.in_loop(lambda: self._on_flight_done(suspension, flight)))
        return None

    def _on_flight_done(self, suspension: Suspension, flight: Flight) -> None:
        if suspension.claim():
            suspension.undo()
            self.resume(*self._flight_result(flight))

    def _flight_result(self, flight: Flight) -> tuple[Resume, Any]:
        try:
            return self._flow.send, flight.result()
        except BaseException as e:  # noqa: BLE001 - the flight's error is thrown into each waiting flow
            return self._flow.throw, e

    def _interrupt(self, resume: Resume, value: Any) -> None:
        self._interruption = (resume, value)  # before `_suspension` is read: a later suspension finds it
        suspension = self._suspension
        if suspension is not None:
            interruption = self._take_interruption(suspension)
            if interruption is not None:
                self.resume(*interruption)

    def _take_interruption(self, suspension: Suspension) -> tuple[Resume, Any] | None:
        if self._interruption is None or not suspension.claim():
            return None
        suspension.undo()
        interruption, self._interruption = self._interruption, None
        return interruption

    def _finish(self, outcome: Outcome | None, error: BaseException | None) -> None:
        self.outcome, self.error = outcome, error
        self._suspension = None
        self.done = True
        self._run_callbacks()

    def _run_callbacks(self) -> None:
        while self._callbacks:
            try:
                callback = self._callbacks.pop(0)
            except IndexError:
                return
            callback()


def _start_shared_call(flight: Flight, runner: FlowRunner, driver: Driver) -> BaseException | None:
    """Run a flight's flow. Return the interrupt that hit it in this very thread, for its leader alone."""

    def resolve_flight() -> None:
        if isinstance(runner.error, Exception) or runner.error is None:
            flight.resolve(runner.outcome, runner.error)
        else:  # an interrupt ends the leader's call only: the waiters call again
            flight.resolve(interrupted(), None)

    runner.when_done(resolve_flight)
    runner.start()
    if not runner.done:
        flight.on_cancel(driver.in_loop(runner.cancel))
        return None
    return None if isinstance(runner.error, Exception | Cancelled) else runner.error
