"""Peers that are added, removed or changed while sessions query them, and requests that change while they run."""

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from federation.bootstrap import init_gateway
from federation.config import CircuitConfig, SessionConfig
from federation.errors import FederationError, InputError, Reason
from federation.federation import Federation
from federation.session.results import Result, SourceState
from federation.session.signals import SignalKind
from federation.session.stream import AnswerStream
from federation.v1 import federation_pb2 as pb
from tests.support.federations import config_of
from tests.support.pki import GRANT_ID
from tests.support.scripted import Reply, ScriptedPeer, eventually
from tests.support.sessions import QUICK, WORK, ids, own_rows, peer_rows, report, states, with_data

SOON = CircuitConfig(cooldown_s=0.15, jitter=0.0)


async def test_a_peer_removed_before_its_request_is_skipped(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A peer removed before its request starts is reported as skipped; every other source answers."""
    records = [
        replace(scripted.record(), id=f"p{n}", name=f"p{n:03}.example", grant_id=f"{GRANT_ID[:-3]}{n:03}")
        for n in range(60)
    ]
    async with with_data(tmp_path, *records) as fed, fed.session("ada") as session:
        answers = session.stream(pb.ListRequest(resource="tasks"))
        fed.peers.remove("p059.example", "ada")
        async with asyncio.timeout(10), answers:
            async for _ in answers:
                pass
            result = answers.merged()
        assert len(result.sources) == 61
        assert report(result, "federated:p059.example").state in {SourceState.SKIPPED, SourceState.DENIED}
        assert {each.state.value for each in result.sources[:-1]} == {"ok"}
        assert not result.signals


async def test_a_new_enrollment_does_not_inherit_an_outage(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A peer that was unreachable, removed and enrolled again gets the next request."""
    gone = replace(scripted.record(), endpoint="127.0.0.1:1")
    async with with_data(tmp_path, gone) as fed, fed.session("ada") as session:
        assert states(await session.list("tasks"))[WORK] == "offline"
        fed.peers.remove("work.example", "ada")
        fed.peers.add(replace(scripted.record(), id="again"))
        assert states(await session.list("tasks"))[WORK] == "ok"


async def test_a_removed_peer_is_not_probed(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """The probe of a removed peer ends without an error and without a remaining task."""
    gone = replace(scripted.record(), endpoint="127.0.0.1:1")
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    async with with_data(tmp_path, gone, circuit=SOON) as fed, fed.session("ada") as session:
        await session.list("tasks")
        reach = session._context
        assert len(reach.probes) == 1
        fed.peers.remove("work.example", "ada")
        await eventually(lambda: len(reach.probes) == 0)
        assert not faults


async def test_the_next_result_has_the_signal_of_a_probe(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A caller that reads only results gets every signal once, also a signal of a probe."""
    scripted.stop()
    async with with_data(tmp_path, scripted.record(), circuit=SOON) as fed, fed.session("ada") as session:
        assert [signal.kind for signal in (await session.list("tasks")).signals] == [SignalKind.OFFLINE]
        scripted.start()
        heard = session.signals()
        async with asyncio.timeout(10):
            assert [(await anext(heard)).kind for _ in range(2)] == [SignalKind.OFFLINE, SignalKind.RESTORED]
        assert [signal.kind for signal in (await session.list("tasks", source="local")).signals] == [
            SignalKind.RESTORED
        ]
        assert (await session.list("tasks")).signals == ()


@pytest.mark.parametrize("how", ["warm", "left"])
async def test_a_signal_without_a_result_is_in_the_next_result(
    tmp_path: Path, scripted: ScriptedPeer, how: str
) -> None:
    """A signal of a warm-up, or of a stream that was closed early, is in the next result."""
    scripted.stop()
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        if how == "warm":
            assert (await session.warm(["tasks"])).count(SourceState.OFFLINE) == 1
        else:
            async with session.stream(pb.ListRequest(resource="tasks")) as answers:
                await anext(answers)
                await anext(answers)
        result = await session.list("tasks")
        assert [(states(result)[WORK], signal.kind) for signal in result.signals] == [("skipped", SignalKind.OFFLINE)]


async def test_a_warm_up_skips_a_removed_peer(
    tmp_path: Path, scripted: ScriptedPeer, other_scripted: ScriptedPeer
) -> None:
    """A peer removed during a warm-up is skipped, and the other peers are warmed."""
    gate = threading.Event()
    scripted.service.script("list", Reply(gate=gate))
    config = SessionConfig(warm_concurrency=1)
    lab = other_scripted.record(grant_id="lab")
    async with with_data(tmp_path, scripted.record(), lab) as fed, fed.session("ada", config=config) as session:
        warming = session.warm(["tasks", "notes"])
        await eventually(lambda: scripted.service.active + other_scripted.service.calls("list") >= 1)
        fed.peers.remove("lab.example", "ada")
        gate.set()
        found = await warming
        assert found.count(SourceState.SKIPPED) >= 1
        assert {each.state for _, each in found.reports if each.source == WORK} == {SourceState.OK}


async def test_invalid_resources_of_a_warm_up_raise(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Invalid resources raise an error that names the field; so does a text instead of a list."""
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        for wrong in (["x" * 1000], [""]):
            with pytest.raises(InputError, match="resource"):
                session.warm(wrong)
        with pytest.raises(InputError, match="page_size"):
            session.warm(["tasks"], page_size=-1)
        with pytest.raises(InputError, match="resources"):
            session.warm("tasks")


async def test_a_stream_copies_its_request(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """The caller may change a request after the call: each stream uses a copy."""
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        request = pb.GetRequest(resource="tasks", id="own-1")
        answers = session.stream(request, source="local")
        request.id = "own-2"
        rows = [row.id async for answer in answers for row in answer.rows]
        assert rows == ["own-1"]


async def test_two_readers_of_one_stream_share_its_answers(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Each answer goes to one reader, and both readers see the end."""
    gate = threading.Event()
    scripted.service.script("list", Reply(gate=gate))
    provider = own_rows()
    provider.gate = asyncio.Event()
    async with with_data(tmp_path, scripted.record(), provider=provider) as fed, fed.session("ada") as session:
        answers = session.stream(pb.ListRequest(resource="tasks"))
        both = [asyncio.ensure_future(_sources(answers)) for _ in range(2)]
        await eventually(lambda: scripted.service.active == 1)
        provider.gate.set()
        gate.set()
        async with asyncio.timeout(5):
            heard = await asyncio.gather(*both)
        assert sorted(heard[0] + heard[1]) == [WORK, "local"]


async def _sources(answers: AnswerStream) -> list[str]:
    return [answer.source async for answer in answers]


async def test_a_stream_can_be_collected_in_any_thread(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """The garbage collector may free a stream in any thread and inside any lock; the peer's call is cancelled."""
    scripted.service.script("list", Reply(gate=threading.Event()))
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        held = [session.stream(pb.ListRequest(resource="tasks"))]
        await eventually(lambda: scripted.service.active == 1)
        cache = fed.peer("work.example").cache
        assert cache is not None

        def collect() -> None:
            with cache._lock:
                held.clear()

        collector = threading.Thread(target=collect, daemon=True)
        collector.start()
        collector.join(2)
        assert not collector.is_alive()
        await eventually(lambda: scripted.service.cancelled == 1)


@pytest.mark.parametrize("name", ["x" * 1_025, "é" * 700_000])
async def test_a_row_id_out_of_bounds_fails_its_source(tmp_path: Path, scripted: ScriptedPeer, name: str) -> None:
    """A peer's row id out of bounds fails the source: no page token is made that cannot be decoded again."""
    reply = peer_rows(name, "b")
    reply.next_page_token = "more"
    scripted.service.script("list", Reply(message=reply))
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        result = await session.list("tasks", page_size=1)
        assert states(result)[WORK] == "failed"
        again = await session.list("tasks", page_size=1, page_token=result.next_page_token)
        assert ids(again) == ["own-1"]


@pytest.mark.parametrize(
    "reply",
    [
        pb.GetResponse(),
        pb.GetResponse(row=pb.Row(id="t2", resource="tasks")),
        pb.GetResponse(row=pb.Row(id="t1", resource="notes")),
    ],
)
async def test_a_wrong_row_of_get_fails_its_source(
    tmp_path: Path, scripted: ScriptedPeer, reply: pb.GetResponse
) -> None:
    """A peer that answers `get` with no row or with another row has failed."""
    scripted.service.script("get", Reply(message=reply))
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        result = await session.get("tasks", "t1")
        assert (states(result)[WORK], result.rows) == ("failed", ())


async def test_a_revocation_of_an_offline_peer_is_reported(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A skipped peer's rows come from the cache; after the revocation of its grant the source is denied."""
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada", config=QUICK) as session:
        assert states(await session.list("tasks"))[WORK] == "ok"
        scripted.service.script("search", Reply(gate=threading.Event()))
        assert states(await session.search("own"))[WORK] == "offline"
        assert states(await session.list("tasks"))[WORK] == "cached"
        fed.peer("work.example").on_revoked("by its operator")
        for result in (await session.list("tasks"), await session.search("own")):
            assert (states(result)[WORK], report(result, WORK).reason) == ("denied", Reason.GRANT_REVOKED)
            assert {row.source for row in result.rows} == {"local"}
            assert not result.signals


async def test_a_closed_federation_releases_its_data(tmp_path: Path) -> None:
    """After the federation is closed, no read continues and no database connection is open."""
    home = tmp_path / "home"
    await init_gateway(config_of(home))
    before = set(threading.enumerate())
    for moment in range(6):
        async with Federation.open(home) as fed:
            session = fed.session("ada")
            reads = [asyncio.ensure_future(session.list("tasks")) for _ in range(3)]
            await asyncio.sleep(0.003 * moment)
        ends = await asyncio.gather(*reads, return_exceptions=True)
        assert all(isinstance(end, Result | FederationError) for end in ends)
    await eventually(lambda: not {each for each in threading.enumerate() if "connection_worker" in each.name} - before)
