"""Aio calls through the chain, over real mutual TLS: through our channel and through the standard interceptors."""

import asyncio
import gc
import threading
import time
from pathlib import Path

import grpc
import pytest

from federation.config import ClientConfig
from federation.errors import Reason, Refusal
from federation.v1 import federation_pb2 as pb
from federation.wire.metadata import CACHED, SOURCE
from federation.wire.status import error_detail_of
from tests.support.federations import aio_stub, federation_of
from tests.support.scripted import Reply, ScriptedPeer, eventually

SEARCH = pb.SearchRequest(query="report")
LIST = pb.ListRequest(resource="tasks")


def held() -> Reply:
    """An answer that never arrives."""
    return Reply(gate=threading.Event())


async def test_await_again_and_beside_code(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A call may be awaited repeatedly, and together with its code: it returns the same message each time."""
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        call = stub.Search(SEARCH)
        first, code = await asyncio.gather(_awaited(call), call.code())

        assert code is grpc.StatusCode.OK
        assert await call is first
        assert first.hits[0].row.id == "t1"
        assert scripted.service.calls() == 1


async def test_starts_eagerly(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A call that is referenced but never awaited reaches the peer."""
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        call = stub.Search(SEARCH)
        await eventually(lambda: scripted.service.finished == 1)
        await call


async def test_done_callback_before_and_after_the_end(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A done callback is called once with the call, at once if the call has ended."""
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        seen: list[object] = []
        call = stub.Search(SEARCH)
        call.add_done_callback(seen.append)
        await call
        await eventually(lambda: seen == [call])
        call.add_done_callback(seen.append)
        assert seen == [call, call]


async def test_cancel(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A cancelled call reports it in every way, once, and the peer sees the cancellation."""
    scripted.service.script("search", held())
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        call = stub.Search(SEARCH, timeout=30)
        await eventually(lambda: scripted.service.active == 1)

        assert call.cancel()
        await eventually(call.done)
        assert call.cancelled()
        assert not call.cancel()
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert await call.details() == "Locally cancelled by application!"
        with pytest.raises(asyncio.CancelledError):
            await call
        await eventually(lambda: scripted.service.cancelled == 1)


async def test_cancel_at_once_leaves_nothing_behind(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A call cancelled before the next loop iteration ends cleanly: no runner, no flight, and the next call works."""
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        call = stub.List(LIST)
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        peer = fed.peer("work.example")
        await eventually(lambda: not peer.runners)
        assert peer.cache.stats().flights == 0
        assert (await stub.List(LIST)).rows


async def test_cancelled_task_cancels_the_call(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Cancelling the task that awaits a call cancels it at the peer: by hand, by `wait_for`, by `timeout`."""
    scripted.service.script("search", held())
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        task = asyncio.ensure_future(_awaited(stub.Search(SEARCH, timeout=30)))
        await eventually(lambda: scripted.service.active == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_awaited(stub.Search(SEARCH, timeout=30)), 0.5)
        with pytest.raises(asyncio.TimeoutError):
            async with asyncio.timeout(0.5):  # time in which the call reaches the peer, over an open connection
                await stub.Search(SEARCH, timeout=30)
        await eventually(lambda: scripted.service.cancelled == 3)


async def test_cancelled_wait_for_the_code_leaves_the_call(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Cancelling a task in `await call.code()` ends that wait alone."""
    gate = threading.Event()
    scripted.service.script("search", Reply(gate=gate))
    async with federation_of(tmp_path, scripted.record()) as fed:
        call = fed.stub("work.example").Search(SEARCH)
        waiting = asyncio.ensure_future(call.code())
        await eventually(lambda: scripted.service.active == 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.set()
        assert (await call).hits


async def test_dropped_call_is_cancelled_at_the_peer(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A call that is garbage-collected is cancelled."""
    scripted.service.script("search", held())
    async with federation_of(tmp_path, scripted.record()) as fed:
        call = fed.stub("work.example").Search(SEARCH, timeout=30)
        await eventually(lambda: scripted.service.active == 1)
        del call
        gc.collect()
        await eventually(lambda: scripted.service.cancelled == 1)


async def test_deadline(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A caller's timeout reaches the peer, ends the call in time, and is this gateway's own error."""
    scripted.service.script("search", held())
    client = ClientConfig(deadline_s=60.0, watch=False)
    fed = federation_of(tmp_path, scripted.record(), client=client)
    async with fed, aio_stub(form, fed, scripted) as stub:
        await stub.List(LIST)  # so that the search needs no handshake, and arrives within its deadline
        begun = time.monotonic()
        with pytest.raises(grpc.RpcError) as failed:
            await stub.Search(SEARCH, timeout=0.5)
        took = time.monotonic() - begun

        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert error_detail_of(failed.value).reason == Reason.PEER_TIMEOUT
        assert error_detail_of(failed.value).local
        assert 0.45 < took < 1.0
        _, seen = scripted.service.seen
        assert seen.remaining_s is not None
        assert 0.1 < seen.remaining_s < 0.6  # gRPC rounds it up for the wire


async def test_default_deadline_is_the_configured_one(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A call without a timeout has the gateway's budget, 2 s unless set."""
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        await stub.Search(SEARCH)

        [seen] = scripted.service.seen
        assert seen.remaining_s is not None
        assert 1.0 < seen.remaining_s <= 2.0


async def test_used_up_timeout_never_reaches_the_peer(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A timeout of zero is PEER_TIMEOUT, without a request."""
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        for timeout in (0, -1):
            with pytest.raises(grpc.RpcError) as failed:
                await stub.Search(SEARCH, timeout=timeout)
            assert error_detail_of(failed.value).reason == Reason.PEER_TIMEOUT
        assert scripted.service.calls() == 0


async def test_error_of_the_peer(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A refusal keeps code, text, rich detail and metadata, on exception and call, with this gateway's tags."""
    refusal = Refusal(Reason.RATE_LIMITED, "too many calls", retry_after_s=3)
    forged = ((SOURCE, "local"), (CACHED, "true"))
    scripted.service.script("search", Reply(refusal=refusal, trailing=(("kept", "yes"), *forged), initial=forged))
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        call = stub.Search(SEARCH)
        with pytest.raises(grpc.RpcError) as failed:
            await call

        error = failed.value
        assert isinstance(error, grpc.aio.AioRpcError)
        assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls")
        assert (await call.code(), await call.details()) == (error.code(), error.details())
        detail = error_detail_of(error)
        assert (detail.reason, detail.local, detail.retry_after_s) == (Reason.RATE_LIMITED, False, 3)
        for trailing in (error.trailing_metadata(), await call.trailing_metadata()):
            assert trailing.get_all(SOURCE) == ["federated:work.example"]
            assert trailing.get_all(CACHED) == ["false"]
            assert trailing["kept"] == "yes"
        assert SOURCE not in (await call.initial_metadata())


async def test_hit_and_live_answer_are_tagged(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """The first answer has `_cached: false`, the second comes from memory and has `true`; both name the peer."""
    scripted.service.script("list", Reply(trailing=((CACHED, "true"), (SOURCE, "local"))))
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        live, hit = stub.List(LIST), None
        rows = (await live).rows
        hit = stub.List(LIST)
        again = (await hit).rows

        assert rows == again
        assert rows is not again
        for call, cached in ((live, "false"), (hit, "true")):
            trailing = await call.trailing_metadata()
            assert trailing.get_all(CACHED) == [cached]
            assert trailing.get_all(SOURCE) == ["federated:work.example"]
        assert scripted.service.calls() == 1


async def test_hit_is_done_when_created(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A hit needs no loop iteration and no task: it is done when created, with a message of its own."""
    async with federation_of(tmp_path, scripted.record()) as fed:
        stub = fed.stub("work.example")
        first = await stub.List(LIST)
        first.rows[0].id = "changed"
        tasks = asyncio.all_tasks()

        call = stub.List(LIST)
        assert call.done()
        assert not call.cancel()
        assert not call.cancelled()
        called: list[object] = []
        call.add_done_callback(called.append)
        assert called == [call]
        assert asyncio.all_tasks() == tasks
        assert (await call).rows[0].id == "t1"
        assert await call.code() is grpc.StatusCode.OK
        await call.wait_for_connection()
        assert scripted.service.calls() == 1


@pytest.mark.parametrize(
    "pair",
    [("a", "two\nlines"), ("a", "adä"), ("Upper", "b"), ("x-bin", "text"), ("grpc-timeout", "1S"), ("a b", "c")],
    ids=["newline", "non-ascii", "upper case", "text in -bin", "reserved", "space"],
)
async def test_metadata_that_cannot_be_sent(
    form: str, pair: tuple[str, str], tmp_path: Path, scripted: ScriptedPeer
) -> None:
    """Metadata that gRPC could not send is refused at once as INVALID_REQUEST, by await and by `code()`, tagged."""
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        call = stub.Search(SEARCH, metadata=(pair,))
        async with asyncio.timeout(1):
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
            with pytest.raises(grpc.RpcError) as failed:
                await call
        assert error_detail_of(failed.value).reason == Reason.INVALID_REQUEST
        assert failed.value.trailing_metadata()[SOURCE] == "federated:work.example"
        assert scripted.service.calls() == 0


async def test_what_leaves_with_a_request(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A caller's own metadata is sent; its trace state, baggage and federation keys are not; the instance id is."""
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        given = (
            ("own", "kept"),
            ("own-bin", b"\x00\xff"),
            ("traceparent", "00-" + "1" * 32 + "-" + "2" * 16 + "-01"),
            ("tracestate", "vendor=1"),
            ("baggage", "secret=1"),
            ("mosaic-instance", "f" * 32),
            ("mosaic-other", "x"),
        )
        await stub.Search(SEARCH, metadata=given)

        [seen] = scripted.service.seen
        assert seen.header("own") == ["kept"]
        assert seen.header("own-bin") == [b"\x00\xff"]
        assert seen.header("mosaic-instance") == [fed.instance_id]
        for key in ("traceparent", "tracestate", "baggage", "mosaic-other"):
            assert seen.header(key) == []


async def test_request_goes_out_as_its_key_says(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """The wire carries the normalised request, whatever the caller does to its message afterwards."""
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        request = pb.ListRequest(resource="tasks")
        call = stub.List(request)
        request.resource = "notes" if form == "channel" else "tasks"
        await call

        [seen] = scripted.service.seen
        assert seen.request == pb.ListRequest(resource="tasks", page_size=50)


async def test_unreachable_peer(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A peer that is down is UNAVAILABLE with gRPC's text and our PEER_UNREACHABLE, made here."""
    scripted.stop()
    async with federation_of(tmp_path, scripted.record()) as fed:
        with pytest.raises(grpc.RpcError) as failed:
            await fed.stub("work.example").Search(SEARCH)

        detail = error_detail_of(failed.value)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (detail.reason, detail.local) == (Reason.PEER_UNREACHABLE, True)
        assert "connect" in (failed.value.details() or "")


async def test_answer_that_is_no_message(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Bytes that are not the verb's response are an INTERNAL error of this gateway, tagged, and are not cached."""
    scripted.service.raw = b"\xff\xff\xff"
    async with federation_of(tmp_path, scripted.record()) as fed:
        stub = fed.stub("work.example")
        for _ in range(2):
            call = stub.Get(pb.GetRequest(resource="tasks", id="t1"))
            with pytest.raises(grpc.RpcError) as failed:
                await call
            assert failed.value.code() is grpc.StatusCode.INTERNAL
            assert await call.code() is grpc.StatusCode.INTERNAL
            assert failed.value.trailing_metadata()[SOURCE] == "federated:work.example"
        assert scripted.service.calls() == 2


async def test_request_of_another_type_is_the_callers_mistake(
    form: str, tmp_path: Path, scripted: ScriptedPeer
) -> None:
    """A message of another type is a TypeError, as with gRPC's own stubs, and nothing is sent."""
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        with pytest.raises(TypeError):
            await stub.List(pb.GetRequest())
        assert scripted.service.calls() == 0


@pytest.mark.parametrize("option", ["credentials", "wait_for_ready", "compression"])
async def test_options_that_the_chain_does_not_support_are_refused(
    option: str, tmp_path: Path, scripted: ScriptedPeer
) -> None:
    """A per-call option that the chain does not support is a ValueError."""
    async with federation_of(tmp_path, scripted.record()) as fed:
        with pytest.raises(ValueError, match=option):
            fed.stub("work.example").List(LIST, **{option: True})
        with pytest.raises(TypeError, match="timeuot"):
            fed.stub("work.example").List(LIST, timeuot=1)
        with pytest.raises(ValueError, match="NaN"):
            fed.stub("work.example").List(LIST, timeout=float("nan"))
        assert scripted.service.calls() == 0


async def test_close_with_and_without_grace(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Closing lets a call end within the grace, ends it with UNAVAILABLE without, and refuses later calls alike."""
    gate = threading.Event()
    scripted.service.script("search", Reply(gate=gate))
    async with federation_of(tmp_path, scripted.record()) as fed:
        graceful, hard = fed.channel("work.example"), fed.channel("work.example")
        kept = graceful.unary_unary("/federation.v1.FederationService/Search")(SEARCH, timeout=30)
        lost = hard.unary_unary("/federation.v1.FederationService/Search")(SEARCH, timeout=30)
        await eventually(lambda: scripted.service.active == 2)

        await hard.close()
        with pytest.raises(grpc.RpcError) as failed:
            await lost
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        await eventually(lambda: scripted.service.cancelled == 1)
        closing = asyncio.ensure_future(graceful.close(5))
        await asyncio.sleep(0)
        gate.set()
        await closing
        assert (await kept).hits
        for channel in (hard, graceful):
            late = channel.unary_unary("/federation.v1.FederationService/Search")(SEARCH)
            assert late.done()
            assert await late.code() is grpc.StatusCode.UNAVAILABLE


async def test_connection_closed_under_a_call(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A connection closed during calls ends them with UNAVAILABLE, not with a cancellation."""
    scripted.service.script("search", held())
    async with federation_of(tmp_path, scripted.record()) as fed:
        stub = fed.stub("work.example")
        call = stub.Search(SEARCH, timeout=30)
        await eventually(lambda: scripted.service.active == 1)
        fed.peer("work.example").channel.close()
        with pytest.raises(grpc.RpcError) as failed:
            await call
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (await stub.Get(pb.GetRequest(resource="tasks", id="t1"))).row.id == "t1"


async def test_other_methods_are_refused_visibly(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """The channel serves the federation service alone, and raises when a stub of another one is made."""
    async with federation_of(tmp_path, scripted.record()) as fed:
        channel = fed.channel("work.example")
        for make in (channel.unary_unary, channel.unary_stream, channel.stream_unary, channel.stream_stream):
            with pytest.raises(ValueError, match="Health"):
                make("/grpc.health.v1.Health/Check")
        with pytest.raises(ValueError, match="List"):
            channel.unary_stream("/federation.v1.FederationService/List")


async def _awaited(call: object) -> pb.SearchResponse:
    return await call  # type: ignore[misc, no-any-return]
