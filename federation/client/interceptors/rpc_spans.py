"""RPC-level CLIENT spans by opentelemetry-instrumentation-grpc, beneath `federation.request`. Off by default.

The instrumentation's own interceptors are not put on the channel: the aio one loses its span and the server's
cancellation when a call is cancelled, and hangs on metadata that cannot be sent; the sync one is not accepted by
gRPC's `intercept_channel`. Its unary interceptor takes the sending as a function, though, and ends its span from a
future's callback. So it is driven from here: it starts and fills the span, and this flow, which is told of every end
of a call, lands the future. One class serves asyncio, threads and futures alike.

What cannot be had this way: spans of `Watch` (the instrumentation ends a stream's span only when a generator that it
makes is read to its end), and the response hooks. The propagator's other headers (baggage, trace state, B3) stay
home, as the wire contract wants.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import TracerProvider

from federation.client.chain.flow import Call, Flow, Proceed
from federation.telemetry.spans import remote_parent, traceparent_of
from federation.wire.metadata import TRACEPARENT, Metadata, first
from federation.wire.verbs import STREAMING_VERBS

__all__ = ["RpcSpansInterceptor"]


class RpcSpansInterceptor:
    """Innermost of all: the wire carries the id of the RPC span, whose parent is the span that `propagation` named.

    `provider` is the one that also makes the spans above; `None`: the global one.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        from opentelemetry.instrumentation.grpc import client_interceptor

        self._instrumentation: Any = client_interceptor(  # type: ignore[no-untyped-call]
            tracer_provider=provider
        )

    def intercept(self, proceed: Proceed, call: Call) -> Flow:
        """Send within an RPC span, which every end of the call ends."""
        above = remote_parent(first(call.metadata, TRACEPARENT))
        if above is None or call.verb in STREAMING_VERBS:
            return (yield from proceed(call))
        landing = _Landing()
        token = otel_context.attach(trace.set_span_in_context(above))
        try:
            self._instrumentation.intercept_unary(None, None, _Info(call.method), landing.launch)
        finally:
            otel_context.detach(token)
        try:
            outcome = yield from proceed(call._replace(metadata=_replaced(call.metadata, landing.traceparent)))
        except BaseException:
            landing.land(grpc.StatusCode.CANCELLED)
            raise
        landing.land(outcome.code)
        return outcome


class _Info(NamedTuple):
    """What the instrumentation reads of a call."""

    full_method: str
    timeout: float | None = None


class _Landing(grpc.Future):  # type: ignore[type-arg] # generic in its stubs alone
    """The future of one wire call, as far as the instrumentation looks at it."""

    def __init__(self) -> None:
        self.traceparent = ""
        self._code: grpc.StatusCode = grpc.StatusCode.UNKNOWN
        self._callbacks: list[Callable[[Any], object]] = []

    def launch(self, _request: object, _metadata: object) -> "_Landing":
        """Stand in for the sending; the RPC span is current while this runs."""
        self.traceparent = traceparent_of(trace.get_current_span().get_span_context())
        return self

    def land(self, code: grpc.StatusCode) -> None:
        """End the span."""
        self._code = code
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def code(self) -> grpc.StatusCode:
        return self._code

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        self._callbacks.append(fn)

    def result(self, timeout: float | None = None) -> None:
        return None

    def exception(self, timeout: float | None = None) -> None:
        return None

    def traceback(self, timeout: float | None = None) -> None:
        return None

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def running(self) -> bool:
        return False

    def done(self) -> bool:
        return True


def _replaced(metadata: Metadata, traceparent: str) -> Metadata:
    if not traceparent:
        return metadata
    return (*(pair for pair in metadata if pair[0] != TRACEPARENT), (TRACEPARENT, traceparent))
