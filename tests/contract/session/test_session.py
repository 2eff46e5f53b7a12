"""Results of sessions: rows of every source in one order with their tags, and a report of each source."""

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
from federation.resources.sql.provider import SqlProvider
from federation.session.results import SourceState
from federation.session.signals import PeerSignal
from federation.store.database import Database
from federation.v1 import federation_pb2 as pb
from tests.support.federations import config_of
from tests.support.gateway_pair import rows_jsonl
from tests.support.provider import ListedProvider, row
from tests.support.rows import parse
from tests.support.scripted import Reply, ScriptedPeer, eventually
from tests.support.sessions import LAB, QUICK, WORK, flush_peer, ids, own_rows, peer_rows, report, states, with_data


async def test_all_sources_are_merged(tmp_path: Path, scripted: ScriptedPeer, other_scripted: ScriptedPeer) -> None:
    """`all` merges local rows and every peer's, newest first, each with its source; nothing is partial."""
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


async def test_a_cached_answer_is_tagged(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """The second answer of the peer comes from the cache, with its age; local data are never cached."""
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
    """The first page has the same request bytes as a stub's call: each fills the cache of the other."""
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        await fed.stub("work.example", "ada").List(pb.ListRequest(resource="tasks", where={"status": "open"}))
        result = await session.list("tasks", where={"status": "open"}, source=WORK)
        assert states(result) == {WORK: "cached"}
        await session.get("tasks", "t1", source=WORK)
        call = fed.stub("work.example", "ada").Get(pb.GetRequest(resource="tasks", id="t1"))
        assert (await call.trailing_metadata())["_cached"] == "true"


async def test_get_returns_the_row_of_each_source(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """`get` returns the row of each source that has it; a source without the row is ok and says so."""
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


async def test_search_merges_by_score(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """`search` merges by score relative to each source's best, and is never cached."""
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


async def test_capabilities_has_an_answer_per_source(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """`capabilities` has one answer per source, and no rows."""
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        result = await session.capabilities()
        assert result.rows == ()
        assert set(result.capabilities) == {"local", WORK}
        assert result.capabilities[WORK].gateway == "work.example"
        assert (result.capabilities["local"].gateway, result.capabilities["local"].max_rows_per_query) == (
            "home.example",
            1_000,
        )


async def test_local_data_are_read_as_the_user(tmp_path: Path) -> None:
    """`local` is read as the session's user, with the provider's rights."""
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
    """`all` has no peer of another user; such a name is unknown, and no error shows that it exists."""
    records = scripted.record(user="ada"), other_scripted.record(user="bob", grant_id="lab")
    async with with_data(tmp_path, *records) as fed, fed.session("ada") as session:
        assert set(states(await session.list("tasks"))) == {"local", WORK}
        with pytest.raises(NotFoundError) as caught:
            await session.list("tasks", source=LAB)
        assert caught.value.near == ("work.example",)
        assert other_scripted.service.calls() == 0


async def test_a_peer_is_found_by_its_host(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """`federated:<host>` finds the peer; rows have its name, and a page token is valid with both spellings."""
    scripted.service.script("list", Reply(message=replace_token(peer_rows("w0", "w1"))))
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        result = await session.list("tasks", page_size=1, source="federated:127.0.0.1")
        assert {each.source for each in result.rows} == {WORK}
        scripted.service.script("list", Reply(message=peer_rows("w1", age=1)))
        rest = await session.list("tasks", page_size=1, page_token=result.next_page_token, source=WORK)
        assert (ids(result), ids(rest)) == (["w0"], ["w1"])


def replace_token(reply: pb.ListResponse) -> pb.ListResponse:
    """The same page, with a next page."""
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
async def test_invalid_input_raises_before_any_call(
    tmp_path: Path, scripted: ScriptedPeer, asked: dict[str, Any], field: str
) -> None:
    """The error names the field; neither the peer nor the local data are queried."""
    provider = own_rows()
    async with with_data(tmp_path, scripted.record(), provider=provider) as fed, fed.session("ada") as session:
        with pytest.raises(InputError) as caught:
            await session.list(**asked)
        assert caught.value.field == field
        cache = fed.peer("work.example").cache
        assert cache is not None
        assert (cache.stats().misses, provider.calls) == (0, [])


async def test_a_where_that_the_provider_refuses_raises(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A `where` that the provider refuses raises, and cancels the peers' calls."""
    provider = own_rows()
    provider.fault = Refusal(Reason.INVALID_REQUEST, "where.a-b: is no plain field name")
    scripted.service.script("list", Reply(gate=threading.Event()))
    async with with_data(tmp_path, scripted.record(), provider=provider) as fed, fed.session("ada") as session:
        with pytest.raises(InputError) as caught:
            await session.list("tasks", where={"a-b": "x"})
        assert caught.value.field == "where.a-b"
        await eventually(lambda: not fed.peer("work.example").runners)


async def test_a_failing_provider_fails_only_the_local_source(
    tmp_path: Path, scripted: ScriptedPeer, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of the provider is a logged incident and one failed source; the peers' rows are returned."""
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
async def test_refusals_are_states_without_signals(
    tmp_path: Path, scripted: ScriptedPeer, reply: Reply, state: str, reason: str
) -> None:
    """Denied, revoked, limited and failed sources have a reason and a next step in the report, and no signal."""
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


async def test_a_refusal_is_not_cached(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """The next request queries a failed source again."""
    scripted.service.script("list", Reply(refusal=Refusal(Reason.INTERNAL, "incident")), Reply())
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        assert states(await session.list("tasks"))[WORK] == "failed"
        assert states(await session.list("tasks"))[WORK] == "ok"


async def test_rows_out_of_order_fail_their_source(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A list out of order cannot be paged: its source has failed, and the other sources are returned."""
    reply = peer_rows("w0", "w1")
    reply.rows[0].created_at.seconds, reply.rows[1].created_at.seconds = 1, 2
    scripted.service.script("list", Reply(message=reply))
    scripted.service.script("get", Reply(message=pb.GetResponse()))
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        result = await session.list("tasks")
        assert states(result) == {"local": "ok", WORK: "failed"}
        assert "order" in report(result, WORK).message


async def test_an_unreadable_answer_fails_its_source(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Bytes that cannot be parsed fail one source, for cached and uncached verbs."""
    scripted.service.raw = b"\xff\xff\xff"
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        for result in (await session.list("tasks"), await session.search("own"), await session.capabilities()):
            assert states(result) == {"local": "ok", WORK: "failed"}
            assert report(result, WORK).reason == Reason.INTERNAL


async def test_error_texts_of_a_peer_are_sanitized(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """The text of a peer's error is shortened and has no control characters."""
    scripted.service.script("list", Reply(code=grpc.StatusCode.INTERNAL, details="\x1b[2J" + "x" * 900))
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        message = report(await session.list("tasks"), WORK).message
        assert message.isprintable()
        assert len(message) < 350


async def test_a_peer_removed_between_pages_is_skipped(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A peer that was removed between two pages is reported as skipped, and the other sources continue."""
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


async def test_a_session_uses_a_new_enrollment(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A session uses the new enrollment of a peer that was removed and enrolled again under the same name."""
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        assert states(await session.list("tasks"))[WORK] == "ok"
        fed.peers.remove("work.example", "ada")
        fed.peers.add(replace(scripted.record(), id="again"))
        assert states(await session.list("tasks"))[WORK] == "ok"
        assert scripted.service.calls() == 2


async def test_a_page_token_is_bound_to_the_user(tmp_path: Path) -> None:
    """Another session of the same user accepts a page token; a session of another user refuses it."""
    async with with_data(tmp_path) as fed:
        async with fed.session("ada") as first:
            token = (await first.list("tasks", page_size=1)).next_page_token
        async with fed.session("ada") as again, fed.session("bob") as other:
            assert ids(await again.list("tasks", page_size=1, page_token=token)) == ["own-1"]
            with pytest.raises(InputError, match="page_token"):
                await other.list("tasks", page_token=token)
            with pytest.raises(InputError, match="page_token"):
                await again.list("tasks", page_token=token, source="local")


async def test_closing_a_session_or_federation_ends_its_requests(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Closing fails running requests, cancels the peer's call, and refuses later requests."""
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


async def test_invalid_budgets_are_refused(tmp_path: Path) -> None:
    """A session and a request refuse a budget that is not positive."""
    async with with_data(tmp_path) as fed:
        with pytest.raises(ConfigError, match="peer_budget_s"):
            fed.session("ada", config=SessionConfig(peer_budget_s=-1.0))
        with pytest.raises(InputError, match="user"):
            fed.session("")
        async with fed.session("ada") as session:
            with pytest.raises(InputError, match="budget_s"):
                await session.ask(pb.ListRequest(resource="tasks"), budget_s=0.0)


async def test_values_of_a_wrong_type_name_their_field(tmp_path: Path) -> None:
    """A token that is no text, and an async callback, raise errors that name the field."""

    async def listen(_: PeerSignal) -> None: ...

    async with with_data(tmp_path) as fed, fed.session("ada") as session:
        for token in (7, "\ud800"):
            with pytest.raises(InputError, match="page_token"):
                await session.list("tasks", page_token=token)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="on_signal"):
            fed.session("ada", on_signal=listen)


async def test_a_warm_up_fills_the_cache(tmp_path: Path, scripted: ScriptedPeer, other_scripted: ScriptedPeer) -> None:
    """After `warm` the first list of each resource is a hit; cached lists are not fetched again."""
    records = scripted.record(), other_scripted.record(grant_id="lab")
    async with with_data(tmp_path, *records) as fed, fed.session("ada") as session:
        warmed = await session.warm(["tasks", "notes"])
        assert warmed.count(SourceState.OK) == 4
        for resource in ("tasks", "notes"):
            assert states(await session.list(resource)) == {"local": "ok", LAB: "cached", WORK: "cached"}
        assert (await session.warm(["tasks"])).count(SourceState.CACHED) == 2
        assert scripted.service.calls() == 2


async def test_a_warm_up_limits_its_calls(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A warm-up has at most the configured number of concurrent calls; an offline peer costs one call."""
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


async def test_a_warm_up_ends_with_its_session(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Closing a session cancels its warm-up and the peer's call."""
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


async def test_immediate_answers_need_no_task(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Hits, skipped peers and calls in flight need no task of a session; only the local data have one."""
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


async def test_an_embedded_federation_reads_the_gateways_rows(tmp_path: Path) -> None:
    """`Federation.open` reads the rows of the gateway's directory; page tokens stay valid after it is reopened."""
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


async def test_settings_of_a_session_do_not_change_the_gateways(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """The settings of one session do not affect other sessions."""
    scripted.service.script("search", Reply(delay_s=0.5))
    async with with_data(tmp_path, scripted.record()) as fed:
        async with fed.session("ada", config=QUICK) as quick, fed.session("ada") as patient:
            hasty, whole = await asyncio.gather(quick.search("own"), patient.search("own"))
        assert (states(hasty)[WORK], states(whole)[WORK]) == ("offline", "ok")
        assert replace(quick.config, peer_budget_s=2.0) == patient.config
