"""The vocabulary of the chain: a call as a value, its outcome as a value, and interceptors as generators.

A flow yields steps and gets an `Outcome` for each: a `Call` asks the driver to send it, a `Join` waits for an
identical call that is under way. It returns the outcome that its caller shall see. A failed RPC is an `Outcome`;
only `Cancelled` and bugs raise. Nothing here does I/O, so a test drives a flow by hand. A `Flight` is the call that
several flows wait for: bookkeeping under one lock, on whose results the drivers act.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import NamedTuple, Protocol, TypeAlias

import grpc

from federation.errors import Refusal
from federation.wire.metadata import Metadata
from federation.wire.status import refusal_status

__all__ = [
    "Call",
    "CallTrace",
    "Cancelled",
    "Flight",
    "Flow",
    "Interceptor",
    "Join",
    "Outcome",
    "Proceed",
    "compose",
    "refused",
]


class CallTrace(Protocol):
    """The span of a call, opened as late as it can be."""

    def traceparent(self) -> str:
        """Return the W3C `traceparent` of this call's span, opening the span if that has not happened yet."""
        ...

    def add_event(self, name: str, attributes: dict[str, str | int | float | bool]) -> None:
        """Note something on the span; the event is kept until the span is opened."""
        ...


class Call(NamedTuple):
    """One call of a verb, parsed once.

    `request` is the normalised, deterministic serialization that key, hash and wire share. `deadline` is absolute,
    on the monotonic clock. `peer` is the peer's name, `user` the local user for whom it is called. `probe`
    asks the wire for a fresh channel: it is the one call that a half-open circuit lets through. `detach` lets a
    shared call run on, to twice its budget, after this caller's budget ran out. `hit_only` takes an answer from the
    cache and nothing else: it waits for nobody, and the circuit never hears of it. A changed call is a new one.
    """

    method: str
    verb: str
    resource: str
    grant_id: str
    peer: str
    user: str
    request: bytes
    metadata: Metadata
    deadline: float
    trace: CallTrace | None = None
    probe: bool = False
    detach: bool = False
    hit_only: bool = False


class Outcome(NamedTuple):
    """What became of a call.

    `body` is the serialized response of an OK call; every receiver decodes a message of its own. `cached` and
    `age_s` tell a hit and the seconds since its request was sent; `filled_by` is the `traceparent` of the call
    that filled the entry.
    """

    code: grpc.StatusCode
    body: bytes = b""
    details: str = ""
    initial: Metadata = ()
    trailing: Metadata = ()
    cached: bool = False
    age_s: float = 0.0
    filled_by: str = ""

    @property
    def ok(self) -> bool:
        """Whether the call succeeded."""
        return self.code is grpc.StatusCode.OK


@dataclass(frozen=True, slots=True)
class Join:
    """Wait for `flight` until it lands or the monotonic `deadline` passes."""

    flight: "Flight"
    deadline: float


Flow: TypeAlias = Generator[Call | Join, Outcome, Outcome]
Proceed: TypeAlias = Callable[[Call], Flow]


class Cancelled(BaseException):
    """Thrown into a flow by its driver when the caller gave up."""


class Flight:
    """A shared call: started by whichever driver meets it first, ended when the last waiter leaves.

    `flow` makes the generator that fills; `deadline` is the wire's, monotonic; `epoch` is the fence under which it
    was sent. A waiter joins before it may leave, and leaves exactly once. A flight lands once: with an outcome, or
    with the exception of a flow that broke.
    """

    def __init__(self, deadline: float, epoch: int, sent: float = 0.0) -> None:
        self.sent = sent
        """The elapsed time when the call was sent."""
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


class Interceptor(Protocol):
    """One member of the chain. It holds no state of a call; what it must remember are locals of `intercept`."""

    def intercept(self, proceed: Proceed, call: Call) -> Flow:
        """Handle a call: go on by `yield from proceed(call)`, never yield in a `finally`."""
        ...


def wire(call: Call) -> Flow:
    """Send the call: the innermost flow."""
    return (yield call)


def compose(interceptors: Sequence[Interceptor]) -> Proceed:
    """Return the function that starts the flow of a call through `interceptors`, the first being outermost."""
    flow: Proceed = wire
    for interceptor in reversed(interceptors):
        flow = partial(interceptor.intercept, flow)
    return flow


def refused(refusal: Refusal) -> Outcome:
    """Return the outcome of a call that this gateway refused by itself."""
    code, details, trailing = refusal_status(refusal, local=True)
    return Outcome(code, details=details, trailing=trailing)
