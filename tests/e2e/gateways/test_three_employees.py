"""Employees with a home gateway each, two of them on one, read the same work gateway: nobody meets another's rows."""

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
from tests.support.employee_gateways import CAPABILITIES, Offices, offices_open
from tests.support.pki import Pki, dial
from tests.support.random_queries import ASKS, NAMES, Ask, check_answer, meant, request_of

BATCH: Final = 50
AT_ONCE: Final = 10


@dataclass(frozen=True)
class Held:
    """A page token, whose it is, and every row that came before it."""

    ask: Ask
    token: str
    before: tuple[tuple[str, Record], ...]


@dataclass
class Trial:
    """What has happened so far: a run in which nothing much happens proves nothing."""

    offices: Offices
    runner: asyncio.Runner
    tally: Counter[str] = field(default_factory=Counter)


async def put(trial: Trial, ask: Ask, held: list[Held]) -> None:
    """Put one query, and check what comes, be it rows or an error."""
    trial.tally["asked"] += 1
    page = held[ask.token % len(held)] if ask.token is not None and held and ask.verb in {"list", "search"} else None
    if page is not None and ask.taken != "nothing":
        who = page.ask.who if ask.taken == "user" else ask.who
        source = ask.source if ask.taken == "question" else page.ask.source
        ask = replace(page.ask, who=who, session=ask.session, by_socket=ask.by_socket, size=ask.size, source=source)
    sources = meant(ask.who, ask.source)
    asking = trial.offices.ask(
        ask.who, ask.session, request_of(ask, page.token if page else ""), ask.source, by_socket=ask.by_socket
    )
    if isinstance(sources, type):
        with pytest.raises(sources) as caught:
            await asking
        text = str(caught.value).replace(ask.source.removeprefix("federated:") or "\0", "")
        assert not [name for name in NAMES - ask.who.peers.keys() if name in text], (ask, text)
        trial.tally[f"no such {'word' if sources is InputError else 'peer'}"] += 1
    elif page is not None and ask.question != page.ask.question:
        with pytest.raises(InputError, match="page_token"):
            await asking
        trial.tally["foreign token"] += 1
    else:
        before = page.before if page else ()
        got = await asking
        check_answer(ask, got, sources, before)
        if got.token:
            held.append(Held(ask, got.token, (*before, *got.rows)))
        trial.tally += Counter(
            {
                ask.verb: 1,
                "went on": bool(page),
                "by socket": ask.by_socket,
                "rows": len(got.rows),
                "cached rows": got.cached,
                "denied": "SCOPE_VIOLATION" in got.told.values(),
                "not found": "ROW_NOT_FOUND" in got.told.values(),
            }
        )


async def interleave(trial: Trial, asks: list[Ask]) -> None:
    """Put the queries of a batch, ten at a time, in sessions that begin and end with it."""
    await trial.offices.open_sessions()
    held: list[Held] = []
    for start in range(0, len(asks), AT_ONCE):
        async with asyncio.TaskGroup() as group:
            for ask in asks[start : start + AT_ONCE]:
                group.create_task(put(trial, ask, held))


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    """The gateways of all, running."""
    with offices_open() as (offices, runner):
        yield Trial(offices, runner)


def draw(trial: Trial, count: int) -> None:
    """Put so many queries, in batches."""

    @settings(
        max_examples=count // BATCH,
        phases=(Phase.generate,),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(asks=st.lists(ASKS, min_size=BATCH, max_size=BATCH))
    def put_batch(asks: list[Ask]) -> None:
        trial.runner.run(interleave(trial, asks))

    put_batch()


LEAST: Final = {
    **dict.fromkeys(("list", "get", "search", "capabilities", "went on", "by socket", "denied", "not found"), 0.02),
    **dict.fromkeys(("foreign token", "no such peer", "no such word"), 0.02),
    **dict.fromkeys(("rows", "cached rows"), 0.1),
    "asked": 1.0,
}
"""For each query put, how often each thing happens at least: less proves nothing. Twice that and more is usual."""


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_nobody_ever_gets_a_row_of_somebody_else(trial: Trial, count: int) -> None:
    """Random queries in sessions side by side: each answer is exactly what data and scopes allow its person."""
    trial.tally.clear()
    draw(trial, count)
    assert not {what: trial.tally[what] for what, least in LEAST.items() if trial.tally[what] < count * least}


@pytest.mark.parametrize("by_socket", [False, True])
@pytest.mark.parametrize(("who", "other"), [(ADA, DAN), (DAN, ADA)])
def test_a_peer_of_another_user_is_no_near_match(trial: Trial, who: Employee, other: Employee, by_socket: bool) -> None:
    """However nearly somebody spells a peer of another user of the gateway, the error tells nothing of it."""

    async def ask_for(name: str) -> None:
        with pytest.raises(NotFoundError) as caught:
            await trial.offices.ask(who, 0, CAPABILITIES, f"federated:{name}", by_socket=by_socket)
        assert not [theirs for theirs in secret if theirs in str(caught.value).replace(repr(name), "")]

    async def ask_all() -> None:
        await trial.offices.open_sessions()
        for name in secret:
            for index in range(len(name)):
                await ask_for(name[:index] + name[index + 1 :])
            await ask_for(name)

    secret = other.peers.keys() - who.peers.keys()
    assert secret
    trial.runner.run(ask_all())


@pytest.mark.parametrize("who", [ADA, DAN])
def test_the_status_of_a_user_has_that_users_peers_alone(trial: Trial, who: Employee) -> None:
    """Asked for one user, a gateway tells of that user's peers, and of nobody else's."""
    home = trial.offices.running[who.home]

    async def ask() -> admin_pb2.StatusResponse:
        return await home.admin.Status(admin_pb2.StatusRequest(user=who.user))

    peers = trial.runner.run(ask()).peers
    assert {(peer.user, peer.name) for peer in peers} == {(who.user, name) for name in who.peers}


def test_a_certificate_opens_no_grant_of_another_subject(trial: Trial) -> None:
    """Signed, known to the grant and naming it, a certificate still gets nothing for a subject of another grant."""
    work = trial.offices.running[WORK].gateway
    grant_id, authority = trial.offices.grants["ben", WORK], work._certificate.authority

    async def ask(subject: str) -> list[str]:
        leaf = Pki.of(authority).client(grant_id, subject)
        await work.grants.add_certificate(grant_id, leaf.issued, activate=False)
        async with dial(work.federation_address, WORK, authority.trust_bundle, leaf) as channel:
            reply = await FederationServiceStub(channel).List(federation_pb2.ListRequest(resource="tasks"))
        return [row.owner for row in reply.rows]

    assert trial.runner.run(ask(BEN.subject))
    with pytest.raises(grpc.aio.AioRpcError, match="the grant does not allow this call"):
        trial.runner.run(ask(ADA.subject))
