"""What a session answers: rows of every source in one order with their tags, and what became of each source."""

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.bootstrap import init_gateway
from federation.config import GatewayConfig, SessionConfig
from federation.errors import ConfigError, FederationError, InputError, NotFoundError, Reason, Refusal
from federation.federation import Federation
from federation.resources.importing.importer import parse
from federation.resources.sql.provider import SqlProvider
from federation.session.results import SourceState
from federation.session.signals import PeerSignal
from federation.store.database import Database
from federation.v1 import federation_pb2 as pb
from tests.support.federations import config_of
from tests.support.gateway_pair import rows_jsonl
from tests.support.provider import ListedProvider, row
from tests.support.scripted import Reply, ScriptedPeer, eventually
from tests.support.sessions import LAB, QUICK, WORK, flush_peer, ids, own_rows, peer_rows, report, states, with_data


async def test_all_sources_in_one_list(tmp_path: Path, scripted: ScriptedPeer, other_scripted: ScriptedPeer) -> None:
    """`all` merges own rows and every peer's, newest first, each with its source; nothing is partial."""
    scripted.service.script("list", Reply(message=peer_rows("w0", "w1", age=1)))
    other_scripted.service.script("list", Reply(message=peer_rows("l0", age=1)))
    records = scripted.record(), other_scripted.record(grant_id="lab")
    async with with_data(tmp_path, *records) as fed, fed.session("ada") as session:
        result = await session.list("tasks")

        assert [(each.id, each.source) for each in result.rows] == [
            ("own-0", "local"),
            ("l0", LAB),
            ("w0", WORK),
            ("own-1", "local"),
            ("w1", WORK),
            ("own-2", "local"),
        ]
        assert states(result) == {"local": "ok", LAB: "ok", WORK: "ok"}
        assert [each.rows for each in result.sources] == [3, 1, 2]
        assert all(each.latency_ms > 0 for each in result.sources)
        assert (result.partial, result.signals, result.next_page_token) == (False, (), "")
        assert {(each.cached, each.age_s) for each in result.rows} == {(False, 0.0)}


async def test_a_kept_answer_says_so(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """The second time the peer's rows come from memory, with their age; local data are never kept."""
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        await session.list("tasks")
        await asyncio.sleep(0.02)
        result = await session.list("tasks")

        assert states(result) == {"local": "ok", WORK: "cached"}
        assert not result.partial
        peers = [each for each in result.rows if each.source == WORK]
        assert all(each.cached and 0.02 <= each.age_s < 5 for each in peers)
        assert not any(each.cached for each in result.rows if each.source == "local")
        assert scripted.service.calls() == 1


async def test_a_session_shares_the_cache_with_stubs(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """The first page is asked for by the same bytes as a plain call: either fills what the other hits."""
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        await fed.stub("work.example", "ada").List(pb.ListRequest(resource="tasks", where={"status": "open"}))
        result = await session.list("tasks", where={"status": "open"}, source=WORK)
        assert states(result) == {WORK: "cached"}
        await session.get("tasks", "t1", source=WORK)
        call = fed.stub("work.example", "ada").Get(pb.GetRequest(resource="tasks", id="t1"))
        assert (await call.trailing_metadata())["_cached"] == "true"


async def test_one_row_from_whoever_has_it(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """`get` brings the row of each source that has it; where it is absent the source is well, and says so."""
    scripted.service.script("get", Reply(refusal=Refusal(Reason.ROW_NOT_FOUND, "no such row")))
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        result = await session.get("tasks", "own-1")
        assert ids(result) == ["own-1"]
        assert result.row is not None
        assert result.row.data == {"title": "own-1"}
        assert (report(result, WORK).state, report(result, WORK).rows) == (SourceState.OK, 0)
        assert report(result, WORK).reason == Reason.ROW_NOT_FOUND
        assert not result.partial

        nothing = await session.get("tasks", "elsewhere")
        assert nothing.row is None
        assert [each.reason for each in nothing.sources] == [Reason.ROW_NOT_FOUND] * 2


async def test_hits_by_score(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """`search` merges by score relative to each source's best, and is never answered from memory."""
    hits = [pb.SearchHit(row=pb.Row(id=f"w{n}"), score=score, snippet="[w]") for n, score in enumerate((0.5, 0.25))]
    scripted.service.script("search", Reply(message=pb.SearchResponse(hits=hits)))
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        result = await session.search("own", resources=["tasks"])
        assert [(each.source, each.score) for each in result.rows] == [
            (WORK, 1.0),
            ("local", 1.0),
            ("local", 1.0),
            ("local", 1.0),
            (WORK, 0.5),
        ]
        assert result.rows[0].snippet == "[w]"
        assert states(await session.search("own", resources=["tasks"]))[WORK] == "ok"
        assert scripted.service.calls("search") == 2


async def test_what_each_source_opens(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """`capabilities` has one answer a source, and no rows."""
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        result = await session.capabilities()
        assert result.rows == ()
        assert set(result.capabilities) == {"local", WORK}
        assert result.capabilities[WORK].gateway == "work.example"
        assert (result.capabilities["local"].gateway, result.capabilities["local"].max_rows_per_query) == (
            "home.example",
            1_000,
        )


async def test_local_rights_are_the_users(tmp_path: Path) -> None:
    """`local` is read as the session's user, by the provider's own rights."""
    provider = ListedProvider(
        [row("hers"), row("his", owner="bob"), row("shared", owner="x", team="T")], {"ada": {"T"}}
    )
    async with with_data(tmp_path, provider=provider) as fed:
        async with fed.session("ada") as ada, fed.session("bob") as bob:
            assert sorted(ids(await ada.list("tasks"))) == ["hers", "shared"]
            assert ids(await bob.list("tasks")) == ["his"]
        assert {subject for _, subject, _ in provider.calls} == {"ada", "bob"}


async def test_a_user_reaches_only_own_peers(
    tmp_path: Path, scripted: ScriptedPeer, other_scripted: ScriptedPeer
) -> None:
    """`all` has no peer of somebody else, a name of one is unknown, and no error tells that it exists."""
    records = scripted.record(user="ada"), other_scripted.record(user="bob", grant_id="lab")
    async with with_data(tmp_path, *records) as fed, fed.session("ada") as session:
        assert set(states(await session.list("tasks"))) == {"local", WORK}
        with pytest.raises(NotFoundError) as caught:
            await session.list("tasks", source=LAB)
        assert caught.value.near == ("work.example",)
        assert other_scripted.service.calls() == 0


async def test_a_peer_by_its_host(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """`federated:<host>` finds the peer; rows carry its name, and its page token serves under either spelling."""
    scripted.service.script("list", Reply(message=replace_token(peer_rows("w0", "w1"))))
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        result = await session.list("tasks", page_size=1, source="federated:127.0.0.1")
        assert {each.source for each in result.rows} == {WORK}
        scripted.service.script("list", Reply(message=peer_rows("w1", age=1)))
        rest = await session.list("tasks", page_size=1, page_token=result.next_page_token, source=WORK)
        assert (ids(result), ids(rest)) == (["w0"], ["w1"])


def replace_token(reply: pb.ListResponse) -> pb.ListResponse:
    """The same page, with more behind it."""
    reply.next_page_token = "more"
    return reply


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"resource": "taks"}, "resource"),
        ({"resource": "tasks", "page_size": -1}, "page_size"),
        ({"resource": "tasks", "page_size": 1 << 33}, "page_size"),
        ({"resource": "tasks", "page_token": "forged"}, "page_token"),
        ({"resource": "tasks", "source": "everywhere"}, "source"),
        ({"resource": "tasks", "where": {"a": "\0"}}, "where.a"),
    ],
)
async def test_invalid_input_is_raised_before_anybody_is_asked(
    tmp_path: Path, scripted: ScriptedPeer, asked: dict[str, Any], field: str
) -> None:
    """The error names the field, and neither the peer nor the own data hear of it."""
    provider = own_rows()
    async with with_data(tmp_path, scripted.record(), provider=provider) as fed, fed.session("ada") as session:
        with pytest.raises(InputError) as caught:
            await session.list(**asked)
        assert caught.value.field == field
        cache = fed.peer("work.example").cache
        assert cache is not None
        assert (cache.stats().misses, provider.calls) == (0, [])


async def test_what_the_own_data_cannot_compare_is_the_callers_fault(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A `where` that the provider refuses is raised, and cancels the peers' calls."""
    provider = own_rows()
    provider.fault = Refusal(Reason.INVALID_REQUEST, "where.a-b: is no plain field name")
    scripted.service.script("list", Reply(gate=threading.Event()))
    async with with_data(tmp_path, scripted.record(), provider=provider) as fed, fed.session("ada") as session:
        with pytest.raises(InputError) as caught:
            await session.list("tasks", where={"a-b": "x"})
        assert caught.value.field == "where.a-b"
        await eventually(lambda: not fed.peer("work.example").runners)


async def test_own_data_that_break_leave_the_peers_rows(
    tmp_path: Path, scripted: ScriptedPeer, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of the provider is an incident in the log and one failed source, not the end of the request."""
    provider = own_rows()
    provider.fault = RuntimeError("secret words")
    async with with_data(tmp_path, scripted.record(), provider=provider) as fed, fed.session("ada") as session:
        result = await session.list("tasks")
        assert states(result) == {"local": "failed", WORK: "ok"}
        local = report(result, "local")
        assert (result.partial, local.reason) == (True, Reason.INTERNAL)
        assert "secret" not in local.message
        assert local.message.split()[1].rstrip(";") in caplog.text
        assert ids(result) == ["t1"]


FAULTS = [
    (Reply(refusal=Refusal(Reason.SCOPE_VIOLATION, "not open")), "denied", "SCOPE_VIOLATION"),
    (Reply(refusal=Refusal(Reason.GRANT_INVALID, "no")), "denied", "GRANT_INVALID"),
    (Reply(refusal=Refusal(Reason.GRANT_REVOKED, "over")), "denied", "GRANT_REVOKED"),
    (Reply(refusal=Refusal(Reason.CERTIFICATE_INVALID, "no")), "denied", "CERTIFICATE_INVALID"),
    (Reply(refusal=Refusal(Reason.RATE_LIMITED, "slow", retry_after_s=60)), "rate_limited", "RATE_LIMITED"),
    (Reply(refusal=Refusal(Reason.INVALID_REQUEST, "where: no")), "failed", "INVALID_REQUEST"),
    (Reply(refusal=Refusal(Reason.INTERNAL, "incident 1")), "failed", "INTERNAL"),
    (Reply(code=grpc.StatusCode.UNIMPLEMENTED, details="what?"), "failed", ""),
    (Reply(message=peer_rows("b", "a", age=0)), "ok", ""),
]


@pytest.mark.parametrize(("reply", "state", "reason"), FAULTS)
async def test_refusals_are_states_and_no_signals(
    tmp_path: Path, scripted: ScriptedPeer, reply: Reply, state: str, reason: str
) -> None:
    """Denied, revoked, limited and failed sources are reported with reason and next step; none is a signal."""
    scripted.service.script("list", reply)
    heard: list[Any] = []
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada", on_signal=heard.append) as session:
        result = await session.list("tasks")
        work = report(result, WORK)
        assert (work.state, work.reason) == (state, reason)
        assert result.partial is (state != "ok")
        assert bool(work.message) is (state != "ok")
        assert bool(work.next_step) is (state in {"denied", "rate_limited"} or reason == "INTERNAL")
        assert [each for each in ids(result) if each.startswith("own")] == ["own-0", "own-1", "own-2"]
        await session.list("tasks", page_size=7)
        assert (result.signals, heard) == ((), [])


async def test_a_refusal_is_never_kept(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """What failed is asked again by the next request."""
    scripted.service.script("list", Reply(refusal=Refusal(Reason.INTERNAL, "incident")), Reply())
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        assert states(await session.list("tasks"))[WORK] == "failed"
        assert states(await session.list("tasks"))[WORK] == "ok"


async def test_a_peers_disorder_is_its_own_fault(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A list that is not in order cannot be paged: its source has failed, and the others stand."""
    reply = peer_rows("w0", "w1")
    reply.rows[0].created_at.seconds, reply.rows[1].created_at.seconds = 1, 2
    scripted.service.script("list", Reply(message=reply))
    scripted.service.script("get", Reply(message=pb.GetResponse()))
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        result = await session.list("tasks")
        assert states(result) == {"local": "ok", WORK: "failed"}
        assert "order" in report(result, WORK).message


async def test_an_unreadable_answer_is_a_failed_source(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Bytes that are no message end as one failed source, for kept and for live verbs."""
    scripted.service.raw = b"\xff\xff\xff"
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        for result in (await session.list("tasks"), await session.search("own"), await session.capabilities()):
            assert states(result) == {"local": "ok", WORK: "failed"}
            assert report(result, WORK).reason == Reason.INTERNAL


async def test_a_peers_words_are_safe_to_show(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """What a peer says in an error is shortened and holds nothing that a terminal would obey."""
    scripted.service.script("list", Reply(code=grpc.StatusCode.INTERNAL, details="\x1b[2J" + "x" * 900))
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        message = report(await session.list("tasks"), WORK).message
        assert message.isprintable()
        assert len(message) < 350


async def test_a_removed_peer_is_reported_behind_a_token(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A peer that was removed between two pages is skipped, said so, and the other sources go on."""
    scripted.service.script("list", Reply(message=replace_token(peer_rows("w0", age=1))))
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        first = await session.list("tasks")
        fed.peers.remove("work.example", "ada")
        rest = await session.list("tasks", page_token=first.next_page_token)
        assert (ids(first), ids(rest)) == (["own-0", "w0"], ["own-1", "own-2"])
        assert states(rest) == {"local": "ok", WORK: "skipped"}
        assert "is not a peer" in report(rest, WORK).message
        assert (rest.partial, rest.next_page_token) == (True, "")
        assert set(states(await session.list("tasks"))) == {"local"}


async def test_a_peer_that_was_enrolled_anew_is_asked_anew(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """The same name with another enrollment is another peer: a session that goes on uses the new one."""
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        assert states(await session.list("tasks"))[WORK] == "ok"
        fed.peers.remove("work.example", "ada")
        fed.peers.add(replace(scripted.record(), id="anew"))
        assert states(await session.list("tasks"))[WORK] == "ok"
        assert scripted.service.calls() == 2


async def test_a_token_serves_another_session_of_the_same_user_only(tmp_path: Path) -> None:
    """Page tokens outlive a session; another user's session refuses them."""
    async with with_data(tmp_path) as fed:
        async with fed.session("ada") as first:
            token = (await first.list("tasks", page_size=1)).next_page_token
        async with fed.session("ada") as again, fed.session("bob") as other:
            assert ids(await again.list("tasks", page_size=1, page_token=token)) == ["own-1"]
            with pytest.raises(InputError, match="page_token"):
                await other.list("tasks", page_token=token)
            with pytest.raises(InputError, match="page_token"):
                await again.list("tasks", page_token=token, source="local")


async def test_a_closed_session_and_a_closed_federation_answer_nothing(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Closing ends what is under way by an error, cancels the peer's call, and refuses what comes later."""
    scripted.service.script("list", Reply(gate=threading.Event()))
    async with with_data(tmp_path, scripted.record()) as fed:
        session = fed.session("ada")
        waiting = asyncio.ensure_future(session.list("tasks"))
        await eventually(lambda: scripted.service.active == 1)
        await session.close()
        await session.close()
        with pytest.raises(FederationError, match="closed"):
            await waiting
        await eventually(lambda: scripted.service.cancelled == 1)
        with pytest.raises(FederationError, match="closed"):
            await session.list("tasks")
        left = fed.session("ada")
        listening = asyncio.ensure_future(anext(left.signals(), None))
    assert await listening is None
    with pytest.raises(FederationError, match="closed"):
        await left.list("tasks")
    with pytest.raises(FederationError, match="not open"):
        fed.session("ada")


async def test_odd_budgets_are_refused(tmp_path: Path) -> None:
    """A session cannot be made with a budget of nothing, nor asked with one."""
    async with with_data(tmp_path) as fed:
        with pytest.raises(ConfigError, match="peer_budget_s"):
            fed.session("ada", config=SessionConfig(peer_budget_s=-1.0))
        with pytest.raises(InputError, match="user"):
            fed.session("")
        async with fed.session("ada") as session:
            with pytest.raises(InputError, match="budget_s"):
                await session.ask(pb.ListRequest(resource="tasks"), budget_s=0.0)


async def test_values_of_another_kind_name_their_field(tmp_path: Path) -> None:
    """A token that is no text, and a listener that nobody would await, are faults of their field."""

    async def listen(_: PeerSignal) -> None: ...

    async with with_data(tmp_path) as fed, fed.session("ada") as session:
        for token in (7, "\ud800"):
            with pytest.raises(InputError, match="page_token"):
                await session.list("tasks", page_token=token)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="on_signal"):
            fed.session("ada", on_signal=listen)


async def test_warming_fills_what_a_list_asks_first(
    tmp_path: Path, scripted: ScriptedPeer, other_scripted: ScriptedPeer
) -> None:
    """After `warm` the first list of each resource is a hit; what is there already is not fetched again."""
    records = scripted.record(), other_scripted.record(grant_id="lab")
    async with with_data(tmp_path, *records) as fed, fed.session("ada") as session:
        warmed = await session.warm(["tasks", "notes"])
        assert warmed.count(SourceState.OK) == 4
        for resource in ("tasks", "notes"):
            assert states(await session.list(resource)) == {"local": "ok", LAB: "cached", WORK: "cached"}
        assert (await session.warm(["tasks"])).count(SourceState.CACHED) == 2
        assert scripted.service.calls() == 2


async def test_warming_is_polite(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """No more calls at a time than the setting says; a peer that is away costs one call, not one a resource."""
    gate = threading.Event()
    scripted.service.script("list", Reply(gate=gate))
    config = SessionConfig(warm_concurrency=2)
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada", config=config) as session:
        warming = session.warm(["tasks", "notes", "memory", "credentials"])
        await eventually(lambda: scripted.service.active == 2)
        await asyncio.sleep(0.05)
        assert scripted.service.calls() == 2
        gate.set()
        assert (await warming).count(SourceState.OK) == 4
        scripted.stop()
        flush_peer(fed)
        one = SessionConfig(warm_concurrency=1)
        async with fed.session("ada", config=one) as late:
            report_ = await late.warm(["tasks", "notes", "memory"])
            assert (report_.count(SourceState.OFFLINE), report_.count(SourceState.SKIPPED)) == (1, 2)


async def test_warming_ends_with_its_session(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A session that closes cancels its warming, and the peer sees it."""
    scripted.service.script("list", Reply(gate=threading.Event()))
    async with with_data(tmp_path, scripted.record()) as fed:
        session = fed.session("ada")
        warming = session.warm(["tasks"])
        await eventually(lambda: scripted.service.active == 1)
        await session.close()
        assert warming.done()
        await eventually(lambda: scripted.service.cancelled == 1)
        with pytest.raises(FederationError, match="closed"):
            session.warm(["tasks"])


async def test_no_task_for_what_is_answered_at_once(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Hits, skipped peers and calls under way need no task of ours: only the own data have one."""
    gate = threading.Event()
    scripted.service.script("list", Reply(), Reply(gate=gate))
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        await session.list("tasks", source=WORK)
        before = asyncio.all_tasks()
        hit = session.stream(pb.ListRequest(resource="tasks"), source=WORK)
        assert asyncio.all_tasks() == before
        assert (await anext(hit)).report.state is SourceState.CACHED
        live = session.stream(pb.ListRequest(resource="notes"), source=WORK)
        ours = [task for task in asyncio.all_tasks() - before if "federation" in str(task.get_coro())]
        assert ours == []
        gate.set()
        assert (await anext(live)).report.state is SourceState.OK


async def test_an_embedder_reads_the_gateways_rows(tmp_path: Path) -> None:
    """`Federation.open` of a gateway's directory reads its embedded rows; tokens survive the next opening."""
    home = tmp_path / "home"
    await init_gateway(config_of(home))
    database = await Database.open(GatewayConfig.load(home).database_url)
    await SqlProvider(database).apply(parse(rows_jsonl().splitlines(keepends=True)))
    await database.close()
    async with Federation.open(home) as fed, fed.session("ada") as session:
        first = await session.list("tasks", page_size=2)
        assert ids(first) == ["task-11", "task-10"]
    async with Federation.open(home) as fed, fed.session("ada") as session:
        assert ids(await session.list("tasks", page_size=2, page_token=first.next_page_token)) == ["task-9", "task-8"]


async def test_a_quick_session_leaves_the_gateways_budget_alone(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """The settings of one session are its own."""
    scripted.service.script("search", Reply(delay_s=0.5))
    async with with_data(tmp_path, scripted.record()) as fed:
        async with fed.session("ada", config=QUICK) as quick, fed.session("ada") as patient:
            hasty, whole = await asyncio.gather(quick.search("own"), patient.search("own"))
        assert (states(hasty)[WORK], states(whole)[WORK]) == ("offline", "ok")
        assert replace(quick.config, peer_budget_s=2.0) == patient.config
