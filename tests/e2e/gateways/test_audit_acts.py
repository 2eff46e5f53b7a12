"""The audit holds every act and every refusal, at the gateway where it happened, at once."""

import ast
import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

import federation
from federation.admin.errors import error_of
from federation.clock import Clock
from federation.errors import InputError, NotFoundError, Reason, Refusal
from federation.pki.enrollment_token import EnrollmentToken
from federation.server.audit.vocabulary import ACTS, AUDIT_VERBS, READS
from federation.v1 import admin_pb2 as pb
from federation.v1 import federation_pb2
from tests.support.gateway_pair import SCOPE, Running, Start, enroll

PACKAGE = Path(federation.__file__).parent
HOUR_S = 3_600


async def recorded(running: Running, *verbs: str, timeout_s: float = 5.0, **wanted: Any) -> list[pb.AuditEvent]:
    """The newest event of each verb, once all are there."""
    found: dict[str, pb.AuditEvent] = {}
    async with asyncio.timeout(timeout_s):
        while not set(verbs) <= found.keys():
            reply = await running.admin.ListAuditEvents(pb.ListAuditEventsRequest(page_size=1_000, **wanted))
            found = {event.verb: event for event in reversed(reply.events)}
    return [found[verb] for verb in verbs]


async def consumed(stream: Any) -> None:
    """Read a stream of progress to its end."""
    async for _ in stream:
        pass


async def test_each_act_on_a_grant_is_on_record_where_it_was_done(home: Running, work: Running) -> None:
    """The serving gateway records each act from the grant's creation to the receipt, with grant, peer and subject."""
    created = await work.admin.CreateGrant(
        pb.CreateGrantRequest(peer=home.name, subject="ada", scope=json.dumps(SCOPE))
    )
    grant = created.grant.id
    issued = await work.admin.CreateEnrollmentToken(pb.CreateEnrollmentTokenRequest(grant_id=grant, confirm=True))
    added = await home.admin.AddPeer(pb.AddPeerRequest(token=issued.token, user="ada"))
    await work.admin.ConfirmGrant(pb.ConfirmGrantRequest(id=grant, fingerprint=added.peer.certificate.fingerprint))
    await home.admin.RotatePeer(pb.RotatePeerRequest(name=work.name, user="ada"))
    await home.gateway.federation.stub(work.name, "ada").List(federation_pb2.ListRequest(resource="tasks"))
    narrow = json.dumps({**SCOPE, "resources": ["tasks"]})
    await consumed(work.admin.UpdateGrantScope(pb.UpdateGrantScopeRequest(id=grant, scope=narrow)))
    await consumed(work.admin.RevokeGrant(pb.RevokeGrantRequest(id=grant, reason="project over")))

    verbs = ("grant.create", "grant.token", "enroll", "grant.confirm", "renew", "list", "grant.scope", "grant.revoke")
    events = await recorded(work, *verbs, "grant.effective", grant_id=grant)

    assert {(event.grant_id, event.peer, event.subject, event.outcome) for event in events} == {
        (grant, home.name, "ada", "ok")
    }
    assert [event.source for event in events] == [
        "admin", "admin", "127.0.0.1", "admin", "127.0.0.1", "127.0.0.1", "admin", "admin", "gateway",
    ]  # fmt: skip
    assert events[-2].reason == "project over"
    assert {event.verb for event in await recorded(home, "peer.add", "peer.rotate", grant_id=grant)}


async def test_acts_on_peers_users_and_rows_are_on_record(home: Running, work: Running) -> None:
    """The acts of the asking gateway's operator, and the removal of a user."""
    await enroll(home, work)
    await home.admin.ResetCircuit(pb.ResetCircuitRequest(name=work.name, user="ada"))
    await home.admin.RemovePeer(pb.RemovePeerRequest(name=work.name, user="ada"))
    await consumed(work.admin.RemoveUser(pb.RemoveUserRequest(user="ada")))

    events = await recorded(home, "rows.import", "peer.add", "peer.reset", "peer.remove")
    (removed,) = await recorded(work, "user.remove")

    assert {(event.source, event.outcome) for event in (*events, removed)} == {("admin", "ok")}
    assert removed.subject == "ada"


async def test_what_was_refused_before_a_grant_was_known_is_on_record(home: Running, work: Running) -> None:
    """A forged token and a call under a removed grant are recorded with source and reason."""
    created = await work.admin.CreateGrant(
        pb.CreateGrantRequest(peer=home.name, subject="ada", scope=json.dumps(SCOPE))
    )
    grant = created.grant.id
    issued = await work.admin.CreateEnrollmentToken(pb.CreateEnrollmentTokenRequest(grant_id=grant))
    forged = replace(EnrollmentToken.decode(issued.token), secret="A" * 43).encode()
    with pytest.raises(grpc.aio.AioRpcError):
        await home.admin.AddPeer(pb.AddPeerRequest(token=forged, user="bob"))
    await home.admin.AddPeer(pb.AddPeerRequest(token=issued.token, user="ada"))
    work.gateway.grants._grants.pop(grant)
    with pytest.raises(grpc.aio.AioRpcError):
        await home.gateway.federation.stub(work.name, "ada").List(federation_pb2.ListRequest(resource="notes"))

    (enrolled, read) = await recorded(work, "enroll", "list", outcome="denied")
    (failed,) = await recorded(home, "peer.add", outcome="error")

    assert (enrolled.source, read.source) == ("127.0.0.1", "127.0.0.1")
    assert (read.grant_id, read.resource) == ("", "notes")
    assert read.reason.startswith("GRANT_INVALID")
    assert enrolled.reason
    assert failed.subject == "bob"


class Hands:
    """A clock that a test sets ahead."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    @property
    def clock(self) -> Clock:
        """The clock to inject."""
        real = Clock()
        return Clock(real.monotonic, real.elapsed, lambda: real.wall() + self.ahead_s)


async def test_a_renewal_by_itself_is_on_record_at_the_asking_gateway_too(work: Running, start: Start) -> None:
    """A due renewal and a refused one are recorded; a rotation by hand is recorded as the operator's act only."""
    hands = Hands()
    home = await start("home.example", clock=hands.clock)
    await home.admin.ImportRows(iter([pb.ImportRowsRequest(lines=b'{"kind": "user", "id": "ada"}\n')])).read()
    grant = await enroll(home, work)
    await home.admin.RotatePeer(pb.RotatePeerRequest(name=work.name, user="ada"))
    await recorded(home, "peer.rotate")
    assert not (await home.admin.ListAuditEvents(pb.ListAuditEventsRequest(verb="peer.renew"))).events
    await asyncio.sleep(1.1)  # certificates end at whole seconds, and one that brings no time is the last one
    hands.ahead_s = 17.5 * HOUR_S
    (renewed,) = await recorded(home, "peer.renew", timeout_s=15, outcome="ok")

    hands.ahead_s = 0.0

    async def refuse(*_: object, **__: object) -> None:
        raise Refusal(Reason.GRANT_INVALID, "not today")

    work.gateway._parts.renewal_issuer.renew = refuse  # type: ignore[method-assign]
    hands.ahead_s = 22 * HOUR_S
    (failed,) = await recorded(home, "peer.renew", timeout_s=15, outcome="error")

    assert (renewed.grant_id, renewed.peer, renewed.subject, renewed.source) == (grant, work.name, "ada", "gateway")
    assert (failed.grant_id, failed.reason, failed.count) == (grant, "GRANT_INVALID", 1)


async def test_an_act_is_visible_within_a_second(work: Running) -> None:
    """From the answer of the act to the answer that shows it, at the best of three times."""
    loop, delays = asyncio.get_running_loop(), []
    for _ in range(3):
        created = await work.admin.CreateGrant(
            pb.CreateGrantRequest(peer="home.example", subject="ada", scope=json.dumps(SCOPE))
        )
        begun = loop.time()
        await recorded(work, "grant.create", grant_id=created.grant.id)
        delays.append(loop.time() - begun)

    assert min(delays) < 1.0


async def test_a_name_is_unknown_only_where_nothing_bears_it(work: Running) -> None:
    """A filter by a known grant without events is empty; one by an unknown value is an error with a suggestion."""
    created = await work.admin.CreateGrant(
        pb.CreateGrantRequest(peer="home.example", subject="ada", scope=json.dumps(SCOPE))
    )
    grant = created.grant.id
    await recorded(work, "rows.import", "grant.create")

    async def asked(**wanted: Any) -> Exception | int:
        try:
            return len((await work.admin.ListAuditEvents(pb.ListAuditEventsRequest(**wanted))).events)
        except grpc.aio.AioRpcError as e:
            return error_of(e)

    assert await asked(grant_id=grant, verb="peer.add") == 0
    assert await asked(peer="home.example", verb="peer.add", follow=True) == 0
    wrong = await asked(grant_id=grant[:-1] + ("0" if grant[-1] != "0" else "1"))
    assert isinstance(wrong, NotFoundError)
    assert f"did you mean {grant}?" in str(wrong)
    for words in ({"follow": True, "history": True}, {"after_id": 1, "page_token": "x"}, {"page_size": -1}):
        assert isinstance(await asked(**words), InputError)
    assert await asked(after_id=-1, verb="rows.import") == 1
    assert await asked(after_id=10**9) == 0


def _said_verbs() -> Iterator[str]:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            first = node.args[0]
            recorders = {"record_act", "record_grant_act", "record_peer_act", "_record"}
            if node.func.attr in recorders and isinstance(first, ast.Constant):
                yield first.value


def test_every_act_that_is_recorded_has_its_word() -> None:
    """No part of the package records a verb that the filter would call unknown."""
    said = set(_said_verbs())

    assert said <= set(AUDIT_VERBS)
    assert {"grant.create", "peer.add", "peer.renew", "grant.revoke", "watch"} <= said
    assert not set(READS) & set(ACTS)
