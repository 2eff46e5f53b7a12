"""The span and the metrics of a served call. The span is a child of the caller's span.

Trace id and parent of a well-formed `traceparent` are accepted; baggage and trace state are dropped. The caller's
`sampled` flag is a hint to this gateway's own sampler (`federation.telemetry.setup` samples at its own rate; the
sampler of an embedding program decides by its own configuration).
"""

from contextvars import ContextVar, Token
from typing import Final, Self

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind

from federation.clock import Clock
from federation.server.pipeline.identity import CallerIdentity
from federation.telemetry.metrics import FederationMetrics
from federation.telemetry.spans import (
    SPAN_NAME,
    OutcomeName,
    SpanSource,
    remote_parent,
    span_status,
    traceparent_of,
)
from federation.wire.metadata import TRACEPARENT, TRACERESPONSE, Metadata, first

RPC_SPAN: Final[ContextVar[Span | None]] = ContextVar("federation_rpc_span", default=None)
"""The RPC-level SERVER span of this task, if `telemetry.rpc_spans` made one."""
MAX_RESOURCE: Final = 256
"""Characters of the resource's name in the span."""


class ServerTracing:
    """Makes the SERVER span `federation.request` of each call, and counts the call.

    Without an SDK there is no span. A watch has neither span nor count: it lasts for hours and is not a request.
    """

    def __init__(self, spans: SpanSource, clock: Clock, metrics: FederationMetrics | None = None) -> None:
        self._spans = spans
        self._clock = clock
        self._metrics = metrics

    def __call__(
        self, metadata: Metadata, verb: str, resource: str, identity: CallerIdentity | None, peer: str
    ) -> "ServedCall":
        """Return the context manager of one call; its span is current inside.

        `verb` is the lower-case name. `resource` is the one that the request names: several of a search are separated
        by commas. `identity` is `None` if the certificate was refused, and `peer` is empty if the grant is unknown.
        """
        tracer = self._spans.tracer()
        if tracer is None:
            return ServedCall(self._clock, self._metrics, peer, verb)
        parent = _parent(first(metadata, TRACEPARENT))
        span = tracer.start_span(
            SPAN_NAME,
            parent,
            SpanKind.SERVER,
            {
                "grant_id": identity.grant_id if identity else "",
                "peer": peer,
                "verb": verb,
                "resource": resource[:MAX_RESOURCE],
            },
            record_exception=False,
            set_status_on_exception=False,
        )
        return ServedCall(self._clock, self._metrics, peer, verb, span, trace.set_span_in_context(span, parent))


class ServedCall:
    """The context manager of one call, with its span and metrics if they are enabled. It suppresses no exception.

    Set `outcome` before the call ends. The span is current inside, for logs and the provider, and ends with the call.
    """

    __slots__ = ("_clock", "_context", "_metrics", "_peer", "_span", "_started", "_token", "_verb", "outcome")

    def __init__(
        self,
        clock: Clock,
        metrics: FederationMetrics | None,
        peer: str,
        verb: str,
        span: Span | None = None,
        context: Context | None = None,
    ) -> None:
        self._clock, self._metrics, self._peer, self._verb = clock, metrics, peer, verb
        self._span, self._context = span, context
        self._token: Token[Context] | None = None
        self.outcome = OutcomeName.ERROR

    def __enter__(self) -> Self:
        self._started = self._clock.monotonic()
        if self._context is not None:
            self._token = otel_context.attach(self._context)
        return self

    @property
    def trace_id(self) -> str:
        """32 lower-case hexadecimal digits; empty without a span, and then the audit uses the caller's trace id."""
        return f"{self._span.get_span_context().trace_id:032x}" if self._span is not None else ""

    @property
    def trailing(self) -> Metadata:
        """`traceresponse`, by which the caller links the span; sent with every answer and refusal."""
        return ((TRACERESPONSE, traceparent_of(self._span.get_span_context())),) if self._span is not None else ()

    def __exit__(self, *_: object) -> None:
        took_s = self._clock.monotonic() - self._started
        if self._span is not None and self._token is not None:
            otel_context.detach(self._token)
            self._span.set_attributes({"outcome": self.outcome.value, "latency_ms": took_s * 1e3, "cached": False})
            if status := span_status(self.outcome):
                self._span.set_status(status)
            self._span.end()
        if self._metrics is not None:
            self._metrics.call_served(self._peer, self._verb, self.outcome, took_s)


def _parent(traceparent: str | None) -> Context:
    """Return the context to start in: below an RPC span of this very call, else below the caller's span, else none.

    Another current span is not the call's: gRPC runs handlers in a copy of the context that started the server.
    """
    remote = remote_parent(traceparent)
    rpc, current = RPC_SPAN.get(), trace.get_current_span()
    if rpc is not None and rpc.get_span_context().is_valid:
        return trace.set_span_in_context(rpc, Context())
    if remote is None:
        return Context()
    same_trace = current.get_span_context().trace_id == remote.get_span_context().trace_id
    return trace.set_span_in_context(current if same_trace else remote, Context())
