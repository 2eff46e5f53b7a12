"""The public face: opening a gateway's directory, sharing within a process, changes by others, forks."""

import asyncio
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

import federation
from federation import Federation, fields, sync_channel
from federation.client.peers.store import PeerRepository
from federation.client.renewer import POLL_S
from federation.client.runtime import ClientRuntime
from federation.config import GatewayConfig
from federation.errors import ConfigError, ConflictError, FederationError, InputError, NotFoundError, Reason
from federation.pki.sealing import Sealer
from federation.store.database import Database
from federation.store.peers import PeerRecord, PeerStore
from federation.v1 import federation_pb2 as pb
from federation.v1.federation_pb2_grpc import FederationServiceStub
from federation.wire.metadata import CACHED
from federation.wire.status import error_detail_of
from tests.support.clock import ManualClock
from tests.support.federations import ListedPeers, config_of, federation_of
from tests.support.renewal_pair import DAY_S
from tests.support.scripted import Reply, ScriptedPeer, eventually

LIST = pb.ListRequest(resource="tasks")
SEARCH = pb.SearchRequest(query="x")
FORKED = textwrap.dedent(
    """
    import os, sys
    from pathlib import Path
    import grpc
    from federation.store.peers import PeerRecord
    from federation.v1 import federation_pb2 as pb
    from federation.v1.federation_pb2_grpc import FederationServiceStub
    from tests.support.federations import shared_runtime, sync_channel_of

    record = PeerRecord(**eval(sys.stdin.read()))
    request = pb.ListRequest(resource="tasks")
    with shared_runtime(Path(sys.argv[1]), record) as home:
        stub = FederationServiceStub(sync_channel_of(home))
        stub.List(request)
        before = home.cache.instance_id
        child = os.fork()
        if child == 0:
            try:
                stub.List(request)
                end = "served"
            except grpc.RpcError as e:
                end = e.details()
            future = stub.List.future(request)
            again = Path(sys.argv[1]) / "again"
            again.mkdir()
            print("child", before != home.cache.instance_id, future.code().name, end, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        _, call = stub.List.with_call(request)
        print("parent", before == home.cache.instance_id, dict(call.trailing_metadata())["_cached"], flush=True)
    """
)


async def gateway(directory: Path, *records: PeerRecord) -> Path:
    """A gateway's directory with these peers."""
    settings = 'name = "home.example"\nadmin_socket = "/nowhere/admin.sock"\n[client]\nwatch = false\n'
    (directory / "gateway.toml").write_text(settings)
    sealer = Sealer.create(directory)
    await add(directory, sealer, *records)
    return directory


async def add(directory: Path, sealer: Sealer, *records: PeerRecord) -> None:
    """Enroll, as another process does."""
    database = await Database.open(GatewayConfig.load(directory).database_url)
    store = PeerStore(database, sealer)
    for record in records:
        await store.add(record)
    await database.close()


async def test_open_gives_the_generated_stub(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """The example of the documentation: open a directory, take a stub, call, read fields."""
    async with Federation.open(await gateway(tmp_path, scripted.record())) as fed:
        reply = await fed.stub("work.example", user="ada").List(LIST)
        assert fields(reply.rows[0]) == {"title": "Write the report"}
        assert isinstance(fed.stub("work.example"), FederationServiceStub)
        assert [peer.name for peer in fed.peers.all()] == ["work.example"]
        assert fed.peers.all(user="bob") == ()


async def test_one_directory_in_one_process_is_one_cache(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Federation and sync channel on a directory, however it is written, share cache, circuit and instance id."""
    directory = await gateway(tmp_path, scripted.record())
    (directory / "link").symlink_to(directory)
    async with Federation.open(directory) as fed, Federation.open(directory / "link") as same:
        await fed.stub("work.example").List(LIST)
        channel = await asyncio.to_thread(sync_channel, str(directory), "work.example", user="ada")
        with channel:
            stub: Any = FederationServiceStub(channel)
            _, call = await asyncio.to_thread(stub.List.with_call, LIST)
            assert dict(call.trailing_metadata())[CACHED] == "true"
        assert channel.peer is fed.peer("work.example") is same.peer("work.example")
        assert fed.instance_id == same.instance_id
        assert scripted.service.calls() == 1
        [seen] = scripted.service.seen
        assert seen.header("mosaic-instance") == [fed.instance_id]
        first = fed.instance_id
    async with Federation.open(directory) as later:
        assert later.instance_id != first


async def test_closing_one_federation_leaves_the_others(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A closing federation cancels its own calls; another on the same loop, and a sync channel, go on."""
    directory = await gateway(tmp_path, scripted.record())
    async with Federation.open(directory) as stays:
        leaves = await Federation.open(directory).start()
        channel = await asyncio.to_thread(sync_channel, directory, "work.example")
        await stays.stub("work.example").Search(SEARCH)
        late = leaves.stub("work.example")
        await leaves.close()
        await leaves.close()
        with pytest.raises(grpc.RpcError):
            await late.Search(SEARCH)
        with pytest.raises(FederationError, match="not open"):
            leaves.stub("work.example")
        assert (await stays.stub("work.example").Search(SEARCH)).hits
        stub: Any = FederationServiceStub(channel)
        assert (await asyncio.to_thread(stub.Search, SEARCH)).hits
        channel.close()
        channel.close()
        assert (await stays.stub("work.example").Search(SEARCH)).hits


def test_sync_channel_alone(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A program of threads needs no loop: the channel opens the directory, and its close ends everything."""
    asyncio.run(gateway(tmp_path, scripted.record()))
    with sync_channel(tmp_path, "work.example") as channel:
        stub: Any = FederationServiceStub(channel)
        assert stub.List(LIST) == stub.List(LIST)
    assert scripted.service.calls() == 1
    with pytest.raises(NotFoundError, match=r"did you mean work\.example"):
        sync_channel(tmp_path, "work.exmaple")
    with pytest.raises(ConfigError, match="not a gateway's directory"):
        sync_channel(tmp_path / "nowhere", "work.example")


async def test_peer_that_another_process_added(
    tmp_path: Path, scripted: ScriptedPeer, other_scripted: ScriptedPeer
) -> None:
    """`refresh` brings a new peer, takes a missing one away, and a sync channel finds a new one by itself."""
    directory = await gateway(tmp_path, scripted.record())
    async with Federation.open(directory) as fed:
        stale = fed.stub("work.example")
        await stale.List(LIST)
        with pytest.raises(NotFoundError, match="lab"):
            fed.peer("lab.example")
        await add(directory, Sealer.load(directory), other_scripted.record(user="bob", grant_id="b"))
        channel = await asyncio.to_thread(sync_channel, directory, "lab.example")
        channel.close()
        await fed.refresh()
        assert fed.peer("lab.example").user == "bob"

        database = await Database.open(GatewayConfig.load(directory).database_url)
        await PeerStore(database, Sealer.load(directory)).remove(scripted.record().id)
        await database.close()
        await fed.refresh()
        with pytest.raises(NotFoundError):
            fed.stub("work.example")
        with pytest.raises(grpc.RpcError) as gone:
            await stale.List(LIST)
        assert error_detail_of(gone.value).reason == Reason.GRANT_REVOKED


async def test_removed_peer_fails_its_calls_at_once(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Removing a peer cuts its calls under way, those that share a flight too, and serves no hit any more."""
    scripted.service.script("list", Reply(), Reply(gate=threading.Event()))
    async with federation_of(tmp_path, scripted.record()) as fed:
        stub = fed.stub("work.example")
        await stub.List(LIST)
        waiting = [stub.List(pb.ListRequest(resource="notes"), timeout=30) for _ in range(3)]
        await eventually(lambda: scripted.service.active == 1)
        peer = fed.peers.remove("work.example", "ada")
        for call in [*waiting, stub.List(LIST)]:
            with pytest.raises(grpc.RpcError) as gone:
                await call
            assert error_detail_of(gone.value).reason == Reason.GRANT_REVOKED
        assert not peer.runners
        await eventually(lambda: scripted.service.cancelled == 1)


async def test_users_are_kept_apart(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Two users of one peer are two peers: which is asked for by name, and must be where there are two."""
    records = scripted.record(user="ada"), scripted.record(user="bob", grant_id="b")
    async with federation_of(tmp_path, *records) as fed:
        with pytest.raises(InputError, match="ada, bob"):
            fed.stub("work.example")
        with pytest.raises(NotFoundError, match="bob"):
            fed.stub("work.example", user="bobb")
        await fed.stub("work.example", user="ada").List(LIST)
        await fed.stub("work.example", user="bob").List(LIST)
        assert scripted.service.calls() == 2
        assert fed.peer("work.example", "ada").circuit is not fed.peer("work.example", "bob").circuit
        with pytest.raises(ConflictError):
            fed.peers.add(replace(records[0], id="again"))
        assert fed.peers.add(records[0]) is fed.peer("work.example", "ada")
        with pytest.raises(ConflictError, match="grant"):
            fed.peers.add(replace(records[0], name="else", id="else"))


async def test_unusual_peer_name_cannot_hang_a_call(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A stored peer name that metadata could not carry is percent-encoded in `_source`."""
    async with federation_of(tmp_path, scripted.record(name="wörk\nexample")) as fed:
        call = fed.stub("wörk\nexample").Search(SEARCH)
        async with asyncio.timeout(2):
            await call
            assert (await call.trailing_metadata())["_source"] == "federated:w%C3%B6rk%0Aexample"


async def test_source_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    """When the peers cannot be read, opening fails and the next opening starts afresh."""

    class Broken(ListedPeers):
        async def all(self) -> tuple[PeerRecord, ...]:
            raise FederationError("no")

    config = config_of(tmp_path)
    with pytest.raises(FederationError, match="no"):
        await Federation(config, Broken()).start()
    async with Federation(config, ListedPeers()) as fed:
        assert fed.peers.all() == ()


def test_fork(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A forked child is refused at once, hits included, under a new instance id; the parent goes on."""
    environment = os.environ | {"GRPC_VERBOSITY": "NONE", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(tmp_path)],
        input=repr(asdict(scripted.record())),
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=environment,
        timeout=60,
        check=False,
    )
    child, parent = done.stdout.splitlines()
    assert child.startswith("child True UNAVAILABLE this process was forked"), done.stderr
    assert parent == "parent True true"


def test_runtime_is_reference_counted(tmp_path: Path) -> None:
    """Only the last release tells that the runtime must be closed."""
    config = config_of(tmp_path)
    clock = Federation(config).clock
    first, second = ClientRuntime.share(config, clock, None), ClientRuntime.share(config, clock, None)
    assert first is second
    assert not first.release()
    assert first.release()
    first.close()
    third = ClientRuntime.share(config, clock, None)
    assert third is not first
    assert third.release()
    third.close()


async def test_what_is_asked_of_the_store_ends_before_its_cancelled_caller(
    tmp_path: Path, scripted: ScriptedPeer
) -> None:
    """Nothing of the database is left behind for a loop that ends next, and what was to be written is."""
    record = scripted.record()
    stored = PeerRepository(GatewayConfig.load(await gateway(tmp_path, record)))
    before = asyncio.all_tasks()

    writing = asyncio.create_task(stored.revoke(record.id, 7, "over"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait([writing])

    assert writing.cancelled()
    assert asyncio.all_tasks() == before
    assert (await stored.get(record.id)).revoked_at_us == 7


async def test_a_store_is_removed_once_what_was_asked_of_it_has_ended(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A gateway may close its database after the removal, also if it was busy with a revocation."""
    record = scripted.record()
    config = GatewayConfig.load(await gateway(tmp_path, record))
    database, stored = Database.attach(config.database_url), PeerRepository(config)
    store, loop = PeerStore(database, Sealer.load(tmp_path)), asyncio.get_running_loop()
    stored.add_store(loop, store)
    async with database.write():
        revoking = asyncio.create_task(stored.revoke(record.id, 7, "over"))
        await asyncio.sleep(0.05)
        removing = asyncio.create_task(stored.remove_store(loop, store))
        await asyncio.sleep(0.05)
        assert not removing.done()
    await removing
    await database.close()

    assert revoking.done()
    assert (await stored.get(record.id)).revoked_at_us == 7


async def test_a_store_whose_loop_does_not_run_is_not_used(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A program may stop its loop between calls; a renewal in the background does not wait for that loop."""
    config = GatewayConfig.load(await gateway(tmp_path, scripted.record()))
    stored, stopped = PeerRepository(config), asyncio.new_event_loop()
    stored.add_store(stopped, PeerStore(Database.attach(config.database_url), Sealer.load(tmp_path)))
    try:
        assert await asyncio.wait_for(stored.versions(), 5) == await PeerRepository(config).versions()
    finally:
        stopped.close()


async def test_a_call_outlives_the_loop_of_the_store_that_it_uses(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A loop that ends without closing its federation cancels the call there, but not its caller, such as a renewer."""

    class Waiting(PeerStore):
        async def versions(self) -> Any:
            begun.set()
            await asyncio.Event().wait()

    async def end_once_used() -> None:
        database = Database.attach(config.database_url)
        stored.add_store(asyncio.get_running_loop(), Waiting(database, Sealer.load(tmp_path)))
        added.set()
        await asyncio.to_thread(begun.wait, 5)

    config = GatewayConfig.load(await gateway(tmp_path, scripted.record()))
    stored, added, begun = PeerRepository(config), threading.Event(), threading.Event()
    ending = asyncio.create_task(asyncio.to_thread(asyncio.run, end_once_used()))
    await asyncio.to_thread(added.wait, 5)

    assert await asyncio.wait_for(stored.versions(), 5) == await PeerRepository(config).versions()
    assert begun.is_set()
    await ending


@asynccontextmanager
async def serving(directory: Path, clock: ManualClock, *records: PeerRecord) -> AsyncIterator[Federation]:
    """A federation on the open database of a gateway, as the gateway has it."""
    config = GatewayConfig.load(await gateway(directory, *records))
    database = await Database.open(config.database_url, new=False)
    store = PeerStore(database, Sealer.load(directory), clock.clock)
    try:
        async with Federation(config, store, clock=clock.clock) as fed:
            yield fed
    finally:
        await database.close()


async def test_the_renewer_of_a_gateway_uses_its_database(
    tmp_path: Path, scripted: ScriptedPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change by another process is found without opening the database again or reading the seal key."""
    monkeypatch.setattr("federation.client.renewer.TICK_S", 0.001)
    clock, record = ManualClock(), scripted.record()
    async with serving(tmp_path, clock, record) as fed:
        other = PeerRepository(fed.config)
        await other.revoke(record.id, 7, "over")
        monkeypatch.setattr(PeerRepository, "_opened", lambda _: pytest.fail("the database was opened again"))
        clock.advance(POLL_S)
        await eventually(lambda: fed.peer("work.example").revocation is not None)


async def test_a_closed_federation_is_not_told_of_renewals(
    tmp_path: Path, scripted: ScriptedPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renewal calls the `on_renewal` of the open federations of a directory, and not that of a closed one."""
    monkeypatch.setattr("federation.client.renewer.TICK_S", 0.001)
    config = GatewayConfig.load(await gateway(tmp_path, scripted.record()))
    clock, told = ManualClock(time.time()), []

    def listening(name: str) -> Federation:
        return Federation(config, clock=clock.clock, on_renewal=lambda _, __: told.append(name))

    closed = await listening("closed").start()
    async with listening("open"):
        await closed.close()
        clock.advance(DAY_S)
        await eventually(lambda: "open" in told)
    assert told == ["open"]


async def test_the_renewer_of_a_gateway_ends_with_it(
    tmp_path: Path, scripted: ScriptedPeer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once the gateway is closed its directory may go, also if closing its sessions failed or it changed the folder."""
    monkeypatch.setattr("federation.client.renewer.TICK_S", 0.001)
    monkeypatch.chdir(tmp_path)
    clock = ManualClock()
    (tmp_path / "home").mkdir()
    with pytest.raises(ZeroDivisionError):
        async with serving(Path("home"), clock, scripted.record()) as fed:
            monkeypatch.chdir("/")
            monkeypatch.setattr(fed, "_close_sessions", lambda: 1 / 0)
    shutil.rmtree(tmp_path / "home")
    clock.advance(POLL_S)
    await asyncio.sleep(0.05)
    assert caplog.text == ""
    assert "mosaic-federation" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("data", ["", "[1]", "{", '"text"', "nul"])
def test_fields_of_something_else(data: str) -> None:
    """A peer may send anything as a row's data; reading it names the row."""
    with pytest.raises(InputError, match="'r1'"):
        fields(pb.Row(id="r1", data=data))


def test_public_names() -> None:
    """The package exports the documented names, and no others."""
    assert federation.__all__ == ["Federation", "fields", "sync_channel"]
    assert set(federation.__all__) <= set(dir(federation))
    assert federation.Federation is Federation
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = federation.nothing_such
