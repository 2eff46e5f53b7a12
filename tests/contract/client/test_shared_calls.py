"""Calls that share one flight across tasks, loops and threads, and the absence of leaks after many calls."""

import asyncio
import gc
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.client.runtime import ClientRuntime
from federation.errors import Reason
from federation.federation import Federation
from federation.v1 import federation_pb2 as pb
from federation.v1.federation_pb2_grpc import FederationServiceStub
from federation.wire.status import error_detail_of
from tests.support.federations import aio_stub, client_threads, federation_of, in_threads, sync_channel_of
from tests.support.scripted import Reply, ScriptedPeer, eventually

LIST = pb.ListRequest(resource="tasks")
SEARCH = pb.SearchRequest(query="report")


def home_beneath(fed: Federation) -> ClientRuntime:
    """Return the runtime of an open federation."""
    assert fed._runtime is not None
    return fed._runtime


async def awaited(call: Any) -> Any:
    """Return what a call returns or raises."""
    try:
        return await call
    except (grpc.RpcError, asyncio.CancelledError) as e:
        return e


async def test_hundred_identical_misses_make_one_call(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A hundred tasks and threads at once: the peer receives one call, and every caller gets a message of its own."""
    gate = threading.Event()
    scripted.service.script("list", Reply(gate=gate))
    async with federation_of(tmp_path, scripted.record()) as fed:
        sync_stub: Any = FederationServiceStub(sync_channel_of(home_beneath(fed)))
        threads = asyncio.ensure_future(asyncio.to_thread(in_threads, 50, lambda _: sync_stub.List(LIST)))
        stub = fed.stub("work.example")
        tasks = [asyncio.ensure_future(awaited(stub.List(LIST))) for _ in range(50)]
        peer = fed.peer("work.example")
        await eventually(lambda: len(peer.runners) >= 100)
        gate.set()

        replies = await asyncio.gather(*tasks) + await threads
        assert len({id(reply) for reply in replies}) == 100
        assert {reply.rows[0].id for reply in replies} == {"t1"}
        assert scripted.service.calls() == 1
        await eventually(lambda: not peer.runners)


async def test_cancelled_leader_leaves_the_others_their_answer(
    form: str, tmp_path: Path, scripted: ScriptedPeer
) -> None:
    """The leader is an ordinary waiter: cancelling it ends its wait alone."""
    gate = threading.Event()
    scripted.service.script("list", Reply(gate=gate))
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        leader, *others = [stub.List(LIST) for _ in range(5)]
        await eventually(lambda: scripted.service.active == 1)
        assert leader.cancel()
        gate.set()
        assert [reply.rows[0].id for reply in await asyncio.gather(*map(awaited, others))] == ["t1"] * 4
        assert (scripted.service.calls(), scripted.service.cancelled) == (1, 0)


async def test_all_cancelled_reaches_the_peer(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """When the last waiter has left, the peer sees the cancellation."""
    scripted.service.script("list", Reply(gate=threading.Event()))
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        calls = [stub.List(LIST, timeout=30) for _ in range(5)]
        await eventually(lambda: scripted.service.active == 1)
        for call in calls:
            call.cancel()
        await eventually(lambda: scripted.service.cancelled == 1)
        await eventually(lambda: not fed.peer("work.example").runners)


async def test_deadlines_of_leader_and_follower(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A follower with less time fails at its deadline; one whose leader had less calls again."""
    gate, other = threading.Event(), pb.ListRequest(resource="notes")
    scripted.service.script("list", Reply(gate=gate), Reply(gate=threading.Event()), Reply())
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        leader = asyncio.ensure_future(awaited(stub.List(LIST, timeout=60)))
        await eventually(lambda: scripted.service.active == 1)
        short_leader = asyncio.ensure_future(awaited(stub.List(other, timeout=0.5)))
        await eventually(lambda: scripted.service.active == 2)
        hasty, patient = stub.List(LIST, timeout=0.15), stub.List(other, timeout=60)

        assert error_detail_of(await awaited(hasty)).reason == Reason.PEER_TIMEOUT
        assert not leader.done()
        gate.set()
        assert (await leader).rows
        assert error_detail_of(await short_leader).reason == Reason.PEER_TIMEOUT
        assert (await patient).rows
        assert scripted.service.calls() == 3


@pytest.mark.parametrize("leads", ["aio", "future"])
async def test_follower_continues_in_its_own_loop_or_thread(leads: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """When a flight of a loop ends by its leader's deadline, a blocked thread calls again itself; and the reverse."""
    second = threading.Event()
    scripted.service.script("list", Reply(gate=threading.Event()), Reply(gate=second))
    async with federation_of(tmp_path, scripted.record()) as fed:
        stub = fed.stub("work.example")
        sync_stub: Any = FederationServiceStub(sync_channel_of(home_beneath(fed)))
        await stub.Search(SEARCH)  # so that the leader's call needs no handshake, and arrives within its deadline
        if leads == "aio":
            leader = asyncio.ensure_future(awaited(stub.List(LIST, timeout=0.5)))
            await eventually(lambda: scripted.service.active == 1)
            follower = asyncio.ensure_future(asyncio.to_thread(sync_stub.List, LIST, 60))
        else:
            future = sync_stub.List.future(LIST, timeout=0.5)
            await eventually(lambda: scripted.service.active == 1)
            follower = asyncio.ensure_future(awaited(stub.List(LIST, timeout=60)))
            leader = asyncio.ensure_future(asyncio.to_thread(future.exception))
        assert error_detail_of(await leader).reason == Reason.PEER_TIMEOUT
        await eventually(lambda: scripted.service.calls("list") == 2)
        second.set()  # reached only if the thread's second call does not block the loop
        assert (await follower).rows
        assert scripted.service.calls("list") == 2


def test_follower_of_a_loop_that_died(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A thread that waits for a flight of a blocked loop has its own deadline."""
    scripted.service.script("list", Reply(gate=threading.Event()))
    loop = asyncio.new_event_loop()
    fed = federation_of(tmp_path, scripted.record())
    loop.run_until_complete(fed.start())
    stub = fed.stub("work.example")

    async def lead() -> Any:
        await stub.Search(SEARCH)  # so that the call needs no handshake, and arrives within its deadline
        call = stub.List(LIST, timeout=0.5)
        await eventually(lambda: scripted.service.active == 1)
        return call

    call = loop.run_until_complete(lead())
    sync_stub: Any = FederationServiceStub(sync_channel_of(home_beneath(fed)))
    with pytest.raises(grpc.RpcError) as late:
        sync_stub.List(LIST, timeout=0.6)
    assert error_detail_of(late.value).reason == Reason.PEER_TIMEOUT
    call.cancel()
    loop.run_until_complete(fed.close())
    loop.close()


async def test_thousand_calls_leave_nothing(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A thousand calls in a row, hits and live ones, leave no runner, no task and no thread."""
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        await stub.List(LIST)
        await stub.Search(pb.SearchRequest(query="x"))
        tasks, threads = len(asyncio.all_tasks()), client_threads()
        for index in range(1_000):
            await (stub.List(LIST) if index % 2 else stub.Search(pb.SearchRequest(query="x")))
        await eventually(lambda: not fed.peer("work.example").runners)
        assert len(asyncio.all_tasks()) <= tasks
        assert client_threads() <= threads + 1


async def test_hard_close_under_load(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Closing everything under a hundred calls ends each of them with UNAVAILABLE, and none with a cancellation."""
    scripted.service.script("search", Reply(gate=threading.Event()))
    scripted.service.script("list", Reply(gate=threading.Event()))
    async with federation_of(tmp_path, scripted.record()) as fed:
        stub = fed.stub("work.example")
        calls = [stub.Search(pb.SearchRequest(query=f"{n}"), timeout=30) for n in range(40)]
        calls += [stub.List(LIST, timeout=30) for _ in range(60)]  # type: ignore[misc]
        await eventually(lambda: scripted.service.active >= 41)
        peer = fed.peer("work.example")
        await fed.close()
        ends = await asyncio.gather(*map(awaited, calls))
    assert {end.code() for end in ends} == {grpc.StatusCode.UNAVAILABLE}
    assert not peer.runners
    await eventually(lambda: scripted.service.active == 0)


async def test_tasks_and_threads_mixed(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Ten threads and ten tasks, each with calls of every kind and some cancelled: all end, and nothing leaks."""
    scripted.service.script("list", Reply(delay_s=0.002, lease_ms=5))
    async with federation_of(tmp_path, scripted.record()) as fed:
        sync_stub: Any = FederationServiceStub(sync_channel_of(home_beneath(fed)))
        stub = fed.stub("work.example")

        def in_thread(number: int) -> int:
            for index in range(30):
                request = pb.ListRequest(resource="tasks", page_size=1 + index % 3)
                future = sync_stub.List.future(request)
                if (number + index) % 4 == 0:
                    future.cancel()
                else:
                    future.result()
                sync_stub.List(request)
            return number

        async def in_task(number: int) -> None:
            for index in range(30):
                call = stub.List(pb.ListRequest(resource="tasks", page_size=1 + index % 3))
                if (number + index) % 4 == 0:
                    call.cancel()
                end = await awaited(call)
                assert isinstance(end, asyncio.CancelledError | pb.ListResponse)

        threads = asyncio.ensure_future(asyncio.to_thread(in_threads, 10, in_thread))
        await asyncio.gather(*(in_task(number) for number in range(10)))
        assert await threads == list(range(10))
        peer = fed.peer("work.example")
        gc.collect()
        await eventually(lambda: not peer.runners)
        assert peer.cache.stats().flights == 0
