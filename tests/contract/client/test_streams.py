"""`Watch` through the chain, aio and sync, through our channels and through the standard interceptors."""

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.breaker import CircuitState
from federation.client.aio.interceptors import FederationStreamInterceptor, FederationUnaryInterceptor
from federation.client.runtime import ClientRuntime
from federation.client.sync.interceptors import SyncFederationStreamInterceptor, SyncFederationUnaryInterceptor
from federation.errors import Reason
from federation.v1 import federation_pb2 as pb
from federation.wire.metadata import CACHED, SOURCE
from federation.wire.status import error_detail_of
from tests.support.federations import aio_stub, federation_of, home_of, sync_stub
from tests.support.scripted import ScriptedPeer, eventually

SUBSCRIBE = pb.WatchRequest(subscribe=pb.WatchSubscribe(instance_id="0" * 32))
TAGS = {SOURCE: "federated:work.example", CACHED: "false"}


def acknowledge(event_id: int) -> pb.WatchRequest:
    """An acknowledgement, which the scripted peer echoes."""
    return pb.WatchRequest(ack=pb.WatchAck(event_id=event_id))


@pytest.mark.asyncio
async def test_aio_stream_reads_and_writes(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A stream is written and read by hand; its metadata goes through the chain both ways, its end is tagged."""
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        call = stub.Watch(metadata=(("baggage", "secret"), ("own", "kept")))
        await call.write(SUBSCRIBE)
        assert (await call.read()).event_id == 1
        await call.write(acknowledge(7))
        assert (await call.read()).event_id == 7
        initial = await call.initial_metadata()
        assert not call.done()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF

        assert await call.code() is grpc.StatusCode.OK
        assert dict(initial)["kept"] == "yes"
        assert CACHED not in dict(initial)
        trailing = await call.trailing_metadata()
        assert {key: trailing.get_all(key) for key in TAGS} == {key: [value] for key, value in TAGS.items()}
        [seen] = scripted.service.seen
        assert seen.header("mosaic-instance") == [fed.instance_id]
        assert (seen.header("baggage"), seen.header("own")) == ([], ["kept"])
        await eventually(lambda: not fed.peer("work.example").runs)


@pytest.mark.asyncio
async def test_aio_stream_of_requests(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A stream takes its requests from an iterator and is iterated itself."""

    async def requests() -> AsyncIterator[pb.WatchRequest]:
        yield SUBSCRIBE
        yield acknowledge(2)

    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        assert [message.event_id async for message in stub.Watch(requests())] == [1, 2]


@pytest.mark.asyncio
async def test_aio_stream_cancel(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A cancelled stream ends a pending read, and is no failure of the peer."""
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        call = stub.Watch()
        await call.write(SUBSCRIBE)
        await call.read()
        reading = asyncio.ensure_future(call.read())
        await asyncio.sleep(0)
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await eventually(call.done)
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert call.cancelled()


@pytest.mark.asyncio
async def test_aio_stream_is_refused_behind_an_open_circuit(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """The whole chain applies: no stream is opened while the circuit is open, and reading says why."""
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        scripted.stop()
        for _ in range(5):
            with pytest.raises(grpc.RpcError):
                await stub.Search(pb.SearchRequest(query="x"))
        circuit = fed.peer("work.example").circuit
        assert circuit is not None
        assert circuit.snapshot(fed.clock.monotonic()).state is CircuitState.OPEN

        call = stub.Watch()
        with pytest.raises(grpc.RpcError) as refused:
            await call.read()
        assert error_detail_of(refused.value).reason == Reason.CIRCUIT_OPEN
        assert refused.value.trailing_metadata()[SOURCE] == TAGS[SOURCE]
        with pytest.raises(asyncio.InvalidStateError):
            await call.write(SUBSCRIBE)
        with pytest.raises(grpc.RpcError):
            async for _ in stub.Watch():
                pass


@pytest.mark.asyncio
async def test_aio_stream_fails_with_its_peer(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A stream whose peer goes away ends with PEER_UNREACHABLE, tagged."""
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        call = stub.Watch()
        await call.write(SUBSCRIBE)
        await call.read()
        await asyncio.to_thread(scripted.stop)
        with pytest.raises(grpc.RpcError) as lost:
            await call.read()
        assert error_detail_of(lost.value).reason == Reason.PEER_UNREACHABLE
        assert lost.value.trailing_metadata()[SOURCE] == TAGS[SOURCE]
        assert await call.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.asyncio
async def test_aio_stream_has_no_deadline_unless_given(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A watch lasts; with a timeout it ends with PEER_TIMEOUT."""
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        lasting = stub.Watch()
        await lasting.write(SUBSCRIBE)
        await lasting.read()
        assert scripted.service.seen[0].remaining_s is None or scripted.service.seen[0].remaining_s > 1e6
        lasting.cancel()
        call = stub.Watch(timeout=0.2)
        with pytest.raises(grpc.RpcError) as late:
            while await call.read() is not grpc.aio.EOF:
                pass
        assert error_detail_of(late.value).reason == Reason.PEER_TIMEOUT


@pytest.mark.asyncio
async def test_aio_stream_is_cut_by_its_channel(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Closing our channel ends its streams with UNAVAILABLE, not with a cancellation of the reader."""
    async with federation_of(tmp_path, scripted.record()) as fed:
        channel = fed.channel("work.example")
        call: Any = channel.stream_stream("/federation.v1.FederationService/Watch")()
        await call.write(SUBSCRIBE)
        await call.read()
        reading = asyncio.ensure_future(call.read())
        await asyncio.sleep(0)
        await channel.close()
        with pytest.raises(grpc.RpcError) as cut:
            await reading
        assert cut.value.code() is grpc.StatusCode.UNAVAILABLE


class Requests:
    """Requests that a test feeds one by one to a sync stream."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[pb.WatchRequest | None] = queue.SimpleQueue()

    def put(self, request: pb.WatchRequest | None) -> None:
        """Send one; `None` ends the stream."""
        self._queue.put(request)

    def __iter__(self) -> Iterator[pb.WatchRequest]:
        return iter(self._queue.get, None)  # type: ignore[arg-type]


@pytest.fixture
def home(tmp_path: Path, scripted: ScriptedPeer) -> Iterator[ClientRuntime]:
    """The state of a gateway that knows the scripted peer."""
    with home_of(tmp_path, scripted.record()) as home:
        yield home


def test_sync_stream(form: str, home: ClientRuntime, scripted: ScriptedPeer) -> None:
    """A sync stream is an iterator that is the call as well; metadata goes through the chain both ways."""
    requests = Requests()
    with sync_stub(form, home, scripted) as stub:
        call = stub.Watch(iter(requests), metadata=(("baggage", "secret"), ("own", "kept")))
        requests.put(SUBSCRIBE)
        assert next(call).event_id == 1
        initial = dict(call.initial_metadata())
        assert call.is_active()
        requests.put(acknowledge(9))
        assert next(call).event_id == 9
        requests.put(None)
        assert list(call) == []

        assert call.code() is grpc.StatusCode.OK
        assert initial["kept"] == "yes"
        assert CACHED not in initial
        assert [pair for pair in call.trailing_metadata() if pair[0] in TAGS] == list(TAGS.items())
        [seen] = scripted.service.seen
        assert seen.header("mosaic-instance") == [home.cache.instance_id]
        assert (seen.header("baggage"), seen.header("own")) == ([], ["kept"])


def test_sync_stream_cancel_and_loss(form: str, home: ClientRuntime, scripted: ScriptedPeer) -> None:
    """A cancelled sync stream raises CANCELLED at the next read; one whose peer goes away PEER_UNREACHABLE."""
    with sync_stub(form, home, scripted) as stub:
        for end in ("cancel", "loss"):
            requests = Requests()
            call = stub.Watch(iter(requests))
            requests.put(SUBSCRIBE)
            next(call)
            if end == "cancel":
                assert call.cancel()
            else:
                scripted.stop()
            with pytest.raises(grpc.RpcError) as ended:
                next(call)
            expected = grpc.StatusCode.CANCELLED if end == "cancel" else grpc.StatusCode.UNAVAILABLE
            assert ended.value.code() is expected
            assert dict(call.trailing_metadata())[SOURCE] == TAGS[SOURCE]
            requests.put(None)


def test_sync_stream_is_refused_behind_an_open_circuit(form: str, home: ClientRuntime, scripted: ScriptedPeer) -> None:
    """The whole chain applies to sync streams, too."""
    with sync_stub(form, home, scripted) as stub:
        scripted.stop()
        for _ in range(5):
            with pytest.raises(grpc.RpcError):
                stub.Search(pb.SearchRequest(query="x"))
        with pytest.raises(grpc.RpcError) as refused:
            next(stub.Watch(iter([SUBSCRIBE])))
        assert error_detail_of(refused.value).reason == Reason.CIRCUIT_OPEN


def test_every_arity_of_the_service_has_its_interceptor() -> None:
    """Each method of the service is unary or bidirectional, and there is one class for each, aio and sync."""
    arities = {
        (method.client_streaming, method.server_streaming)
        for method in pb.DESCRIPTOR.services_by_name["FederationService"].methods
    }
    assert arities == {(False, False), (True, True)}
    aio = (grpc.aio.UnaryUnaryClientInterceptor, grpc.aio.StreamStreamClientInterceptor)
    for kind, served in zip((FederationUnaryInterceptor, FederationStreamInterceptor), aio, strict=True):
        assert [base for base in aio if issubclass(kind, base)] == [served]
    sync = (grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor)
    for sync_kind, served_sync in zip(
        (SyncFederationUnaryInterceptor, SyncFederationStreamInterceptor), sync, strict=True
    ):
        assert [base for base in sync if issubclass(sync_kind, base)] == [served_sync]
