"""The vocabulary of the chain: a call as a value, its outcome as a value, and interceptors as generators.

A flow yields steps and gets an `Outcome` for each: a `Call` asks the driver to send it, a `Join` waits for an
identical call that is under way. It returns the outcome that its caller shall see. A failed RPC is an `Outcome`;
only `Cancelled` and bugs raise. Nothing here does I/O, so a test drives a flow by hand.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

import grpc

from federation.errors import Refusal
from federation.wire.metadata import Metadata
from federation.wire.status import refusal_status

if TYPE_CHECKING:
    from federation.client.flight import Flight

__all__ = ["Call", "CallTrace", "Cancelled", "Flow", "Interceptor", "Join", "Outcome", "Proceed", "compose", "refused"]


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
