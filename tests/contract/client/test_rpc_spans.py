"""RPC spans by the instrumentation package: below the federation's spans, and without its faults."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.instrumentation.grpc import (
    GrpcAioInstrumentorClient,
    GrpcAioInstrumentorServer,
    GrpcInstrumentorClient,
)
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from federation.client.aio.channel import AioChannel
from federation.client.runtime import ClientRuntime
from federation.config import GatewayConfig, TelemetryConfig
from federation.errors import Reason, Refusal
from federation.server.pipeline.rpc_spans import RpcSpanServerInterceptor
from federation.server.pipeline.tracing import ServerTracing
from federation.telemetry.telemetry import Telemetry
from federation.telemetry.traceparent import parse_traceparent
from federation.v1 import federation_pb2 as pb
from federation.v1.federation_pb2_grpc import FederationServiceStub
from tests.support.clock import ManualClock
from tests.support.federations import sync_channel_of
from tests.support.memory_exporters import SpanLog
from tests.support.scripted import Reply, ScriptedPeer, eventually
from tests.support.server_in_memory import StartMemoryServer

RPC = "/federation.v1.FederationService/Search"
SEARCH, LIST = pb.SearchRequest(query="report"), pb.ListRequest(resource="tasks")
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

Opened = Callable[..., ClientRuntime]


def pair(log: SpanLog, name: str = RPC) -> tuple[ReadableSpan, ReadableSpan]:
    """Return the one `federation.request` span and the one RPC span, both CLIENT; the second below the first."""
    [ours] = [span for span in log.ended if span.name == "federation.request"]
    [rpc] = [span for span in log.ended if span.name == name]
    assert (ours.kind, rpc.kind) == (SpanKind.CLIENT, SpanKind.CLIENT)
    assert rpc.parent is not None
    assert (rpc.parent.trace_id, rpc.parent.span_id) == (ours.context.trace_id, ours.context.span_id)
    return ours, rpc


@pytest.fixture
def opened(tmp_path: Path, scripted: ScriptedPeer, span_log: SpanLog) -> Iterator[Opened]:
    """Open a gateway whose only peer is the scripted one."""
    runtimes: list[ClientRuntime] = []

    def open_(*, rpc_spans: bool = True) -> ClientRuntime:
        settings = TelemetryConfig(rpc_spans=rpc_spans)
        config = GatewayConfig(directory=tmp_path, name="home.example", telemetry=settings)
        telemetry = Telemetry(span_log.source, None, span_log.provider)
        runtimes.append(ClientRuntime(config, ManualClock(time.time()).clock, telemetry))
        runtimes[-1].peers.add(scripted.record())  # type: ignore[arg-type]
        return runtimes[-1]

    yield open_
    for runtime in runtimes:
        runtime.close()


def aio_stub(runtime: ClientRuntime) -> Any:
    """The aio stub of the only peer."""
    return FederationServiceStub(AioChannel(runtime.peers.all()[0], clock=runtime.clock, deadline_s=2.0))


async def test_the_rpc_span_is_below_the_request_span_and_on_the_wire(
    opened: Opened, scripted: ScriptedPeer, span_log: SpanLog
) -> None:
    """The RPC span is a child of `federation.request`; the server receives its id and all of the caller's metadata."""
    await aio_stub(opened()).Search(SEARCH, metadata=(("x", "1"), ("x", "2")))

    ours, rpc = pair(span_log)
    [seen] = scripted.service.seen
    [header] = seen.header("traceparent")
    parent = parse_traceparent(str(header))
    assert parent is not None
    assert (parent.trace_id, parent.span_id) == (ours.context.trace_id, rpc.context.span_id)
    assert seen.header("x") == ["1", "2"]
    assert (rpc.attributes or {})["rpc.grpc.status_code"] == 0


async def test_it_is_off_by_default(opened: Opened, span_log: SpanLog) -> None:
    """One span a call and gateway, unless the setting enables more."""
    assert not TelemetryConfig().rpc_spans
    await aio_stub(opened(rpc_spans=False)).Search(SEARCH)

    assert [span.name for span in span_log.ended] == ["federation.request"]


async def test_a_hit_has_no_rpc_span(opened: Opened, span_log: SpanLog) -> None:
    """Nothing was sent, so there is no RPC span below the hit's span."""
    stub = aio_stub(opened())
    await stub.List(LIST)
    await stub.List(LIST)

    names = sorted(span.name for span in span_log.ended)
    assert names == ["/federation.v1.FederationService/List", "federation.request", "federation.request"]


async def test_a_failed_call_has_its_code_and_no_exception_event(
    opened: Opened, scripted: ScriptedPeer, span_log: SpanLog
) -> None:
    """The RPC span follows the conventions (any code but OK is an error); neither span holds an event."""
    scripted.service.script("search", Reply(refusal=Refusal(Reason.SCOPE_VIOLATION, "no")))
    with pytest.raises(grpc.aio.AioRpcError):
        await aio_stub(opened()).Search(SEARCH)

    ours, rpc = pair(span_log)
    assert (rpc.attributes or {})["rpc.grpc.status_code"] == grpc.StatusCode.PERMISSION_DENIED.value[0]
    assert (ours.status.status_code, rpc.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)
    assert (ours.events, rpc.events) == ((), ())


@pytest.mark.parametrize("how", ["task", "call", "dropped"])
async def test_a_cancelled_call_leaks_no_span_and_reaches_the_server(
    opened: Opened, scripted: ScriptedPeer, span_log: SpanLog, how: str
) -> None:
    """However a call is cancelled, both spans end with that outcome, and the server sees the cancellation."""
    scripted.service.script("search", Reply(delay_s=30))
    call = aio_stub(opened()).Search(SEARCH, timeout=20)
    await eventually(lambda: scripted.service.calls("search") == 1)
    if how == "task":
        task = asyncio.ensure_future(_wait(call))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    elif how == "call":
        call.cancel()
    del call

    await eventually(lambda: scripted.service.cancelled == 1)
    ours, rpc = pair(span_log)
    assert (ours.attributes or {})["outcome"] == "cancelled"
    assert (rpc.attributes or {})["rpc.grpc.status_code"] == grpc.StatusCode.CANCELLED.value[0]


async def _wait(call: Any) -> None:
    await call


async def test_bad_metadata_does_not_hang(opened: Opened, span_log: SpanLog) -> None:
    """A metadata value that cannot be sent fails the call at once with INVALID_ARGUMENT, and no span stays open."""
    async with asyncio.timeout(2):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await aio_stub(opened()).Search(SEARCH, metadata=(("x", "line\nbreak"),))

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert span_log.leaked == 0


async def test_a_timeout_ends_both_spans(opened: Opened, scripted: ScriptedPeer, span_log: SpanLog) -> None:
    """Both spans end at the deadline."""
    scripted.service.script("search", Reply(delay_s=30))
    with pytest.raises(grpc.aio.AioRpcError):
        await aio_stub(opened()).Search(SEARCH, timeout=0.1)

    ours, rpc = pair(span_log)
    assert (ours.attributes or {})["outcome"] == "timeout"
    assert (rpc.attributes or {})["rpc.grpc.status_code"] == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


@pytest.mark.parametrize("way", ["call", "with_call", "future"])
def test_sync_calls_have_it_too(opened: Opened, span_log: SpanLog, way: str) -> None:
    """Each way of making a sync call has one RPC span, below its `federation.request` span."""
    runtime = opened()
    search: Any = FederationServiceStub(sync_channel_of(runtime)).Search
    {"call": search, "with_call": search.with_call, "future": lambda r: search.future(r).result(5)}[way](SEARCH)

    pair(span_log)


async def test_suppressed_instrumentation_is_respected(opened: Opened, span_log: SpanLog) -> None:
    """Within `suppress_instrumentation()` the wire carries the `federation.request` span."""
    with suppress_instrumentation():
        await aio_stub(opened()).Search(SEARCH)

    assert [span.name for span in span_log.ended] == ["federation.request"]


@pytest.mark.parametrize("rpc_spans", [True, False])
async def test_a_program_that_instruments_grpc_itself_gets_no_span_twice(
    opened: Opened, scripted: ScriptedPeer, span_log: SpanLog, rpc_spans: bool
) -> None:
    """With gRPC's channels patched the chain's own wire calls are as without: cancelled, sent and refused alike."""
    GrpcAioInstrumentorClient().instrument(tracer_provider=span_log.provider)
    GrpcInstrumentorClient().instrument(tracer_provider=span_log.provider)
    try:
        runtime = opened(rpc_spans=rpc_spans)
        await aio_stub(runtime).Search(SEARCH)
        sync: Any = FederationServiceStub(sync_channel_of(runtime))
        await asyncio.to_thread(sync.Search, SEARCH)
        scripted.service.script("search", Reply(delay_s=30))
        call = aio_stub(runtime).Search(SEARCH, timeout=20)
        await eventually(lambda: scripted.service.calls("search") == 3)
        call.cancel()
        await eventually(lambda: scripted.service.cancelled == 1)
    finally:
        GrpcAioInstrumentorClient().uninstrument()
        GrpcInstrumentorClient().uninstrument()

    names = [span.name for span in span_log.ended]
    assert (names.count("federation.request"), names.count(RPC)) == (3, 3 if rpc_spans else 0)


async def test_the_servers_rpc_span_is_above_ours(serve: StartMemoryServer, span_log: SpanLog) -> None:
    """The caller's span, then the RPC SERVER span, then `federation.request`; a peer's baggage is not adopted."""
    serving = await serve(
        tracing=ServerTracing(span_log.source, ManualClock().clock),
        server={"interceptors": [RpcSpanServerInterceptor(span_log.provider)]},
    )
    headers = (("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "evil=1"), ("baggage", "user=root"))
    await serving.stub().Search(SEARCH, metadata=headers)

    [ours] = [span for span in span_log.ended if span.name == "federation.request"]
    [rpc] = [span for span in span_log.ended if span.name == RPC]
    assert rpc.parent is not None
    assert (f"{rpc.parent.trace_id:032x}", f"{rpc.parent.span_id:016x}") == (TRACE, SPAN)
    assert len(rpc.context.trace_state) == 0
    assert ours.parent == rpc.context
    assert (ours.kind, rpc.kind) == (SpanKind.SERVER, SpanKind.SERVER)


@pytest.mark.parametrize("header", [(), (("traceparent", f"00-{TRACE}-{SPAN}-01"),)])
async def test_a_server_that_is_instrumented_already_gets_no_span_twice(
    serve: StartMemoryServer, span_log: SpanLog, header: tuple[tuple[str, str], ...]
) -> None:
    """If the program patched `grpc.aio.server`, its RPC span is the only one."""
    GrpcAioInstrumentorServer().instrument(tracer_provider=span_log.provider)
    try:
        serving = await serve(
            tracing=ServerTracing(span_log.source, ManualClock().clock),
            server={"interceptors": [RpcSpanServerInterceptor(span_log.provider)]},
        )
    finally:
        GrpcAioInstrumentorServer().uninstrument()
    await serving.stub().Search(SEARCH, metadata=header)

    assert sorted(span.name for span in span_log.ended) == [RPC, "federation.request"]


@pytest.mark.parametrize("header", [(), (("traceparent", "junk"),)])
async def test_the_servers_rpc_span_begins_a_trace_where_the_caller_has_none(
    serve: StartMemoryServer, span_log: SpanLog, header: tuple[tuple[str, str], ...]
) -> None:
    """Not in the trace in which the server was started, and ours beneath it."""
    with span_log.provider.get_tracer("x").start_as_current_span("start-up"):
        serving = await serve(
            tracing=ServerTracing(span_log.source, ManualClock().clock),
            server={"interceptors": [RpcSpanServerInterceptor(span_log.provider)]},
        )
    await serving.stub().Search(SEARCH, metadata=header)

    [rpc] = [span for span in span_log.ended if span.name == RPC]
    [ours] = [span for span in span_log.ended if span.name == "federation.request"]
    assert rpc.parent is None
    assert ours.parent == rpc.context


@pytest.mark.parametrize(("what", "code"), [("refused", 7), ("broken", 13), ("cancelled", 1)])
async def test_the_servers_rpc_span_knows_how_the_call_ended(
    serve: StartMemoryServer, span_log: SpanLog, what: str, code: int
) -> None:
    """The span has the status code of the call, no events and no text of an exception; only a bug makes it an error."""
    serving = await serve(
        tracing=ServerTracing(span_log.source, ManualClock().clock),
        server={"interceptors": [RpcSpanServerInterceptor(span_log.provider)]},
    )
    begun = asyncio.Event()

    async def search(*_: object, **__: object) -> Any:
        begun.set()
        if what == "broken":
            raise ValueError("secret words")
        await asyncio.Event().wait()

    serving.provider.search = search  # type: ignore[method-assign]
    request = pb.SearchRequest(query="x", resources=["memory"]) if what == "refused" else SEARCH
    call = serving.stub().Search(request)
    if what == "cancelled":
        await begun.wait()
        call.cancel()
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await call

    await eventually(lambda: len(span_log.ended) == 2)
    [rpc] = [span for span in span_log.ended if span.name == RPC]
    assert (rpc.attributes or {})["rpc.grpc.status_code"] == code
    assert rpc.events == ()
    assert (rpc.status.status_code is StatusCode.ERROR) == (what == "broken")
    assert "secret" not in rpc.to_json()
