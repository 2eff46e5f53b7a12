"""The one span that each gateway makes of a call, and the words that spans, metrics and audit share."""

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

__all__ = [
    "SCOPE",
    "SPAN_NAME",
    "OutcomeName",
    "SpanSource",
    "link_to",
    "outcome_of_code",
    "remote_parent",
    "span_status",
    "traceparent_of",
]

SPAN_NAME: Final = "federation.request"
SCOPE: Final = "mosaic.federation"
"""Instrumentation scope of our tracer and meter."""


class OutcomeName(StrEnum):
    """How a call ended, in one word: the same in spans, metrics and audit rows."""

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
    """Return the word of a canonical gRPC code name; the code decides alone, a reason only refines it.

    Whatever has no word of its own (`INTERNAL`, `UNKNOWN`, `UNIMPLEMENTED`, …) is `error`.
    """
    return _OUTCOME_OF_CODE.get(code, OutcomeName.ERROR)


def span_status(word: OutcomeName) -> Status | None:
    """Return `ERROR` for `offline`, `timeout` and `error`, and nothing otherwise.

    The RPC conventions call every code but OK an error of a CLIENT span. `federation.request` is a span of the
    application, not of the RPC: a refusal, an unknown row or a cancelled call is an answer or a wish, and a trace
    list full of red denials hides the outage. The RPC spans beneath (`telemetry.rpc_spans`) follow the conventions.
    """
    return Status(StatusCode.ERROR, word.value) if word in _ERRORS else None


class SpanSource:
    """Where the tracer comes from, asked anew until there is a real one.

    Without a provider the global one counts, which an embedding program may install later. `tracer()` is `None`
    while no SDK is there to take spans: then nothing of a span is made at all.
    """

    def __init__(self, provider: TracerProvider | None = None, *, version: str = "") -> None:
        self._provider = provider
        self._version = version
        self._tracer: Tracer | None = None

    def tracer(self) -> Tracer | None:
        """Return the tracer, or `None` while spans would go nowhere."""
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
    """Return a link to the span that a `traceparent` names, or `None` where it names none."""
    parent = parse_traceparent(traceparent)
    return Link(_context_of(parent), attributes) if parent else None


def remote_parent(traceparent: str | None) -> NonRecordingSpan | None:
    """Return a peer's span as a parent: no baggage, no trace state, and its sampling flag as it came."""
    parent = parse_traceparent(traceparent)
    return NonRecordingSpan(_context_of(parent)) if parent else None


def traceparent_of(context: SpanContext) -> str:
    """Return the `traceparent` of a span's context; empty for one that is not valid."""
    if not context.is_valid:
        return ""
    return str(TraceParent(context.trace_id, context.span_id, context.trace_flags.sampled))
