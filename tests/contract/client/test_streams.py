"""`Watch` of a caller through the chain is refused, aio and sync, by our channels and by the standard interceptors."""

from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.client.aio.interceptors import FederationUnaryInterceptor
from federation.client.calls import FederationStreamInterceptor
from federation.client.sync.interceptors import SyncFederationUnaryInterceptor
from federation.v1 import federation_pb2 as pb
from federation.wire.metadata import CACHED, SOURCE
from tests.support.federations import aio_stub, federation_of, shared_runtime, sync_stub
from tests.support.scripted import ScriptedPeer

SUBSCRIBE = pb.WatchRequest(subscribe=pb.WatchSubscribe(instance_id="0" * 32))


def assert_refused(error: Any, scripted: ScriptedPeer) -> None:
    """Check that the error is UNIMPLEMENTED with one sentence and both tags, and that the peer was not called."""
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error.details() == (
        "Watch cannot be called through the federation's channels and interceptors: it watches each peer by itself"
    )
    assert dict(error.trailing_metadata()) == {SOURCE: "federated:work.example", CACHED: "false"}
    assert scripted.service.seen == []


async def test_aio_watch_is_refused(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """An aio channel refuses the call; behind aio interceptors the first read raises the refusal."""
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        with pytest.raises(grpc.RpcError) as refused:
            await stub.Watch().read()
        assert_refused(refused.value, scripted)


def test_sync_watch_is_refused(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A sync channel refuses the call; behind sync interceptors the first response raises the refusal."""
    with shared_runtime(tmp_path, scripted.record()) as runtime, sync_stub(form, runtime, scripted) as stub:
        with pytest.raises(grpc.RpcError) as refused:
            next(stub.Watch(iter([SUBSCRIBE])))
        assert_refused(refused.value, scripted)


async def test_an_aio_stream_of_another_service_passes_untouched(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """The answer is that of the peer's server, which does not know the service, and is not tagged."""
    async with (
        federation_of(tmp_path, scripted.record()) as fed,
        scripted.aio_channel(interceptors=fed.interceptors("work.example", "ada")) as channel,
    ):
        with pytest.raises(grpc.RpcError) as unknown:
            await channel.stream_stream("/other.Service/Stream")().read()
    assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert SOURCE not in dict(unknown.value.trailing_metadata() or ())


def test_every_arity_of_the_service_has_its_interceptor() -> None:
    """Each method of the service is unary or bidirectional, and each has its class, aio and sync."""
    arities = {
        (method.client_streaming, method.server_streaming)
        for method in pb.DESCRIPTOR.services_by_name["FederationService"].methods
    }
    assert arities == {(False, False), (True, True)}
    aio = (grpc.aio.UnaryUnaryClientInterceptor, grpc.aio.StreamStreamClientInterceptor)
    for kind, served in zip((FederationUnaryInterceptor, FederationStreamInterceptor), aio, strict=True):
        assert [base for base in aio if issubclass(kind, base)] == [served]
    sync = (grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor)
    for sync_kind, served_sync in zip((SyncFederationUnaryInterceptor, FederationStreamInterceptor), sync, strict=True):
        assert [base for base in sync if issubclass(sync_kind, base)] == [served_sync]
