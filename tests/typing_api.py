"""The public API as programs write it. Nothing here runs: it is what `make type` checks besides the package."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, assert_type

import grpc

from federation import Federation, fields, sync_channel
from federation.client.aio.channel import AioChannel
from federation.client.peers.peer import Peer
from federation.config import GatewayConfig, SessionConfig
from federation.session.results import Answer, Result
from federation.session.signals import PeerSignal
from federation.session.warmup import WarmReport
from federation.v1 import federation_pb2 as pb
from federation.v1.federation_pb2_grpc import FederationServiceStub


async def asynchronous(config: GatewayConfig) -> None:
    """A program that runs asyncio."""
    async with Federation.open("home/") as fed:
        assert_type(fed, Federation)
        stub = fed.stub("work.example", user="ada")
        reply = await stub.List(pb.ListRequest(resource="tasks"), timeout=1.0, metadata=(("a", "b"),))
        assert_type(reply, pb.ListResponse)
        call = stub.Get(pb.GetRequest(resource="tasks", id="t1"))
        assert_type(await call.code(), grpc.StatusCode)
        assert_type(fields(reply.rows[0]), dict[str, Any])
        assert_type(fed.channel("work.example"), AioChannel)
        assert_type(fed.peer("work.example", "ada"), Peer)
        interceptors: Sequence[grpc.aio.ClientInterceptor] = fed.interceptors("work.example", user="ada")
        grpc.aio.insecure_channel("127.0.0.1:1", interceptors=interceptors)
        await fed.refresh()
        async with fed.session("ada", config=SessionConfig(peer_budget_s=1.0), on_signal=print) as session:
            assert_type(await session.list("tasks", where={"status": "open"}), Result)
            answers = session.stream(pb.SearchRequest(query="report"), source="all")
            assert_type([answer async for answer in answers], list[Answer])
            assert_type([signal async for signal in session.signals()], list[PeerSignal])
            assert_type(await session.warm(["tasks"]), WarmReport)
    fed = Federation(config)
    await fed.start()
    await fed.close(grace=1.0)


def threaded(home: Path) -> None:
    """A program of threads."""
    with sync_channel(home, "work.example", user="ada") as channel:
        plain: grpc.Channel = channel
        stub = FederationServiceStub(plain)
        assert_type(stub.List(pb.ListRequest(resource="tasks")), pb.ListResponse)
        reply, call = stub.List.with_call(pb.ListRequest(resource="tasks"))
        assert_type(reply, pb.ListResponse)
        call.trailing_metadata()
        stub.List.future(pb.ListRequest(resource="tasks")).result(timeout=1)
