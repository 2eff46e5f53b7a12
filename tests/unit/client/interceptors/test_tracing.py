"""The client's span: its attributes, its start, its links, and its end in every case."""

import gc
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode

from federation.client.chain.flow import Call, Cancelled, Flow, Outcome, Proceed, refused
from federation.client.chain.outcomes import timed_out
from federation.client.interceptors.propagation import PropagationInterceptor
from federation.client.interceptors.tracing import TracingInterceptor
from federation.errors import CODE_OF, Reason, Refusal
from federation.telemetry.metrics import FederationMetrics
from federation.telemetry.spans import OutcomeName, SpanSource, outcome_of_code, span_status
from federation.telemetry.traceparent import parse_traceparent
from federation.wire.metadata import TRACEPARENT, first
from tests.support.clock import ManualClock
from tests.support.memory_exporters import MetricLog, SpanLog, answer, suspended_flow

CALL = Call("/m", "list", "tasks", "grant-1", "work.example", "ada", b"", (), 1_002.0)
OK = Outcome(grpc.StatusCode.OK, b"rows")
HIT = OK._replace(cached=True, age_s=3.0, filled_by="00-" + "ab" * 16 + "-" + "cd" * 8 + "-01")
PROPAGATION = PropagationInterceptor(lambda: "0" * 32)


class Serve:
    """An inner interceptor that answers without the wire."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def intercept(self, proceed: Proceed, call: Call) -> Flow:
        del proceed, call
        return self.outcome
        yield


class Link:
    """The content of a link, readable."""

    def __init__(self, link: Any) -> None:
        self.trace_id = f"{link.context.trace_id:032x}"
        self.span_id = f"{link.context.span_id:016x}"
        self.kind = link.attributes["federation.link"]


def tracing(log: SpanLog, clock: ManualClock | None = None, **options: Any) -> TracingInterceptor:
    """The interceptor under test, on a clock of the test."""
    return TracingInterceptor(log.source, (clock or ManualClock()).clock, **options)


def wire_parent(call: Call) -> tuple[int, int]:
    """The trace and span that the wire carries."""
    parent = parse_traceparent(first(call.metadata, TRACEPARENT))
    assert parent is not None
    return parent.trace_id, parent.span_id


WORDS: Mapping[str, str] = {
    "OK": "ok",
    "CANCELLED": "cancelled",
    "UNKNOWN": "error",
    "INVALID_ARGUMENT": "invalid",
    "DEADLINE_EXCEEDED": "timeout",
    "NOT_FOUND": "not_found",
    "ALREADY_EXISTS": "error",
    "PERMISSION_DENIED": "denied",
    "RESOURCE_EXHAUSTED": "rate_limited",
    "FAILED_PRECONDITION": "error",
    "ABORTED": "error",
    "OUT_OF_RANGE": "invalid",
    "UNIMPLEMENTED": "error",
    "INTERNAL": "error",
    "UNAVAILABLE": "offline",
    "DATA_LOSS": "error",
    "UNAUTHENTICATED": "denied",
}


def test_every_code_has_its_outcome() -> None:
    """One outcome for each gRPC code; `error` for the rest."""
    assert {code.name: outcome_of_code(code.name).value for code in grpc.StatusCode} == WORDS
    assert outcome_of_code("SOMETHING_NEW") == "error"
    assert {word.value for word in OutcomeName} == {
        *("ok", "denied", "not_found", "invalid", "rate_limited", "offline", "timeout", "cancelled", "error")
    }


def test_status_is_error_for_outages_and_faults_alone() -> None:
    """`offline`, `timeout` and `error` are errors of the span; refusals and cancelled calls are not."""
    errors = {word.value for word in OutcomeName if span_status(word) is not None}

    assert errors == {"offline", "timeout", "error"}


def test_a_live_call_is_one_span_that_the_wire_names(span_log: SpanLog) -> None:
    """Kind CLIENT, the seven attributes, the time it took, and its own id in `traceparent`."""
    clock = ManualClock()
    flow, sent = suspended_flow([tracing(span_log, clock), PROPAGATION], CALL)
    clock.advance(0.25)
    with pytest.raises(StopIteration):
        flow.send(OK)

    span = span_log.one()
    assert (span.name, span.kind, span.status.status_code) == ("federation.request", SpanKind.CLIENT, StatusCode.UNSET)
    assert dict(span.attributes or {}) == {
        "grant_id": "grant-1",
        "peer": "work.example",
        "verb": "list",
        "resource": "tasks",
        "outcome": "ok",
        "latency_ms": 250.0,
        "cached": False,
    }
    assert (span.start_time, span.end_time) == (1_800_000_000_000_000_000, 1_800_000_000_250_000_000)
    assert wire_parent(sent) == (span.context.trace_id, span.context.span_id)
    assert span.parent is None


def test_the_callers_span_is_the_parent_and_ours_is_never_current(span_log: SpanLog) -> None:
    """The span hangs under the caller's; while the flow runs and after it the caller's stays current."""
    with span_log.provider.get_tracer("caller").start_as_current_span("caller") as caller:
        flow, sent = suspended_flow([tracing(span_log), PROPAGATION], CALL)
        assert trace.get_current_span() is caller
        assert wire_parent(sent)[0] == caller.get_span_context().trace_id
    with pytest.raises(StopIteration):
        flow.send(OK)

    assert span_log.one(verb="list").parent == caller.get_span_context()


@pytest.mark.parametrize("reason", list(Reason))
def test_a_refused_call_says_so_without_an_exception_event(span_log: SpanLog, reason: Reason) -> None:
    """Each reason has its outcome and status on the span, and there is no exception event, which costs 0.25 ms."""
    answer([tracing(span_log), Serve(refused(Refusal(reason, "no")))], CALL)

    span = span_log.one(outcome=WORDS[CODE_OF[reason]])
    is_error = WORDS[CODE_OF[reason]] in {"offline", "timeout", "error"}
    assert (span.status.status_code is StatusCode.ERROR) == is_error
    assert span.events == ()


def test_a_timeout_after_the_wire_is_timeout(span_log: SpanLog) -> None:
    """A call that was sent and not answered ends its span with `timeout`."""
    answer([tracing(span_log), PROPAGATION], CALL, timed_out())

    assert span_log.one(outcome="timeout").status.status_code is StatusCode.ERROR


def test_a_hit_is_a_span_started_at_its_end_that_links_to_the_fill(span_log: SpanLog) -> None:
    """Nothing is started before the answer; then the span has all attributes, the link and the true start."""
    clock = ManualClock()

    class LateHit(Serve):
        def intercept(self, proceed: Proceed, call: Call) -> Flow:
            clock.advance(0.001)
            assert span_log.started == 0
            return (yield from super().intercept(proceed, call))

    answer([tracing(span_log, clock), LateHit(HIT)], CALL)

    span = span_log.one(cached=True, outcome="ok")
    [link] = [Link(link) for link in span.links]
    assert (link.trace_id, link.span_id, link.kind) == ("ab" * 16, "cd" * 8, "filled_by")
    assert span.start_time == 1_800_000_000_000_000_000
    assert span.attributes is not None
    assert span.attributes["latency_ms"] == pytest.approx(1.0)


def test_hit_spans_can_be_left_out(span_log: SpanLog) -> None:
    """With the switch off a hit has no span, a live call and an open circuit still have theirs."""
    member = tracing(span_log, hit_spans=False)
    answer([member, Serve(HIT)], CALL)
    assert span_log.started == 0

    answer([member, PROPAGATION], CALL, OK)
    answer([member, Serve(refused(Refusal(Reason.CIRCUIT_OPEN, "no")))], CALL)

    assert [span.attributes["outcome"] for span in span_log.ended if span.attributes] == ["ok", "offline"]


def test_the_servers_span_is_linked(span_log: SpanLog) -> None:
    """`traceresponse` of the answer, good or bad, becomes a link; a malformed one does not."""
    response = "00-" + "12" * 16 + "-" + "34" * 8 + "-01"
    for outcome in (
        OK._replace(trailing=(("traceresponse", response),)),
        Outcome(grpc.StatusCode.NOT_FOUND, trailing=(("x", b"y"), ("traceresponse", response))),
    ):
        answer([tracing(span_log), PROPAGATION], CALL, outcome)
    answer([tracing(span_log), PROPAGATION], CALL, OK._replace(trailing=(("traceresponse", "junk"),)))

    links = [[(link.trace_id, link.kind) for link in map(Link, span.links)] for span in span_log.ended]
    assert links == [[("12" * 16, "server")], [("12" * 16, "server")], []]


def test_a_span_does_not_link_to_itself(span_log: SpanLog) -> None:
    """A peer that sends our own `traceparent` back adds nothing."""
    flow, sent = suspended_flow([tracing(span_log), PROPAGATION], CALL)
    echoed = first(sent.metadata, TRACEPARENT)
    assert echoed is not None
    with pytest.raises(StopIteration):
        flow.send(OK._replace(trailing=(("traceresponse", echoed),)))

    assert span_log.one().links == ()


@pytest.mark.parametrize(
    ("fault", "word"),
    [(Cancelled(), "cancelled"), (ValueError("bug"), "error"), (KeyboardInterrupt(), "error")],
)
@pytest.mark.parametrize("opened", [True, False])
def test_a_call_that_raises_ends_its_span(span_log: SpanLog, fault: BaseException, word: str, opened: bool) -> None:
    """Cancelled, broken or interrupted, before or after the span was started: it ends once, with its outcome."""
    members = [tracing(span_log), PROPAGATION] if opened else [tracing(span_log)]
    flow, _ = suspended_flow(members, CALL)
    assert span_log.started == int(opened)
    with pytest.raises(type(fault)):
        flow.throw(fault)

    span = span_log.one(outcome=word)
    assert span.events == ()
    assert (span.status.status_code is StatusCode.ERROR) == (word == "error")


def test_a_closed_or_collected_flow_ends_its_span(span_log: SpanLog) -> None:
    """A generator that is closed or garbage-collected is a cancelled call."""
    flow, _ = suspended_flow([tracing(span_log), PROPAGATION], CALL)
    flow.close()
    flow, _ = suspended_flow([tracing(span_log), PROPAGATION], CALL)
    del flow
    gc.collect()

    assert [(span.attributes or {})["outcome"] for span in span_log.ended] == ["cancelled", "cancelled"]


def test_a_shared_call_may_ask_for_the_traceparent_after_its_leader_left(span_log: SpanLog) -> None:
    """The ended span's id is returned, and no second span is started."""
    flow, sent = suspended_flow([tracing(span_log)], CALL)
    with pytest.raises(Cancelled):
        flow.throw(Cancelled())
    assert sent.trace is not None

    parent = parse_traceparent(sent.trace.traceparent())

    assert parent is not None
    assert parent.span_id == span_log.one(outcome="cancelled").context.span_id
    assert span_log.started == 1


def test_threads_that_ask_at_once_open_one_span(span_log: SpanLog) -> None:
    """The traceparent asked for by many threads while the call ends is one, and so is the span."""
    for _ in range(50):
        flow, sent = suspended_flow([tracing(span_log)], CALL)
        assert sent.trace is not None
        barrier, parents = threading.Barrier(5), []

        def ask(call_trace: Any = sent.trace, barrier: Any = barrier, parents: list[str] = parents) -> None:
            barrier.wait()
            parents.append(call_trace.traceparent())

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        barrier.wait()
        with pytest.raises(StopIteration):
            flow.send(OK)
        for thread in threads:
            thread.join()
        assert len(set(parents)) == 1

    assert span_log.started == len(span_log.ended) == 50


def test_events_wait_for_the_span_and_keep_their_instant(span_log: SpanLog) -> None:
    """Events from before the start of the span are on it, with their own time."""
    clock = ManualClock()
    flow, sent = suspended_flow([tracing(span_log, clock)], CALL)
    assert sent.trace is not None
    sent.trace.add_event("federation.circuit", {"before": "closed", "after": "open"})
    clock.advance(1)
    with pytest.raises(StopIteration):
        flow.send(OK)

    [event] = span_log.one().events
    assert (event.name, dict(event.attributes or {})) == ("federation.circuit", {"before": "closed", "after": "open"})
    assert event.timestamp == 1_800_000_000_000_000_000


def test_a_watch_has_no_span(span_log: SpanLog, metric_log: MetricLog) -> None:
    """A stream of hours is no request: it has neither span nor metrics."""
    member = tracing(span_log, metrics=FederationMetrics(metric_log.provider))
    _, sent = answer([member], CALL._replace(verb="watch"), OK)

    assert sent[0].trace is None
    assert span_log.started == 0
    assert metric_log.points("federation.client.requests") == {}


def test_an_unsampled_trace_is_told_to_the_peer_as_such() -> None:
    """A sampler that drops the span still gives the wire a `traceparent`, with the flag off."""
    log = SpanLog(ALWAYS_OFF)
    _, [sent] = answer([tracing(log), PROPAGATION], CALL, OK)

    parent = parse_traceparent(first(sent.metadata, TRACEPARENT))
    assert parent is not None
    assert not parent.sampled
    assert log.ended == ()


@pytest.mark.parametrize("sampled", [False, True])
def test_the_sampled_flag_of_the_current_span_is_passed_on(sampled: bool) -> None:
    """A call without a span of its own tells the peer the sampled flag of the span that is current."""
    context = trace.SpanContext(0xAB, 0xCD, is_remote=False, trace_flags=trace.TraceFlags(sampled))
    with trace.use_span(trace.NonRecordingSpan(context)):
        _, [sent] = answer([PROPAGATION], CALL, OK)

    parent = parse_traceparent(first(sent.metadata, TRACEPARENT))
    assert parent is not None
    assert (parent.trace_id, parent.span_id, parent.sampled) == (0xAB, 0xCD, sampled)


@pytest.mark.parametrize("provider", [None, NoOpTracerProvider()])
def test_without_an_sdk_a_call_passes_through_untouched(provider: NoOpTracerProvider | None) -> None:
    """Without tracer and metrics the very same call is passed on, and nothing is created for it."""
    member = TracingInterceptor(SpanSource(provider), ManualClock().clock)

    _, [sent] = answer([member], CALL, OK)

    assert sent is CALL


def test_an_sdk_that_comes_later_is_used() -> None:
    """A program may install its provider after opening the federation."""
    code = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from federation.telemetry.spans import SpanSource
source = SpanSource()
assert source.tracer() is None
trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
assert source.tracer() is not None
print("fine")
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "fine\n"


def test_no_baggage_of_the_caller_is_on_the_span_or_the_wire(span_log: SpanLog) -> None:
    """The caller's baggage does not become part of the call."""
    token = otel_context.attach(baggage.set_baggage("customer", "secret"))
    try:
        _, [sent] = answer([tracing(span_log), PROPAGATION], CALL, OK)
    finally:
        otel_context.detach(token)

    assert "secret" not in str(sent.metadata)
    assert "secret" not in str(span_log.one().attributes)


def test_metrics_are_recorded_with_and_without_spans(span_log: SpanLog, metric_log: MetricLog) -> None:
    """Each call counts once by peer, verb, outcome and cached, and its seconds are in the histogram."""
    metrics = FederationMetrics(metric_log.provider)
    clock = ManualClock()
    flow, _ = suspended_flow([tracing(span_log, clock, metrics=metrics)], CALL)
    clock.advance(0.5)
    with pytest.raises(StopIteration):
        flow.send(OK)
    silent = TracingInterceptor(SpanSource(NoOpTracerProvider()), clock.clock, metrics)
    answer([silent, Serve(HIT)], CALL)
    answer([silent], CALL, Outcome(grpc.StatusCode.NOT_FOUND))
    flow, _ = suspended_flow([silent], CALL)
    with pytest.raises(Cancelled):
        flow.throw(Cancelled())

    def point(outcome: str, *, cached: bool) -> tuple[tuple[str, object], ...]:
        return (("cached", cached), ("outcome", outcome), ("peer", "work.example"), ("verb", "list"))

    assert metric_log.points("federation.client.requests") == {
        point("ok", cached=False): 1,
        point("ok", cached=True): 1,
        point("not_found", cached=False): 1,
        point("cancelled", cached=False): 1,
    }
    durations = metric_log.points("federation.client.duration")
    assert durations[point("ok", cached=False)].sum == pytest.approx(0.5)
