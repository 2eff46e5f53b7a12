"""One call under way that several callers wait for. Pure bookkeeping under one lock; drivers act on what it returns."""

from collections.abc import Callable
from threading import Lock

from federation.client.flow import Flow, Outcome

__all__ = ["Flight"]


class Flight:
    """A shared call: started by whichever driver meets it first, ended when the last waiter leaves.

    `flow` makes the generator that fills; `deadline` is the wire's, monotonic; `epoch` is the fence under which it
    was sent. A waiter joins before it may leave, and leaves exactly once. A flight lands once: with an outcome, or
    with the exception of a flow that broke.
    """

    def __init__(self, deadline: float, epoch: int) -> None:
        self.deadline = deadline
        self.epoch = epoch
        self._lock = Lock()
        self._flow: Flow | None = None
        self._waiters = 0
        self._landed = False
        self._ended = False
        self._outcome: Outcome | None = None
        self._error: BaseException | None = None
        self._subscribers: list[Callable[[], None]] = []
        self._abort: Callable[[], object] | None = None

    def launch(self, flow: Flow) -> None:
        """Hand in the flow; the first driver that takes it runs it."""
        self._flow = flow

    def take(self) -> Flow | None:
        """Return the flow to the first who asks, `None` to everybody else."""
        with self._lock:
            flow, self._flow = self._flow, None
        return flow

    def join(self, deadline: float, *, patient: bool = False) -> bool:
        """Count one waiter more, who waits until `deadline`; `False` where the flight is being given up.

        A `patient` one joins only a flight that may last as long as itself.
        """
        with self._lock:
            if self._ended or (patient and self.deadline < deadline):
                return False
            self._waiters += 1
            return True

    def leave(self) -> bool:
        """Count one waiter less; `True` tells the last one of a flight under way that it must `abort` it."""
        with self._lock:
            self._waiters -= 1
            last = self._waiters == 0 and not self._landed
            self._ended = self._ended or last
            return last

    def abort(self) -> None:
        """End a flight that nobody waits for, or whose answer nobody may see."""
        with self._lock:
            self._ended, self._flow = True, None
            abort = self._abort
        if abort:
            abort()

    def cut(self, outcome: Outcome) -> bool:
        """Give every waiter `outcome` at once and end the call; `False` where the flight has landed already."""
        if not self._settle(outcome, None):
            return False
        self.abort()
        return True

    def on_abort(self, abort: Callable[[], object]) -> None:
        """Set by the driver that runs the flow: how to cancel it. Called at once where that was asked for already."""
        with self._lock:
            self._abort = abort
            ended = self._ended
        if ended:
            abort()

    @property
    def landed(self) -> bool:
        """Whether the flight has an outcome or an error."""
        return self._landed

    def result(self) -> Outcome:
        """Return the outcome of a landed flight, or raise the error of its flow."""
        if self._error is not None:
            raise self._error
        assert self._outcome is not None  # noqa: S101 - callers ask after `landed`
        return self._outcome

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the flight lands; at once if it has."""
        with self._lock:
            if not self._landed:
                self._subscribers.append(callback)
                return
        callback()

    def land(self, outcome: Outcome | None, error: BaseException | None) -> None:
        """Give the flight its end and wake everybody. A second landing is ignored."""
        self._settle(outcome, error)

    def _settle(self, outcome: Outcome | None, error: BaseException | None) -> bool:
        with self._lock:
            if self._landed:
                return False
            self._outcome, self._error, self._landed = outcome, error, True
            subscribers, self._subscribers = self._subscribers, []
        # Who came last has most time left, as a rule: if all ask again, it leads, and the others join its call.
        for callback in reversed(subscribers):
            callback()
        return True
