"""The span of a call, `federation.request`, and the outcomes shared by spans, metrics and audit."""

from enum import StrEnum
from typing import Final

from opentelemetry import trace
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    NoOpTracer,
    ProxyTracerProvider,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TracerProvider,
)

from federation.telemetry.traceparent import TraceParent, parse_traceparent

SPAN_NAME: Final = "federation.request"
SCOPE: Final = "mosaic.federation"
"""Instrumentation scope of the package's tracer and meter."""


class OutcomeName(StrEnum):
    """The outcome of a call, as in spans, metrics and audit events."""

    OK = "ok"
    DENIED = "denied"
    NOT_FOUND = "not_found"
    INVALID = "invalid"
    RATE_LIMITED = "rate_limited"
    OFFLINE = "offline"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    ERROR = "error"


_OUTCOME_OF_CODE: Final = {
    "OK": OutcomeName.OK,
    "PERMISSION_DENIED": OutcomeName.DENIED,
    "UNAUTHENTICATED": OutcomeName.DENIED,
    "NOT_FOUND": OutcomeName.NOT_FOUND,
    "INVALID_ARGUMENT": OutcomeName.INVALID,
    "OUT_OF_RANGE": OutcomeName.INVALID,
    "RESOURCE_EXHAUSTED": OutcomeName.RATE_LIMITED,
    "UNAVAILABLE": OutcomeName.OFFLINE,
    "DEADLINE_EXCEEDED": OutcomeName.TIMEOUT,
    "CANCELLED": OutcomeName.CANCELLED,
}
_ERRORS: Final = frozenset({OutcomeName.OFFLINE, OutcomeName.TIMEOUT, OutcomeName.ERROR})


def outcome_of_code(code: str) -> OutcomeName:
    """Return the outcome of a canonical gRPC code name; the refusal reason has no influence.

    Codes without an outcome of their own (`INTERNAL`, `UNKNOWN`, `UNIMPLEMENTED`, …) are `error`.
    """
    return _OUTCOME_OF_CODE.get(code, OutcomeName.ERROR)


def span_status(outcome: OutcomeName) -> Status | None:
    """Return `ERROR` for `offline`, `timeout` and `error`, else `None`.

    OTel's RPC conventions make every code but OK an error of a CLIENT span. `federation.request` is an application
    span: a refusal, an unknown row or a cancelled call is an expected result, and counting it as an error would hide
    outages. The RPC spans below it (`telemetry.rpc_spans`) follow the conventions.
    """
    return Status(StatusCode.ERROR, outcome.value) if outcome in _ERRORS else None


class SpanSource:
    """Lazy access to the tracer.

    Without a provider it uses the global one, which an embedding program may install later. While no SDK is installed,
    `tracer()` returns `None` and no span is created.
    """

    def __init__(self, provider: TracerProvider | None = None, *, version: str = "") -> None:
        self._provider = provider
        self._version = version
        self._tracer: Tracer | None = None

    def tracer(self) -> Tracer | None:
        """Return the tracer, or `None` while nothing records spans."""
        if self._tracer is None:
            provider = self._provider or trace.get_tracer_provider()
            if isinstance(provider, ProxyTracerProvider):
                return None
            self._tracer = provider.get_tracer(SCOPE, self._version)
        return None if isinstance(self._tracer, NoOpTracer) else self._tracer


def _context_of(parent: TraceParent) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
    return SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=flags)


def link_to(traceparent: str | None, **attributes: str) -> Link | None:
    """Return a link to the span that a `traceparent` identifies, or `None` if it is invalid."""
    parent = parse_traceparent(traceparent)
    return Link(_context_of(parent), attributes) if parent else None


def remote_parent(traceparent: str | None) -> NonRecordingSpan | None:
    """Return a peer's span as a parent, with its sampling flag and without baggage or trace state."""
    parent = parse_traceparent(traceparent)
    return NonRecordingSpan(_context_of(parent)) if parent else None


def traceparent_of(context: SpanContext) -> str:
    """Return the `traceparent` of a span context; empty for an invalid one."""
    if not context.is_valid:
        return ""
    return str(TraceParent(context.trace_id, context.span_id, context.trace_flags.sampled))
