"""The types of the chain: calls and outcomes as values, and interceptors as generators.

A flow yields a `Call`, which the driver sends, or a `Join`, which waits for an identical call in flight; the driver
sends an `Outcome` back into it. The flow returns the outcome for its caller. A failed RPC is an `Outcome`; only
`Cancelled` and bugs raise. Nothing here does I/O, so a test can drive a flow by hand. A `Flight` is a call that
several flows wait for: bookkeeping under one lock, whose results the drivers act on.
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


class CallTrace(Protocol):
    """The span of a call, started as late as possible."""

    def traceparent(self) -> str:
        """Return the W3C `traceparent` of this call's span; start the span if it has not been started."""
        ...

    def add_event(self, name: str, attributes: dict[str, str | int | float | bool]) -> None:
        """Add an event to the span; the event is stored until the span is started."""
        ...


class Call(NamedTuple):
    """One call of a verb, parsed once.

    `request` is the normalised, deterministic serialization for key, hash and wire. `deadline` is absolute, on the
    monotonic clock. `peer` is the peer's name, `user` the local user for whom it is called. `probe` asks the driver
    for a fresh channel: the call is the probe of a half-open circuit. `detach` lets a shared call run on, to twice its
    budget, after this caller's budget ran out. `hit_only` answers from the cache or not at all: such a call never
    waits, and the circuit does not see it. A changed call is a new value.
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
    """The result of a call.

    `body` is the serialized response of an OK call; every caller decodes a message of its own. `cached` marks a hit,
    `age_s` is the time since its request was sent, `filled_by` the `traceparent` of the call that filled the entry.
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
    """Wait for `flight` until it is done or the monotonic `deadline` passes."""

    flight: "Flight"
    deadline: float


Flow: TypeAlias = Generator[Call | Join, Outcome, Outcome]
Proceed: TypeAlias = Callable[[Call], Flow]


class Cancelled(BaseException):
    """Thrown into a flow by its driver when the caller cancels the call."""


class Flight:
    """A shared call: started by the first driver that joins it, cancelled when the last waiter leaves.

    `deadline` is that of the wire call, monotonic; `sent` is the elapsed time when the call was sent. A waiter joins
    before it leaves, and leaves exactly once. A flight is resolved once: with an outcome, or with the exception of a
    flow that broke.
    """

    def __init__(self, deadline: float, sent: float = 0.0) -> None:
        self.sent = sent
        self.deadline = deadline
        self._lock = Lock()
        self._flow: Flow | None = None
        self._waiters = 0
        self._done = False
        self._abandoned = False
        self._outcome: Outcome | None = None
        self._error: BaseException | None = None
        self._subscribers: list[Callable[[], None]] = []
        self._cancel: Callable[[], object] | None = None

    def set_flow(self, flow: Flow) -> None:
        """Set the flow that makes the call; the first driver that takes it runs it."""
        self._flow = flow

    def take_flow(self) -> Flow | None:
        """Return the flow to the first caller, `None` to every other."""
        with self._lock:
            flow, self._flow = self._flow, None
        return flow

    def join(self, deadline: float, *, full_budget: bool = False) -> bool:
        """Add a waiter with this deadline; `False` if the flight has been abandoned.

        With `full_budget`, join only a flight whose deadline is not earlier than the waiter's.
        """
        with self._lock:
            if self._abandoned or (full_budget and self.deadline < deadline):
                return False
            self._waiters += 1
            return True

    def remove_waiter(self) -> bool:
        """Remove a waiter; `True` for the last one of a call in flight, which the caller must then `cancel`."""
        with self._lock:
            self._waiters -= 1
            last = self._waiters == 0 and not self._done
            self._abandoned = self._abandoned or last
            return last

    def cancel(self) -> None:
        """Cancel a flight that has no waiters, or whose answer must not be delivered."""
        with self._lock:
            self._abandoned, self._flow = True, None
            cancel = self._cancel
        if cancel:
            cancel()

    def fail(self, outcome: Outcome) -> bool:
        """Resolve the flight with `outcome` for every waiter and cancel the call; `False` if it was done already."""
        resolved = self.resolve(outcome, None)
        if resolved:
            self.cancel()
        return resolved

    def on_cancel(self, cancel: Callable[[], object]) -> None:
        """Set how to cancel the flow, by the driver that runs it. Called at once if the flight has been cancelled."""
        with self._lock:
            self._cancel = cancel
            ended = self._abandoned
        if ended:
            cancel()

    @property
    def done(self) -> bool:
        """Whether the flight has an outcome or an error."""
        return self._done

    def result(self) -> Outcome:
        """Return the outcome of a flight that is done, or raise the error of its flow."""
        if self._error is not None:
            raise self._error
        assert self._outcome is not None  # noqa: S101 - callers check `done` first
        return self._outcome

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the flight is done; at once if it is."""
        with self._lock:
            if not self._done:
                self._subscribers.append(callback)
                return
        callback()

    def resolve(self, outcome: Outcome | None, error: BaseException | None) -> bool:
        """Set the result of the flight and call its subscribers; `False` if it was done already."""
        with self._lock:
            if self._done:
                return False
            self._outcome, self._error, self._done = outcome, error, True
            subscribers, self._subscribers = self._subscribers, []
        # In reverse order, so that the waiter with the latest deadline becomes leader if all retry.
        for callback in reversed(subscribers):
            callback()
        return True


class Interceptor(Protocol):
    """One member of the chain. It holds no state of a call: that lives in the locals of `intercept`."""

    def intercept(self, proceed: Proceed, call: Call) -> Flow:
        """Handle a call: pass it on by `yield from proceed(call)`, never yield in a `finally`."""
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
    """Build the outcome of a call that this gateway itself refused."""
    code, details, trailing = refusal_status(refusal, local=True)
    return Outcome(code, details=details, trailing=trailing)
