"""RPC-level SERVER spans by opentelemetry-instrumentation-grpc, the parents of `federation.request`. Off by default.

The instrumentation accepts a peer's baggage and trace state, records an abort as two exceptions, and reports status 0
for a handler that failed, a call that was cancelled, and one that ended by `abort_with_status`. So its interceptor gets
a handler of ours with a context that holds a checked `traceparent` alone. That handler runs the real one, sets the
status code, and raises no exception through the instrumentation.

`Watch` gets no span, because it would last as long as the stream, for hours.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import grpc
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import TracerProvider

from federation.errors import Refusal
from federation.server.pipeline.tracing import RPC_SPAN
from federation.telemetry.traceparent import parse_traceparent
from federation.wire.metadata import TRACEPARENT, first

USER_AGENT = "user-agent"
MAX_USER_AGENT = 256


class RpcSpanServerInterceptor(grpc.aio.ServerInterceptor):
    """Makes an RPC span for each unary call. Place it directly inside the error boundary.

    If a program instruments gRPC itself, its span exists already and this interceptor adds none.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        from opentelemetry.instrumentation.grpc import aio_server_interceptor

        self._instrumentation: Any = aio_server_interceptor(  # type: ignore[no-untyped-call]
            tracer_provider=provider
        )

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the method's handler inside an RPC span; streaming handlers are returned unchanged."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        behaviour, ambient = handler.unary_unary, trace.get_current_span()

        async def call(request: Any, context: Any) -> Any:
            if trace.get_current_span() is not ambient:  # an outer interceptor made a span for this call
                return await behaviour(request, context)
            served = _ServedCall(behaviour, request, context)

            async def inner(_details: Any) -> Any:
                return grpc.unary_unary_rpc_method_handler(served.run)

            wrapped = await self._instrumentation.intercept_service(inner, handler_call_details)
            token = otel_context.attach(Context())
            try:
                await wrapped.unary_unary(None, _SanitizedContext(context))
            finally:
                otel_context.detach(token)
            return served.result()

        return grpc.unary_unary_rpc_method_handler(call, handler.request_deserializer, handler.response_serializer)


class _ServedCall:
    """Runs the real handler while the RPC span is current, and stores its exception until that span has ended."""

    def __init__(self, behaviour: Callable[[Any, Any], Awaitable[Any]], request: Any, context: Any) -> None:
        self._behaviour, self._request, self._context = behaviour, request, _RecordingContext(context)
        self._answer: Any = None
        self._error: BaseException | None = None

    async def run(self, _request: object, sanitized: Any) -> None:
        """Serve the call, and set its status code in the instrumentation's context."""
        token = RPC_SPAN.set(trace.get_current_span())
        try:
            self._answer = await self._behaviour(self._request, self._context)
        except BaseException as e:  # noqa: BLE001 - raised again by `result`
            self._error = e
        finally:
            RPC_SPAN.reset(token)
        code = self._code()
        if code is not grpc.StatusCode.OK:
            sanitized.set_code(code)

    def result(self) -> Any:
        """Return the answer of the real handler, or raise its exception."""
        if self._error is not None:
            raise self._error
        return self._answer

    def _code(self) -> grpc.StatusCode:
        if self._context.aborted is not None:
            return self._context.aborted
        if isinstance(self._error, asyncio.CancelledError):
            return grpc.StatusCode.CANCELLED
        if self._error is not None:  # as the error boundary translates it
            return grpc.StatusCode[self._error.code] if isinstance(self._error, Refusal) else grpc.StatusCode.INTERNAL
        code = self._context.code()
        return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.OK


class _RecordingContext:
    """The context of the real handler, which records the code of an abort."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self.aborted: grpc.StatusCode | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        self.aborted = code
        await self._context.abort(code, details, trailing_metadata)

    async def abort_with_status(self, status: Any) -> None:
        self.aborted = status.code
        await self._context.abort_with_status(status)


class _Metadatum(NamedTuple):
    key: str
    value: str


class _SanitizedContext:
    """The context for the instrumentation: of the peer's metadata, only a checked parent and the user agent."""

    def __init__(self, context: Any) -> None:
        metadata = tuple((key, value) for key, value in context.invocation_metadata() or ())
        parent = parse_traceparent(first(metadata, TRACEPARENT))
        agent = (first(metadata, USER_AGENT) or "")[:MAX_USER_AGENT]
        self._metadata = [_Metadatum(USER_AGENT, agent)]
        if parent:
            self._metadata.append(_Metadatum(TRACEPARENT, str(parent)))
        self._peer = str(context.peer())

    def invocation_metadata(self) -> list[_Metadatum]:
        return self._metadata

    def peer(self) -> str:
        return self._peer

    def set_code(self, code: grpc.StatusCode) -> None:
        """Do nothing: the real context has the code already."""
