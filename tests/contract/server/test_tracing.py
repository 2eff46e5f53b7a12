"""The span of a served call: its parent, its attributes, and which parts of the caller's trace are ignored."""

import asyncio
import io
import json
import logging
from typing import Any

import grpc
import pytest
from opentelemetry import baggage, trace
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode

from federation.server.pipeline.tracing import ServerTracing
from federation.telemetry.log_format import JsonFormatter
from federation.telemetry.metrics import FederationMetrics
from federation.telemetry.spans import OutcomeName, SpanSource
from federation.telemetry.traceparent import parse_traceparent
from federation.v1 import federation_pb2 as pb
from tests.support.clock import ManualClock
from tests.support.memory_exporters import MetricLog, SpanLog
from tests.support.pki import GRANT_ID, PEER
from tests.support.scripted import eventually
from tests.support.server_in_memory import StartMemoryServer

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
LIST = pb.ListRequest(resource="tasks")


def tracing(log: SpanLog) -> ServerTracing:
    """The `ServerTracing` under test."""
    return ServerTracing(log.source, ManualClock().clock)


async def end_of(call: Any) -> tuple[grpc.StatusCode, dict[str, Any]]:
    """Wait for a call however it ends; return its code and trailing metadata."""
    try:
        await call
    except grpc.aio.AioRpcError as e:
        return e.code(), dict(e.trailing_metadata() or ())
    return grpc.StatusCode.OK, dict(await call.trailing_metadata())


async def test_the_span_is_a_child_of_the_callers(serve: StartMemoryServer, span_log: SpanLog) -> None:
    """SERVER, remote parent, the seven attributes; `traceresponse` names it; the audit row has its trace."""
    serving = await serve(tracing=tracing(span_log))
    code, trailing = await end_of(serving.stub().List(LIST, metadata=(("traceparent", PARENT),)))

    span = span_log.one()
    assert code is grpc.StatusCode.OK
    assert (span.name, span.kind, span.status.status_code) == ("federation.request", SpanKind.SERVER, StatusCode.UNSET)
    assert span.parent is not None
    assert span.parent.is_remote
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, SPAN)
    attributes = dict(span.attributes or {})
    assert isinstance(attributes.pop("latency_ms"), float)
    assert attributes == {
        "grant_id": GRANT_ID,
        "peer": PEER,
        "verb": "list",
        "resource": "tasks",
        "outcome": "ok",
        "cached": False,
    }
    answered = parse_traceparent(trailing["traceresponse"])
    assert answered is not None
    assert (answered.trace_id, answered.span_id) == (span.context.trace_id, span.context.span_id)
    [event] = await serving.writer.seen(1)
    assert event.trace_id == TRACE


@pytest.mark.parametrize(
    ("verb", "request_", "outcome", "status"),
    [
        ("List", pb.ListRequest(resource="memory"), "denied", StatusCode.UNSET),
        ("Get", pb.GetRequest(resource="tasks", id="absent"), "not_found", StatusCode.UNSET),
        ("List", pb.ListRequest(resource="tasks", page_token="junk"), "invalid", StatusCode.UNSET),
    ],
)
async def test_refusals_have_their_words(
    serve: StartMemoryServer, span_log: SpanLog, verb: str, request_: Any, outcome: str, status: StatusCode
) -> None:
    """A refused call's span has its outcome, no error status and no exception event."""
    serving = await serve(tracing=tracing(span_log))
    await end_of(getattr(serving.stub(), verb)(request_))

    span = span_log.one(outcome=outcome)
    assert span.status.status_code is status
    assert span.events == ()


async def test_a_broken_provider_is_an_error_without_its_text(serve: StartMemoryServer, span_log: SpanLog) -> None:
    """The span is `error`; what the exception says stays in the log."""
    serving = await serve(tracing=tracing(span_log))

    async def broken(*_: object, **__: object) -> Any:
        raise ValueError("secret words")

    serving.provider.list = broken  # type: ignore[method-assign]
    code, _ = await end_of(serving.stub().List(LIST))

    span = span_log.one(outcome="error")
    assert code is grpc.StatusCode.INTERNAL
    assert span.status.status_code is StatusCode.ERROR
    assert "secret" not in span.to_json()


async def test_a_call_whose_caller_disconnects_is_cancelled(serve: StartMemoryServer, span_log: SpanLog) -> None:
    """The span of a cancelled call ends as `cancelled`."""
    serving = await serve(tracing=tracing(span_log))
    begun = asyncio.Event()

    async def hanging(*_: object, **__: object) -> Any:
        begun.set()
        await asyncio.Event().wait()

    serving.provider.list = hanging  # type: ignore[method-assign]
    call = serving.stub().List(LIST)
    await begun.wait()
    call.cancel()
    await eventually(lambda: bool(span_log.ended))

    assert span_log.one(outcome="cancelled").status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    "header", [(), (("traceparent", PARENT.upper()),), (("traceparent", "00-junk"),), (("traceparent-bin", b"\x00"),)]
)
async def test_without_a_sound_parent_a_trace_begins_here(
    serve: StartMemoryServer, span_log: SpanLog, header: tuple[tuple[str, str | bytes], ...]
) -> None:
    """Absent or malformed: a root span, not a child of the span in which the server was started."""
    with span_log.provider.get_tracer("x").start_as_current_span("start-up"):
        serving = await serve(tracing=tracing(span_log))
    code, trailing = await end_of(serving.stub().List(LIST, metadata=header))

    span = span_log.one(verb="list")
    assert code is grpc.StatusCode.OK
    assert span.parent is None
    assert trailing["traceresponse"].split("-")[1] == f"{span.context.trace_id:032x}"


async def test_neither_baggage_nor_trace_state_of_a_peer_gets_in(serve: StartMemoryServer, span_log: SpanLog) -> None:
    """While the provider works our span is current and the peer's baggage is not there."""
    serving = await serve(tracing=tracing(span_log))
    seen: dict[str, Any] = {}
    listed = serving.provider.list

    async def looking(*arguments: Any, **options: Any) -> Any:
        seen["span"] = trace.get_current_span().get_span_context()
        seen["baggage"] = dict(baggage.get_all())
        return await listed(*arguments, **options)

    serving.provider.list = looking  # type: ignore[method-assign]
    headers = (("traceparent", PARENT), ("tracestate", "evil=1"), ("baggage", "user=root"))
    await end_of(serving.stub().List(LIST, metadata=headers))

    span = span_log.one()
    assert seen["span"] == span.context
    assert seen["baggage"] == {}
    assert len(span.context.trace_state) == 0
    assert span.parent is not None
    assert len(span.parent.trace_state) == 0


async def test_a_local_rpc_span_of_this_call_is_the_parent(serve: StartMemoryServer, span_log: SpanLog) -> None:
    """If a program instruments gRPC itself, our span hangs beneath its span of the same trace."""

    class Instrumented(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            handler = await continuation(handler_call_details)

            async def call(request: Any, context: Any) -> Any:
                remote = trace.set_span_in_context(trace.NonRecordingSpan(_context_of(PARENT)))
                with span_log.provider.get_tracer("rpc").start_as_current_span("rpc", remote):
                    return await handler.unary_unary(request, context)

            return grpc.unary_unary_rpc_method_handler(call, handler.request_deserializer, handler.response_serializer)

    serving = await serve(tracing=tracing(span_log), server={"interceptors": [Instrumented()]})
    await end_of(serving.stub().List(LIST, metadata=(("traceparent", PARENT),)))

    rpc = next(span for span in span_log.ended if span.name == "rpc")
    assert span_log.one(verb="list").parent == rpc.context


async def test_without_an_sdk_nothing_is_traced_and_the_audit_keeps_the_callers_trace(serve: StartMemoryServer) -> None:
    """No span and no `traceresponse`; the audit event still has the caller's trace id."""
    serving = await serve(tracing=ServerTracing(SpanSource(NoOpTracerProvider()), ManualClock().clock))
    _, trailing = await end_of(serving.stub().List(LIST, metadata=(("traceparent", PARENT),)))

    assert "traceresponse" not in trailing
    [event] = await serving.writer.seen(1)
    assert event.trace_id == TRACE


def test_a_call_without_identity_has_a_span_too(span_log: SpanLog) -> None:
    """The span has the outcome that was set, no grant id, and at most 256 characters of the resource's name."""
    with tracing(span_log)((), "get", "x" * 1_000, None, "") as served:
        served.outcome = OutcomeName.NOT_FOUND

    attributes = span_log.one(outcome="not_found").attributes or {}
    assert (attributes["grant_id"], attributes["resource"]) == ("", "x" * 256)


async def test_a_watch_is_neither_traced_nor_counted(
    serve: StartMemoryServer, span_log: SpanLog, metric_log: MetricLog
) -> None:
    """A stream that lasts for hours has no span, and is no request in the metrics."""

    async def watch(_requests: Any, context: Any) -> None:
        await context.write(pb.WatchResponse(event_id=1).SerializeToString())

    counting = ServerTracing(span_log.source, ManualClock().clock, FederationMetrics(metric_log.provider))
    serving = await serve(tracing=counting, watch=watch)
    call = serving.stub().Watch(metadata=(("traceparent", PARENT),))
    assert (await call.read()).event_id == 1
    await call.done_writing()

    assert await call.code() is grpc.StatusCode.OK
    assert span_log.started == 0
    assert metric_log.points("federation.server.requests") == {}


@pytest.mark.parametrize("spans", [True, False])
async def test_served_calls_are_counted_and_timed(
    serve: StartMemoryServer, span_log: SpanLog, metric_log: MetricLog, spans: bool
) -> None:
    """By the grant's peer, verb and outcome, with spans and without; the seconds are those of the span."""
    hands = ManualClock()
    source = span_log.source if spans else SpanSource(NoOpTracerProvider())
    counting = ServerTracing(source, hands.clock, FederationMetrics(metric_log.provider))
    serving = await serve(tracing=counting)
    await end_of(serving.stub().List(LIST))
    await end_of(serving.stub().List(LIST))
    await end_of(serving.stub().Get(pb.GetRequest(resource="tasks", id="absent")))
    with counting((), "search", "", None, "") as served:
        hands.advance(0.5)
        served.outcome = OutcomeName.DENIED

    def point(peer: str, verb: str, outcome: str) -> tuple[tuple[str, str], ...]:
        return (("outcome", outcome), *((("peer", peer),) if peer else ()), ("verb", verb))

    listed, got, searched = point(PEER, "list", "ok"), point(PEER, "get", "not_found"), point("", "search", "denied")
    assert metric_log.points("federation.server.requests") == {listed: 2, got: 1, searched: 1}
    durations = metric_log.points("federation.server.duration")
    assert {key: point.count for key, point in durations.items()} == {listed: 2, got: 1, searched: 1}
    assert durations[searched].sum == 0.5
    if spans:
        assert (span_log.one(verb="search").attributes or {})["latency_ms"] == 500.0


async def test_an_incident_is_logged_within_its_span(serve: StartMemoryServer, span_log: SpanLog) -> None:
    """The log line with the incident id has the trace id of the call."""
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(JsonFormatter())
    logging.getLogger("federation.server").addHandler(handler)
    serving = await serve(tracing=tracing(span_log))
    serving.provider.fault = ValueError("broken")
    code, _ = await end_of(serving.stub().List(LIST, metadata=(("traceparent", PARENT),)))
    logging.getLogger("federation.server").removeHandler(handler)

    [line] = [json.loads(line) for line in lines.getvalue().splitlines()]
    span = span_log.one(outcome="error")
    assert code is grpc.StatusCode.INTERNAL
    assert line["message"].startswith("incident ")
    assert (line["trace_id"], line["span_id"]) == (TRACE, f"{span.context.span_id:016x}")


def _context_of(header: str) -> trace.SpanContext:
    parent = parse_traceparent(header)
    assert parent is not None
    return trace.SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=trace.TraceFlags(1))
