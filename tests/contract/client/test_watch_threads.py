"""The watch beside threads and processes: sync channels, several federations, forks, and leaks at the end."""

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest

from federation import Federation
from federation.client.peer_status import PeerState, status_of
from federation.client.peers.watch_handle import WatchState
from federation.client.runtime import DIALS, ClientRuntime
from federation.clock import SYSTEM_CLOCK
from federation.config import ClientConfig
from federation.errors import Reason
from federation.v1 import federation_pb2 as pb
from federation.v1.federation_pb2_grpc import FederationServiceStub
from federation.wire.status import error_detail_of
from tests.support.federations import ListedPeers, client_threads, config_of, sync_channel_of
from tests.support.scripted import Reply, ScriptedPeer, eventually
from tests.support.scripted_watches import QUICK, ScriptedWatches, until_watch, watching

TASKS = pb.ListRequest(resource="tasks")
SEARCH = pb.SearchRequest(query="x")
FORKED = textwrap.dedent(
    """
    import gc, os, sys, time
    from pathlib import Path
    import grpc
    from federation.client.runtime import ClientRuntime
    from federation.clock import SYSTEM_CLOCK
    from federation.config import ClientConfig
    from federation.store.peers import PeerRecord
    from federation.v1 import federation_pb2 as pb
    from federation.v1.federation_pb2_grpc import FederationServiceStub
    from tests.support.federations import config_of, sync_channel_of

    gc.disable()  # what the parent has for garbage is the child's as well
    record = PeerRecord(**eval(sys.stdin.readline()))
    config = config_of(Path(sys.argv[1]), client=ClientConfig(watch=True))
    runtime = ClientRuntime.share(config, SYSTEM_CLOCK, None)
    runtime.peers.load([record])
    runtime.loaded = True
    [peer] = runtime.peers.all()
    runtime.watches.watch_peer(peer)
    while peer.watch.status.state != "armed":
        time.sleep(0.01)
    stub = FederationServiceStub(sync_channel_of(runtime))
    request = pb.ListRequest(resource="tasks")
    stub.List(request)
    child = os.fork()
    if child == 0:
        try:
            stub.List(request)
            end = "served"
        except grpc.RpcError as e:
            end = e.details()
        again = ClientRuntime.share(config, SYSTEM_CLOCK, None)
        print("child", peer.watch.status.state, again is not runtime, end, flush=True)
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    while peer.watch.status.state != "armed":
        time.sleep(0.01)
    stub.List(request)
    print("parent", peer.watch.status.state, stub.List.with_call(request)[1].trailing_metadata()[-1], flush=True)
    sys.stdin.readline()
    while peer.watch.status.state == "armed":
        time.sleep(0.01)
    try:
        stub.List(request)
    except grpc.RpcError as e:
        print("parent", e.details(), flush=True)
    runtime.release()
    runtime.close()
    """
)


@contextmanager
def threads_alone(directory: Path, scripted: ScriptedPeer, store: Any = None) -> Iterator[ClientRuntime]:
    """A runtime used by threads only, which watches its peer in the background thread."""
    runtime = ClientRuntime.share(config_of(directory, client=ClientConfig(watch=True)), SYSTEM_CLOCK, None)
    runtime.watch_settings = QUICK
    runtime.peers.load([scripted.record()])
    runtime.loaded = True
    [peer] = runtime.peers.all()
    if store is not None:
        runtime.store.add_store(runtime.background.submit(_running_loop()).result(), store)
    runtime.watches.watch_peer(peer)
    try:
        _wait(lambda: peer.watch is not None and peer.watch.status.state is WatchState.ARMED)
        yield runtime
    finally:
        runtime.release()
        runtime.close()


async def _running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def _wait(condition: Any) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        threading.Event().wait(0.005)


def test_threads_have_a_watch_of_their_own(tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches) -> None:
    """Without a loop the watch runs in the background; a hit turns into a refusal, and the revocation is stored."""
    store = ListedPeers()
    with threads_alone(tmp_path, scripted, store) as runtime, sync_channel_of(runtime) as channel:
        stub: Any = FederationServiceStub(channel)
        stub.List(TASKS)
        stub.List(TASKS)
        assert scripted.service.calls("list") == 1
        watches.last.revoke("over")
        watches.last.wait(lambda stream: bool(stream.acks))

        with pytest.raises(grpc.RpcError) as error:
            stub.List(TASKS)
        assert error_detail_of(error.value).reason == Reason.GRANT_REVOKED
        assert scripted.service.calls("list") == 1
        [peer] = runtime.peers.all()
        assert status_of(peer, runtime.clock).state is PeerState.REVOKED
    assert [(peer_id, reason) for peer_id, _, reason in store.revoked] == [("peer-work.example-ada", "over")]


def test_futures_are_failed_at_once(tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches) -> None:
    """`.future()` calls end with the event, not with their deadline, and are counted in the ack."""
    scripted.service.script("list", Reply(gate=threading.Event()))
    with threads_alone(tmp_path, scripted) as runtime, sync_channel_of(runtime) as channel:
        stub: Any = FederationServiceStub(channel)
        futures = [stub.List.future(TASKS, timeout=30) for _ in range(2)]
        futures.append(stub.Search.future(SEARCH, timeout=30))
        scripted.service.script("search", Reply(gate=threading.Event()))
        scripted.service.wait(lambda service: service.active >= 1)
        watches.last.revoke()
        for future in futures[:2]:
            error = future.exception(timeout=2)
            assert error_detail_of(error).reason == Reason.GRANT_REVOKED
        watches.last.wait(lambda stream: bool(stream.acks))
        assert watches.last.acks[0].failed_in_flight >= 2


def test_a_blocking_call_is_refused_when_its_answer_arrives(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """The ack does not wait for a thread that blocks; its later answer is not delivered."""
    gate = threading.Event()
    scripted.service.script("list", Reply(gate=gate))
    ends: list[str] = []
    with threads_alone(tmp_path, scripted) as runtime, sync_channel_of(runtime) as channel:
        stub: Any = FederationServiceStub(channel)

        def call() -> None:
            try:
                stub.List(TASKS, timeout=30)
                ends.append("served")
            except grpc.RpcError as e:
                ends.append(error_detail_of(e).reason)

        thread = threading.Thread(target=call)
        thread.start()
        scripted.service.wait(lambda service: service.active == 1)
        watches.last.revoke()
        watches.last.wait(lambda stream: bool(stream.acks))
        assert watches.last.acks[0].failed_in_flight == 1
        assert ends == []
        gate.set()
        thread.join(5)

        assert ends == [Reason.GRANT_REVOKED]
        [peer] = runtime.peers.all()
        assert peer.cache.stats().entries == 0


async def test_one_directory_has_one_watch_a_peer(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """Two federations and a sync channel on a directory share the watch; closing the last one ends it."""
    async with watching(tmp_path, scripted.record()) as first:
        await until_watch(first)
        async with watching(tmp_path, scripted.record()) as second:
            assert second.peer_state("work.example").watch is WatchState.ARMED
            with sync_channel_of(first._opened()) as channel:
                stub: Any = FederationServiceStub(channel)
                await asyncio.to_thread(stub.List, TASKS)
        assert first.peer_state("work.example").watch is WatchState.ARMED
        assert len(watches.streams) == 1
    await eventually(watches.last.ended.is_set)


async def test_two_directories_have_their_own(tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches) -> None:
    """Two caches are two instances: each has a watch, and each acknowledges its own events."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with (
        watching(tmp_path / "a", scripted.record()) as first,
        watching(tmp_path / "b", scripted.record()) as second,
    ):
        await until_watch(first)
        await until_watch(second)
        assert {stream.instance_id for stream in watches.streams} == {first.instance_id, second.instance_id}
        for stream in watches.streams:
            stream.revoke()
        await eventually(lambda: all(stream.acks for stream in watches.streams))


async def test_closing_leaves_neither_task_nor_thread_nor_stream(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """A federation that closes, armed or still dialling, leaks nothing."""
    threads = client_threads()
    tasks = asyncio.all_tasks()
    async with watching(tmp_path, scripted.record()) as fed:
        await until_watch(fed)
    watches.arms = False
    async with watching(tmp_path, scripted.record()):
        await eventually(lambda: len(watches.streams) == 2)
    async with watching(tmp_path, scripted.record()):
        pass
    assert asyncio.all_tasks() == tasks
    assert client_threads() <= threads + 1  # gRPC's own poller stays
    await eventually(lambda: all(stream.ended.is_set() for stream in watches.streams))


def test_closing_threads_leaves_nothing(tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches) -> None:
    """The background thread ends with the last sync channel, and the stream with it."""
    with threads_alone(tmp_path, scripted):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "mosaic-federation"]
    assert watches.last.ended.wait(5)


async def test_a_removed_peer_is_watched_no_longer(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """Removing a peer ends its stream; an added one is watched from then on."""
    async with watching(tmp_path) as fed:
        peer = fed.peers.add(scripted.record())
        await until_watch(fed)
        fed.peers.remove("work.example", "ada")
        await eventually(watches.last.ended.is_set)
        assert peer.watch is not None
        await eventually(lambda: peer.watch is not None and peer.watch.status.state is WatchState.OFF)
        await asyncio.sleep(0.2)
        assert len(watches.streams) == 1


def test_a_loop_that_ends_without_closing_its_federation_ends_no_watch(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """A program that does not close its federation does not end the watch of other users in the process."""
    store = ListedPeers(scripted.record())

    async def forget() -> Federation:
        config = config_of(tmp_path, client=ClientConfig(watch=True))
        forgotten = await Federation(config, ListedPeers(scripted.record())).start()
        await until_watch(forgotten)
        return forgotten

    async def later() -> None:
        async with watching(tmp_path, source=store) as fed:
            assert fed.peer_state("work.example").watch is WatchState.ARMED
            assert len(watches.streams) == 1
            watches.last.revoke("over")
            await eventually(lambda: bool(store.revoked))
            forgotten._runtime = None

    forgotten = asyncio.run(forget())
    runtime = forgotten._opened()
    asyncio.run(later())
    assert runtime.release()
    runtime.close()


async def test_watches_run_in_the_background_thread_and_fail_calls_of_another_loop(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """The event is handled in the background thread while the loop of the call is busy; the call ends with it."""
    scripted.service.script("list", Reply(gate=threading.Event()))
    async with watching(tmp_path, scripted.record()) as fed:
        await until_watch(fed)
        call = fed.stub("work.example").List(TASKS, timeout=30)
        await eventually(lambda: scripted.service.active == 1)
        watches.last.revoke()
        watches.last.wait(lambda stream: bool(stream.acks))  # blocks the loop of the call
        assert watches.last.acks[0].failed_in_flight == 1
        assert not call.done()
        with pytest.raises(grpc.RpcError) as error:
            await call
        assert error_detail_of(error.value).reason == Reason.GRANT_REVOKED


async def test_the_number_of_watches_that_dial_at_once_is_limited(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """The streams of many peers are opened a few at a time; the next one follows when one is confirmed."""
    watches.arms = False
    records = [scripted.record(user=f"u{number}", grant_id=str(UUID(int=number))) for number in range(DIALS + 2)]
    async with watching(tmp_path, *records):
        await eventually(lambda: len(watches.streams) == DIALS and all(stream.received for stream in watches.streams))
        await asyncio.sleep(0.1)
        assert len(watches.streams) == DIALS
        for stream in list(watches.streams[:2]):
            stream.arm()
        await eventually(lambda: len(watches.streams) == DIALS + 2)


def test_a_forked_child_watches_nothing_and_does_not_disturb_the_parent(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """The child refuses calls, has no watch and may collect garbage; the parent arms again."""
    environment = os.environ | {"GRPC_VERBOSITY": "NONE", "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, "-c", FORKED, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
        env=environment,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(repr(asdict(scripted.record())) + "\n")
        process.stdin.flush()
        child, parent = process.stdout.readline(), process.stdout.readline()
        assert child.startswith("child off True this process was forked")
        assert parent.startswith("parent armed")
        assert len(watches.streams) == 2  # given up for the fork, and armed again
        watches.last.revoke("after the fork")
        watches.last.wait(lambda stream: bool(stream.acks))
        process.stdin.write("\n")
        process.stdin.flush()
        assert "after the fork" in process.stdout.readline()
        process.communicate(timeout=20)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()
