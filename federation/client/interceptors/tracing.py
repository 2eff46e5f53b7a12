"""One span a call, started as late as possible, and the call's metrics. Outermost, so it sees what the caller sees.

A recorded span costs more than everything else on a hit. So the span of a hit is started at its end, with all its
attributes, and ended at once; the span of a live call is started when `propagation` asks for its `traceparent`. It is
never made current: any thread may step the chain. Every end of the call ends the span, once.
"""

from threading import Lock
from typing import Final

import grpc
from opentelemetry import context as otel_context
from opentelemetry.trace import Link, Span, SpanKind, Tracer

from federation.client.chain.flow import Call, Cancelled, Flow, Outcome, Proceed
from federation.clock import Clock
from federation.telemetry.metrics import FederationMetrics
from federation.telemetry.spans import (
    SPAN_NAME,
    OutcomeName,
    SpanSource,
    link_to,
    outcome_of_code,
    span_status,
    traceparent_of,
)
from federation.wire.metadata import TRACERESPONSE, first
from federation.wire.verbs import STREAMING_VERBS

LINK_FILLED_BY: Final = "filled_by"
"""`federation.link` of the link from a hit to the call that filled the entry."""
LINK_SERVER: Final = "server"
"""`federation.link` of the link to the peer's span of the answer."""
_OUTCOME_OF: Final = {code: outcome_of_code(code.name) for code in grpc.StatusCode}
_Attributes = dict[str, str | int | float | bool]


class CallSpan:
    """The span of one call: started at the first `traceparent` or at the end, ended once.

    A shared call may read the `traceparent` from another thread, also after this caller has left.
    """

    __slots__ = ("_call", "_clock", "_events", "_lock", "_parent", "_span", "_start_ns", "_traceparent", "_tracer")

    def __init__(self, tracer: Tracer, call: Call, clock: Clock) -> None:
        self._tracer = tracer
        self._call = call
        self._clock = clock
        self._parent = otel_context.get_current()
        self._start_ns = int(clock.wall() * 1e9)
        self._span: Span | None = None
        self._traceparent: str | None = None
        self._events: list[tuple[str, _Attributes, int]] = []
        self._lock = Lock()

    def traceparent(self) -> str:
        """Return the W3C `traceparent` of this span, starting it if necessary; empty if it has no valid context."""
        with self._lock:
            if self._traceparent is None:
                if self._span is None:
                    self._span = self._start(self._call_attributes())
                self._traceparent = traceparent_of(self._span.get_span_context())
            return self._traceparent

    def add_event(self, name: str, attributes: _Attributes) -> None:
        """Add an event of the call."""
        at_ns = int(self._clock.wall() * 1e9)
        with self._lock:
            self._events.append((name, attributes, at_ns))

    def end(self, result: OutcomeName, took_s: float, outcome: Outcome | None = None) -> None:
        """Set the outcome of the span and end it."""
        attributes: _Attributes = {
            "outcome": result.value,
            "latency_ms": took_s * 1e3,
            "cached": outcome is not None and outcome.cached,
        }
        links = _links(outcome) if outcome else []
        with self._lock:
            span = self._span
            if span is None:
                span = self._span = self._start(self._call_attributes() | attributes, links)
            else:
                span.set_attributes(attributes)
                own = span.get_span_context().span_id
                for link in links:
                    if link.context.span_id != own:
                        span.add_link(link.context, link.attributes)
            for event, details, at_ns in self._events:
                span.add_event(event, details, at_ns)
        status = span_status(result)
        if status:
            span.set_status(status)
        span.end(self._start_ns + int(took_s * 1e9))

    def _call_attributes(self) -> _Attributes:
        call = self._call
        return {"grant_id": call.grant_id, "peer": call.peer, "verb": call.verb, "resource": call.resource}

    def _start(self, attributes: _Attributes, links: list[Link] | None = None) -> Span:
        return self._tracer.start_span(
            SPAN_NAME,
            self._parent,
            SpanKind.CLIENT,
            attributes,
            links,
            self._start_ns,
            record_exception=False,
            set_status_on_exception=False,
        )


class TracingInterceptor:
    """Creates the span and records the metrics of each call.

    With `hit_spans` false, answers from the cache have no span. Without a tracer and metrics, a call passes through
    unchanged. A watch has no span: it lasts for hours and is no request.
    """

    def __init__(
        self, spans: SpanSource, clock: Clock, metrics: FederationMetrics | None = None, *, hit_spans: bool = True
    ) -> None:
        self._spans = spans
        self._clock = clock
        self._metrics = metrics
        self._hit_spans = hit_spans

    def intercept(self, proceed: Proceed, call: Call) -> Flow:
        """Pass the call on and end the span in every case: `cancelled` for a cancelled call, `error` for a bug."""
        tracer = self._spans.tracer()
        if (tracer is None and self._metrics is None) or call.verb in STREAMING_VERBS:
            return (yield from proceed(call))
        started = self._clock.monotonic()
        span = CallSpan(tracer, call, self._clock) if tracer else None
        result, outcome = OutcomeName.ERROR, None
        try:
            outcome = yield from proceed(_traced(call, span) if span else call)
            result = _OUTCOME_OF[outcome.code]
        except (Cancelled, GeneratorExit):
            result = OutcomeName.CANCELLED
            raise
        finally:
            took_s = self._clock.monotonic() - started
            missed = call.hit_only and (outcome is None or not outcome.cached)  # no request was made
            if span and not missed and (self._hit_spans or outcome is None or not outcome.cached):
                span.end(result, took_s, outcome)
            if self._metrics and not missed:
                cached = outcome is not None and outcome.cached
                self._metrics.call_ended(call.peer, call.verb, result, took_s, cached=cached)
        return outcome


def _traced(call: Call, span: CallSpan) -> Call:
    return Call._make((*call[:_TRACE], span, *call[_TRACE + 1 :]))


_TRACE: Final = Call._fields.index("trace")


def _links(outcome: Outcome) -> list[Link]:
    filled_by = link_to(outcome.filled_by, **{"federation.link": LINK_FILLED_BY}) if outcome.filled_by else None
    response = first(outcome.trailing, TRACERESPONSE) if not outcome.cached else None
    server = link_to(response, **{"federation.link": LINK_SERVER}) if response else None
    return [link for link in (filled_by, server) if link]
