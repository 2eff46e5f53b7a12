"""RPC-level CLIENT spans by opentelemetry-instrumentation-grpc, below `federation.request`. Off by default.

The instrumentation's own interceptors are not installed on the channel: the aio one loses its span and the server's
cancellation when a call is cancelled, and hangs on metadata that cannot be sent; the sync one is not accepted by
gRPC's `intercept_channel`. Its unary interceptor, however, takes the sending as a function and ends its span in a
future's callback. So this flow calls it with a future of its own: the instrumentation starts and fills the span, and
the flow finishes the future at every end of the call. One class serves asyncio, threads and futures alike.

Not available this way: spans of `Watch` (the instrumentation ends a stream's span only when its own generator is read
to the end), and the response hooks. Other headers of the propagator (baggage, trace state, B3) are not sent: the wire
contract excludes them.
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


class RpcSpansInterceptor:
    """Innermost of all: the wire carries the id of the RPC span, whose parent is the span that `propagation` named.

    `provider` is the tracer provider of the spans above; `None` is the global one.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        from opentelemetry.instrumentation.grpc import client_interceptor

        self._instrumentation: Any = client_interceptor(  # type: ignore[no-untyped-call]
            tracer_provider=provider
        )

    def intercept(self, proceed: Proceed, call: Call) -> Flow:
        """Send inside an RPC span. The span ends with the call, also when it is cancelled or abandoned."""
        parent = remote_parent(first(call.metadata, TRACEPARENT))
        if parent is None or call.verb in STREAMING_VERBS:
            return (yield from proceed(call))
        future = _SpanFuture()
        token = otel_context.attach(trace.set_span_in_context(parent))
        try:
            self._instrumentation.intercept_unary(None, None, _Info(call.method), future.start)
        finally:
            otel_context.detach(token)
        try:
            outcome = yield from proceed(call._replace(metadata=_replaced(call.metadata, future.traceparent)))
        except BaseException:
            future.finish(grpc.StatusCode.CANCELLED)
            raise
        future.finish(outcome.code)
        return outcome


class _Info(NamedTuple):
    """The attributes of a call that the instrumentation reads."""

    full_method: str
    timeout: float | None = None


class _SpanFuture(grpc.Future):  # type: ignore[type-arg] # generic in its stubs alone
    """The future of one wire call, with the members that the instrumentation uses."""

    def __init__(self) -> None:
        self.traceparent = ""
        self._code: grpc.StatusCode = grpc.StatusCode.UNKNOWN
        self._callbacks: list[Callable[[Any], object]] = []

    def start(self, _request: object, _metadata: object) -> "_SpanFuture":
        """Replace the send; the RPC span is current while this runs."""
        self.traceparent = traceparent_of(trace.get_current_span().get_span_context())
        return self

    def finish(self, code: grpc.StatusCode) -> None:
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
