"""Four employees on three home gateways read the same work gateway: no employee gets a row of another employee."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import grpc
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from federation.errors import InputError, NotFoundError
from federation.v1 import admin_pb2, federation_pb2
from federation.v1.federation_pb2_grpc import FederationServiceStub
from tests.support.employee_data import ADA, BEN, DAN, WORK, Employee, Record
from tests.support.employee_gateways import CAPABILITIES, EmployeeGateways, open_employee_gateways
from tests.support.pki import Pki, dial
from tests.support.random_queries import (
    PEER_NAMES,
    RANDOM_QUERIES,
    RandomQuery,
    check_answer,
    named_sources,
    request_of,
)

BATCH: Final = 50
AT_ONCE: Final = 10


@dataclass(frozen=True)
class HeldToken:
    """A page token, the query that returned it, and every row before it."""

    ask: RandomQuery
    token: str
    before: tuple[tuple[str, Record], ...]


@dataclass
class QueryRun:
    """A run of random queries, with counts of what happened."""

    gateways: EmployeeGateways
    runner: asyncio.Runner
    counts: Counter[str] = field(default_factory=Counter)


async def run_query(query_run: QueryRun, ask: RandomQuery, held: list[HeldToken]) -> None:
    """Run one query, and check the rows or the error."""
    query_run.counts["asked"] += 1
    page = held[ask.token % len(held)] if ask.token is not None and held and ask.verb in {"list", "search"} else None
    if page is not None and ask.reuse != "nothing":
        who = page.ask.who if ask.reuse == "user" else ask.who
        source = ask.source if ask.reuse == "question" else page.ask.source
        ask = replace(page.ask, who=who, session=ask.session, by_socket=ask.by_socket, size=ask.size, source=source)
    sources = named_sources(ask.who, ask.source)
    asking = query_run.gateways.query(
        ask.who, ask.session, request_of(ask, page.token if page else ""), ask.source, by_socket=ask.by_socket
    )
    if isinstance(sources, type):
        with pytest.raises(sources) as caught:
            await asking
        text = str(caught.value).replace(ask.source.removeprefix("federated:") or "\0", "")
        assert not [name for name in PEER_NAMES - ask.who.peers.keys() if name in text], (ask, text)
        query_run.counts[f"no such {'word' if sources is InputError else 'peer'}"] += 1
    elif page is not None and ask.question != page.ask.question:
        with pytest.raises(InputError, match="page_token"):
            await asking
        query_run.counts["foreign token"] += 1
    else:
        before = page.before if page else ()
        answer = await asking
        check_answer(ask, answer, sources, before)
        if answer.token:
            held.append(HeldToken(ask, answer.token, (*before, *answer.rows)))
        query_run.counts += Counter(
            {
                ask.verb: 1,
                "went on": bool(page),
                "by socket": ask.by_socket,
                "rows": len(answer.rows),
                "cached rows": answer.cached,
                "denied": "SCOPE_VIOLATION" in answer.reasons.values(),
                "not found": "ROW_NOT_FOUND" in answer.reasons.values(),
            }
        )


async def interleave(query_run: QueryRun, asks: list[RandomQuery]) -> None:
    """Run the queries of a batch, ten at a time, in new sessions."""
    await query_run.gateways.open_sessions()
    held: list[HeldToken] = []
    for start in range(0, len(asks), AT_ONCE):
        async with asyncio.TaskGroup() as group:
            for ask in asks[start : start + AT_ONCE]:
                group.create_task(run_query(query_run, ask, held))


@pytest.fixture(scope="module")
def query_run() -> Iterator[QueryRun]:
    """All gateways, running."""
    with open_employee_gateways() as (gateways, runner):
        yield QueryRun(gateways, runner)


def draw(query_run: QueryRun, count: int) -> None:
    """Run `count` random queries in batches."""

    @settings(
        max_examples=count // BATCH,
        phases=(Phase.generate,),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(asks=st.lists(RANDOM_QUERIES, min_size=BATCH, max_size=BATCH))
    def put_batch(asks: list[RandomQuery]) -> None:
        query_run.runner.run(interleave(query_run, asks))

    put_batch()


LEAST: Final = {
    **dict.fromkeys(("list", "get", "search", "capabilities", "went on", "by socket", "denied", "not found"), 0.02),
    **dict.fromkeys(("foreign token", "no such peer", "no such word"), 0.02),
    **dict.fromkeys(("rows", "cached rows"), 0.1),
    "asked": 1.0,
}
"""The least frequency of each count per query, below which the run proves nothing. Usual runs have twice as much."""


@pytest.mark.timeout(300)
@pytest.mark.no_cover  # it takes half as long, and nothing is covered here alone
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_no_employee_gets_a_row_of_another_employee(query_run: QueryRun, count: int) -> None:
    """Random queries in concurrent sessions: each answer has exactly the rows that the employee may see."""
    query_run.counts.clear()
    draw(query_run, count)
    assert not {what: query_run.counts[what] for what, least in LEAST.items() if query_run.counts[what] < count * least}


@pytest.mark.parametrize("by_socket", [False, True])
@pytest.mark.parametrize(("who", "other"), [(ADA, DAN), (DAN, ADA)])
def test_a_peer_of_another_user_is_no_near_match(
    query_run: QueryRun, who: Employee, other: Employee, by_socket: bool
) -> None:
    """An error for a misspelled peer name never suggests a peer of another user of the gateway."""

    async def ask_for(name: str) -> None:
        with pytest.raises(NotFoundError) as caught:
            await query_run.gateways.query(who, 0, CAPABILITIES, f"federated:{name}", by_socket=by_socket)
        assert not [theirs for theirs in secret if theirs in str(caught.value).replace(repr(name), "")]

    async def ask_all() -> None:
        await query_run.gateways.open_sessions()
        for name in secret:
            for index in range(len(name)):
                await ask_for(name[:index] + name[index + 1 :])
            await ask_for(name)

    secret = other.peers.keys() - who.peers.keys()
    assert secret
    query_run.runner.run(ask_all())


@pytest.mark.parametrize("who", [ADA, DAN])
def test_the_status_of_a_user_has_that_users_peers_alone(query_run: QueryRun, who: Employee) -> None:
    """The status of one user lists that user's peers only."""
    home = query_run.gateways.running[who.home]

    async def ask() -> admin_pb2.StatusResponse:
        return await home.admin.Status(admin_pb2.StatusRequest(user=who.user))

    peers = query_run.runner.run(ask()).peers
    assert {(peer.user, peer.name) for peer in peers} == {(who.user, name) for name in who.peers}


def test_a_certificate_opens_no_grant_of_another_subject(query_run: QueryRun) -> None:
    """A signed certificate of a grant reads nothing if it names the subject of another grant."""
    work = query_run.gateways.running[WORK].gateway
    grant_id, authority = query_run.gateways.grants["ben", WORK], work._certificate.authority

    async def ask(subject: str) -> list[str]:
        leaf = Pki.of(authority).client(grant_id, subject)
        await work.grants.add_certificate(grant_id, leaf.issued, activate=False)
        async with dial(work.federation_address, WORK, authority.trust_bundle, leaf) as channel:
            reply = await FederationServiceStub(channel).List(federation_pb2.ListRequest(resource="tasks"))
        return [row.owner for row in reply.rows]

    assert query_run.runner.run(ask(BEN.subject))
    with pytest.raises(grpc.aio.AioRpcError, match="the grant does not allow this call"):
        query_run.runner.run(ask(ADA.subject))
