"""Sessions over real gateways, and queries through the admin socket."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from federation.admin.errors import error_of
from federation.admin.named_sessions import IDLE_S, NamedSessions
from federation.errors import InputError, NotFoundError, Reason, Refusal
from federation.session.session import Session
from federation.v1 import admin_pb2 as pb
from federation.v1 import federation_pb2
from tests.support.clock import ManualClock
from tests.support.gateway_pair import Running, Start, enroll, fill
from tests.support.sessions import LAB, WORK, ids, own_rows, states, with_data

OPEN = {"resources": ["tasks"], "max_rows_per_query": 70, "rate_limit_per_minute": 1_000_000}
Query = Callable[..., Awaitable[list[pb.QueryResponse]]]


def thousand(gateway: str, count: int = 1_000) -> bytes:
    """Rows of ada whose creation times interleave with those of the other gateways, several per second."""
    lines: list[dict[str, Any]] = [{"kind": "user", "id": "ada"}]
    for number in range(count):
        second = number // 3
        lines.append(
            {
                "kind": "row",
                "resource": "tasks",
                "id": f"{gateway[0]}-{number:04}",
                "owner": "ada",
                "created_at": f"2026-01-01T00:{second // 60:02}:{second % 60:02}Z",
                "data": {"title": "word"},
            }
        )
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


async def three(start: Start, count: int) -> tuple[Running, Running, Running]:
    """A home gateway that reads two other gateways, each with `count` rows of ada."""
    names = ("home.example", "work.example", "lab.example")
    home, work, lab = [await start(name) for name in names]
    for running in (home, work, lab):
        await fill(running, thousand(running.name, count))
    await enroll(home, work, scope=OPEN)
    await enroll(home, lab, scope=OPEN)
    return home, work, lab


def order(row: Any) -> tuple[int, str, str]:
    """The sort key of a merged list."""
    return -row.row.created_at.seconds, row.source, row.id


async def test_paging_returns_every_row_once_in_order(start: Start) -> None:
    """Three gateways of 1,000 rows each, two of which limit their pages: 3,000 rows, each once, newest first."""
    home, _, _ = await three(start, 1_000)
    async with home.gateway.federation.session("ada") as session:
        page = await session.list("tasks", page_size=200)
        rows = list(page.rows)
        while page.next_page_token:
            page = await session.list("tasks", page_size=200, page_token=page.next_page_token)
            assert 0 < len(page.rows) <= 200
            rows += page.rows
            assert not page.partial
    assert rows == sorted(rows, key=order)
    assert len(rows) == len({(row.source, row.id) for row in rows}) == 3_000


async def test_a_peer_that_stops_between_pages_leaves_other_sources_complete(start: Start) -> None:
    """The stopped gateway is reported, and every row of the other sources comes once."""
    home, work, _ = await three(start, 1_000)
    async with home.gateway.federation.session("ada") as session:
        page = await session.list("tasks", page_size=200)
        rows, signals = list(page.rows), list(page.signals)
        while page.next_page_token:
            if len(rows) > 1_400 and work.gateway.federation_address:
                await work.stop()
            page = await session.list("tasks", page_size=200, page_token=page.next_page_token)
            rows += page.rows
            signals += page.signals
        assert page.partial
        assert states(page)[WORK] == "skipped"
    by_source = {source: [row.id for row in rows if row.source == source] for source in ("local", LAB, WORK)}
    assert len(by_source["local"]) == len(set(by_source["local"])) == 1_000
    assert len(by_source[LAB]) == len(set(by_source[LAB])) == 1_000
    assert 0 < len(by_source[WORK]) == len(set(by_source[WORK])) < 1_000
    assert [signal.text for signal in signals] == ["federation offline for work.example"]


@pytest.fixture
def query(home_gateway: Running) -> Query:
    """Query through the home gateway's socket as ada; return every message."""

    async def ask(source: str = "all", **request: Any) -> list[pb.QueryResponse]:
        request.setdefault("user", "ada")
        try:
            return [each async for each in home_gateway.admin.Query(pb.QueryRequest(source=source, **request))]
        except grpc.aio.AioRpcError as e:
            raise error_of(e) from None

    return ask


TASKS = federation_pb2.ListRequest(resource="tasks")


async def test_the_socket_merges_and_ends_with_a_summary(
    query: Query, home_gateway: Running, work_gateway: Running
) -> None:
    """The socket sends the merged rows, then one message with every source's report."""
    await enroll(home_gateway, work_gateway)
    *before, last = await query(list=TASKS)

    rows = [(row.row.id, row.source) for message in before for row in message.rows]
    assert rows[:3] == [("task-11", "local"), ("task-10", WORK), ("task-10", "local")]
    assert [(each.source, each.state, each.rows) for each in last.summary.sources] == [
        ("local", "ok", 12),
        (WORK, "ok", 5),
    ]
    assert not last.rows
    assert not last.source
    assert last.next_page_token
    assert last.latency_ms > 0
    assert not any(message.HasField("summary") for message in before)


async def test_the_socket_streams_each_source(query: Query, home_gateway: Running, work_gateway: Running) -> None:
    """Each streamed message has one source's rows and report; summary and token come last."""
    await enroll(home_gateway, work_gateway)
    *sources, last = await query(list=TASKS, stream=True)

    assert sorted((each.source, each.report.state, len(each.rows)) for each in sources) == [
        (WORK, "ok", 5),
        ("local", "ok", 12),
    ]
    assert all({row.source for row in each.rows} == {each.source} for each in sources)
    assert last.summary.sources
    rest = await query(list=federation_pb2.ListRequest(resource="tasks", page_token=last.next_page_token))
    assert {row.source for message in rest for row in message.rows} == {WORK}


async def test_each_message_has_one_sources_capabilities(
    query: Query, home_gateway: Running, work_gateway: Running
) -> None:
    """Merged or streamed, each source's capabilities are in a separate message with the source's name."""
    await enroll(home_gateway, work_gateway)
    for stream in (False, True):
        *sources, last = await query(capabilities=federation_pb2.CapabilitiesRequest(), stream=stream)
        assert {each.source: each.capabilities.gateway for each in sources} == {
            "local": "home.example",
            WORK: "work.example",
        }
        assert len(last.summary.sources) == 2


async def test_large_answers_are_split(query: Query, home_gateway: Running, work_gateway: Running) -> None:
    """Rows beyond a mebibyte are split into messages, in order; paging returns each row once."""
    await enroll(home_gateway, work_gateway, scope={"resources": ["memory"]})
    for running in (home_gateway, work_gateway):
        for number in range(10):
            line = {"kind": "row", "resource": "memory", "owner": "ada", "id": f"{running.name[0]}{number}"}
            line |= {"created_at": f"2025-01-{20 - number}T00:00:00Z", "data": {"text": "x" * 120_000}}
            await fill(running, json.dumps(line).encode() + b"\n")
    wanted = [f"{gateway}{number}" for number in range(10) for gateway in "wh"]

    for stream in (False, True):
        got, token, pages = [], "", 0
        while pages == 0 or token:
            request = federation_pb2.ListRequest(resource="memory", page_token=token)
            *parts, last = await query(list=request, stream=stream)
            assert all(part.ByteSize() < 1_200_000 for part in parts)
            assert len(parts) >= 2 or pages
            got += [row.row.id for part in parts for row in part.rows]
            token, pages = last.next_page_token, pages + 1
        assert got == wanted if not stream else sorted(got) == sorted(wanted)


async def test_an_offline_peer_does_not_fail_a_query_of_all_sources(
    query: Query, home_gateway: Running, work_gateway: Running
) -> None:
    """`all` returns the other sources and one signal; a query of the peer alone fails with its refusal."""
    await enroll(home_gateway, work_gateway)
    await work_gateway.stop()

    *parts, last = await query(list=TASKS, session="agent")
    assert sum(len(part.rows) for part in parts) == 12
    assert last.summary.partial
    [signal] = last.summary.signals
    assert (signal.kind, signal.text) == ("offline", "federation offline for work.example")
    assert signal.retry_at.seconds > signal.since.seconds
    assert signal.next_step

    _, again = await query(list=TASKS, session="agent")
    assert (again.summary.sources[1].state, len(again.summary.signals)) == ("skipped", 0)
    assert 0 < again.summary.sources[1].retry_after_s <= 33
    _, other = await query(list=TASKS)
    assert len(other.summary.signals) == 1
    for more in ({}, {"session": "agent"}, {"stream": True}):
        with pytest.raises(Refusal) as caught:
            await query(WORK, list=TASKS, **more)
        assert caught.value.reason is Reason.PEER_UNREACHABLE
        assert str(caught.value).startswith(f"{WORK}: ")


async def test_an_absent_row_of_one_source_is_not_found(
    query: Query, home_gateway: Running, work_gateway: Running
) -> None:
    """A query of a single source without the row fails; a query of all sources returns no rows."""
    await enroll(home_gateway, work_gateway)
    row = federation_pb2.GetRequest(resource="tasks", id="nothing")
    for source in ("local", WORK):
        with pytest.raises(Refusal, match="no such row") as caught:
            await query(source, get=row)
        assert caught.value.reason is Reason.ROW_NOT_FOUND
    [last] = await query(get=row)
    assert [each.reason for each in last.summary.sources] == ["ROW_NOT_FOUND"] * 2


async def test_the_socket_names_the_fault_of_a_query(query: Query) -> None:
    """An invalid query fails with the kind of the fault and the field."""
    cases: list[tuple[dict[str, Any], str]] = [
        ({"list": federation_pb2.ListRequest(resource="taks")}, "resource"),
        ({"list": TASKS, "source": "nowhere"}, "source"),
        ({"list": federation_pb2.ListRequest(resource="tasks", page_token="x")}, "page_token"),
        ({"list": TASKS, "session": "a\nb"}, "session"),
        ({}, "verb"),
    ]
    for request, field in cases:
        with pytest.raises(InputError) as caught:
            await query(**request)
        assert caught.value.field == field
    with pytest.raises(NotFoundError, match="user"):
        await query(list=TASKS, user="nobody")


async def test_a_query_sets_the_budget(query: Query, home_gateway: Running, work_gateway: Running) -> None:
    """`budget_ms` limits each peer: one millisecond is too little for a real peer."""
    await enroll(home_gateway, work_gateway)
    *_, hasty = await query(search=federation_pb2.SearchRequest(query="number"), budget_ms=1)
    *_, patient = await query(search=federation_pb2.SearchRequest(query="number"), budget_ms=5_000)
    assert [each.state for each in hasty.summary.sources] == ["ok", "offline"]
    assert [each.state for each in patient.summary.sources] == ["ok", "ok"]


class RecordedSessions:
    """Sessions in the order of their creation."""

    def __init__(self, session: Callable[[str], Session]) -> None:
        self._session = session
        self.sessions: list[Session] = []

    def __call__(self, user: str) -> Session:
        self.sessions.append(self._session(user))
        return self.sessions[-1]

    @property
    def closed(self) -> list[bool]:
        """The names of the closed sessions."""
        return [session._closed for session in self.sessions]


async def test_a_named_session_belongs_to_one_user(tmp_path: Any) -> None:
    """A name is one session per user; a query without a name has a new session."""
    async with with_data(tmp_path, provider=own_rows()) as fed:
        made, clock = RecordedSessions(fed.session), ManualClock()
        named = NamedSessions(made, clock.clock)
        for user, name in (("ada", "x"), ("ada", "x"), ("bob", "x"), ("ada", ""), ("ada", "")):
            async with named.use(user, name) as session:
                assert session.user == user
                assert ids(await session.list("tasks", page_size=1)) == (["own-0"] if user == "ada" else [])
        assert made.closed == [False, False, True, True]
        await named.close()
        assert made.closed == [True] * 4


async def test_the_least_recently_used_session_is_closed(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the least recently used session is closed, at once or after its last query."""
    monkeypatch.setattr("federation.admin.named_sessions.MAX_SESSIONS", 2)
    async with with_data(tmp_path) as fed:
        made, clock = RecordedSessions(fed.session), ManualClock()
        named = NamedSessions(made, clock.clock)
        async with named.use("ada", "a"):
            async with named.use("ada", "b"), named.use("ada", "c"):
                pass
            assert made.closed == [False, False, False]
        assert made.closed == [True, False, False]
        async with named.use("ada", "b"), named.use("ada", "d"):
            pass
        await asyncio.sleep(0)
        await named.close()
        assert made.closed == [True] * 4
        assert len(made.sessions) == 4


async def test_an_idle_session_is_closed(tmp_path: Any) -> None:
    """After an hour without a query a session is closed, but not a session in use; no timer remains."""
    async with with_data(tmp_path) as fed:
        made, clock = RecordedSessions(fed.session), ManualClock()
        named = NamedSessions(made, clock.clock)
        async with named.use("ada", "idle"):
            pass
        async with named.use("ada", "used"):
            clock.advance(IDLE_S + 1)
            named._sweep()
            await asyncio.sleep(0)
            assert made.closed == [True, False]
        clock.advance(IDLE_S + 1)
        named._sweep()
        await asyncio.sleep(0)
        assert made.closed == [True, True]
        assert named._timer is None
        await named.close()
