"""Two real gateways in one process, over real mutual TLS, from grant to rows and back to refusal."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from federation.admin.errors import error_of
from federation.admin.messages.common import audit_message
from federation.errors import ConflictError, FederationError, NotFoundError, Reason, Refusal
from federation.store.audit.model import AuditFilter
from federation.store.audit.table import AuditStore
from federation.store.database import Database
from federation.v1 import admin_pb2 as pb
from federation.v1 import federation_pb2
from tests.support.gateway_pair import Running, Start, enroll, fill

WORK = "federated:work.example"


async def ask(asked: Running, source: str = WORK, user: str = "ada", **verb: Any) -> pb.QueryResponse:
    """Run a query through the admin socket; raise the package's own error."""
    whole = pb.QueryResponse()
    try:
        async for part in asked.admin.Query(pb.QueryRequest(user=user, source=source, **verb)):
            whole.MergeFrom(part)
    except grpc.aio.AioRpcError as e:
        raise error_of(e) from None
    return whole


def tasks(**more: Any) -> federation_pb2.ListRequest:
    """A list of tasks."""
    return federation_pb2.ListRequest(resource="tasks", **more)


def ids(reply: pb.QueryResponse) -> list[str]:
    """Return the ids of an answer's rows, in its order."""
    return [row.row.id for row in reply.rows]


async def revoke(work: Running, grant: str, reason: str = "") -> pb.RevocationReceipt:
    """Revoke a grant and return the receipt."""
    steps = [step async for step in work.admin.RevokeGrant(pb.RevokeGrantRequest(id=grant, reason=reason))]
    return steps[-1].receipt


async def test_rows_cross_with_their_tags(home: Running, work: Running) -> None:
    """A list at the peer brings its rows, newest first, each tagged with where it came from."""
    await enroll(home, work)

    reply = await ask(home, list=tasks())

    assert ids(reply) == ["task-10", "task-8", "task-6", "task-4", "task-2"]
    assert {(row.source, row.cached) for row in reply.rows} == {(WORK, False)}


async def test_the_second_identical_list_comes_from_memory(home: Running, work: Running) -> None:
    """The same query again is answered from the cache, and says so; the peer is not asked."""
    await enroll(home, work)
    first = await ask(home, list=tasks())

    second = await ask(home, list=tasks())

    assert ids(second) == ids(first)
    assert {row.cached for row in second.rows} == {True}
    status = await home.admin.Status(pb.StatusRequest())
    assert (status.peers[0].cache.hits, status.peers[0].cache.misses) == (1, 1)


async def test_the_scope_narrows_to_its_teams(home: Running, work: Running) -> None:
    """The peer gets only the subject's rows of the named team, though the subject sees more locally."""
    await enroll(home, work)
    at_work = await ask(work, "local", list=tasks())

    crossed = await ask(home, list=tasks())

    assert {row.row.team for row in at_work.rows} == {"T1", "T2", ""}
    assert {row.row.team for row in crossed.rows} == {"T1"}


async def test_the_grant_caps_a_page_and_the_rest_pages(home: Running, work: Running) -> None:
    """However many rows are asked for, a page holds the grant's number, and the token leads to the rest once."""
    await enroll(home, work)

    first = await ask(home, list=tasks(page_size=1_000))
    rest = await ask(home, list=tasks(page_size=1_000, page_token=first.next_page_token))

    assert len(first.rows) == 5
    assert ids(first) + ids(rest) == [f"task-{n}" for n in (10, 8, 6, 4, 2, 0)]
    assert rest.next_page_token == ""


async def test_a_filter_is_applied_at_the_peer(home: Running, work: Running) -> None:
    """Equality on a field of the data works across the wire."""
    await enroll(home, work)

    reply = await ask(home, list=tasks(where={"status": "done"}))

    assert ids(reply) == ["task-6", "task-0"]


async def test_one_row_and_a_search_cross(home: Running, work: Running) -> None:
    """Get and search answer, and a search is never from memory."""
    await enroll(home, work)

    one = await ask(home, get=federation_pb2.GetRequest(resource="tasks", id="task-4"))
    request = federation_pb2.SearchRequest(query="number", resources=["tasks"])
    hits = [await ask(home, search=request) for _ in range(2)]

    assert ids(one) == ["task-4"]
    assert all(row.row.team == "T1" and "[number]" in row.snippet for reply in hits for row in reply.rows)
    assert {row.cached for row in hits[1].rows} == {False}


@pytest.mark.parametrize("row", ["task-1", "task-3", "bobs", "nowhere"])
async def test_rows_outside_are_alike_to_rows_that_do_not_exist(home: Running, work: Running, row: str) -> None:
    """Another team's, a personal, another user's and an absent row are one answer."""
    await enroll(home, work)

    with pytest.raises(Refusal) as caught:
        await ask(home, get=federation_pb2.GetRequest(resource="tasks", id=row))
    assert caught.value.reason is Reason.ROW_NOT_FOUND
    assert "no such row that this grant may read" in caught.value.message


@pytest.mark.parametrize("resource", ["credentials", "memory", "nonsense"])
async def test_a_resource_outside_the_scope_is_denied(home: Running, work: Running, resource: str) -> None:
    """Excluded, unnamed and unknown resources are SCOPE_VIOLATION."""
    await enroll(home, work)

    with pytest.raises(Refusal) as caught:
        await ask(home, list=federation_pb2.ListRequest(resource=resource))
    assert caught.value.reason is Reason.SCOPE_VIOLATION


async def test_capabilities_tell_what_the_grant_opens(home: Running, work: Running) -> None:
    """Capabilities name what the grant opens."""
    await enroll(home, work)

    reply = await ask(home, capabilities=federation_pb2.CapabilitiesRequest())

    assert sorted(reply.capabilities.resources) == ["notes", "tasks"]
    assert (reply.capabilities.max_rows_per_query, reply.capabilities.gateway) == (5, "work.example")


async def test_a_revoked_grant_is_refused_at_the_next_call(home: Running, work: Running) -> None:
    """After the receipt the next call is refused, and the peer's state is revoked."""
    grant = await enroll(home, work)
    await ask(home, list=tasks())

    receipt = await revoke(work, grant, "contract ended")
    with pytest.raises(Refusal) as caught:
        await ask(home, list=tasks(page_size=3))

    assert caught.value.reason is Reason.GRANT_REVOKED
    assert receipt.HasField("revoked_at")
    assert receipt.HasField("effective_at")
    assert [instance.how for instance in receipt.instances] == ["acked"]
    status = await home.admin.Status(pb.StatusRequest())
    assert status.peers[0].state == pb.PEER_STATE_REVOKED


async def test_revoking_twice_gives_the_first_receipt_again(home: Running, work: Running) -> None:
    """Instant and reason of a revocation are final."""
    grant = await enroll(home, work)

    first, second = await revoke(work, grant, "first"), await revoke(work, grant, "second")

    assert first == second


async def test_a_restart_keeps_peers_grants_and_revocations(home: Running, work: Running, start: Start) -> None:
    """After a restart both gateways have their peers and grants."""
    kept = await enroll(home, work)
    revoked = await enroll(home, work, user="bob", subject="bob")
    await revoke(work, revoked)
    port = work.gateway.federation_address.rpartition(":")[2]
    await home.stop()
    await work.stop()
    settings = work.gateway.config.directory / "gateway.toml"
    settings.write_text(settings.read_text().replace('listen = "127.0.0.1:0"', f'listen = "127.0.0.1:{port}"'))

    again_work, again_home = await start("work.example"), await start("home.example")

    assert len(ids(await ask(again_home, list=tasks()))) == 5
    with pytest.raises(Refusal) as caught:
        await ask(again_home, user="bob", list=tasks())
    assert caught.value.reason is Reason.GRANT_REVOKED
    grants = await again_work.admin.ListGrants(pb.ListGrantsRequest())
    assert {grant.id: grant.status for grant in grants.grants} == {
        kept: pb.GRANT_STATUS_ACTIVE,
        revoked: pb.GRANT_STATUS_REVOKED,
    }


async def test_two_users_of_one_gateway_have_their_own_peers(home: Running, work: Running) -> None:
    """Bob cannot use what was enrolled for Ada, and reads as himself once he has his own."""
    await enroll(home, work)
    with pytest.raises(NotFoundError):
        await ask(home, user="bob", list=tasks())

    await enroll(home, work, user="bob", subject="bob", scope={"resources": ["tasks"]})

    assert "bobs" in ids(await ask(home, user="bob", list=tasks()))


async def test_a_gateway_of_another_authority_reaches_no_handler(home: Running, work: Running, start: Start) -> None:
    """A certificate of another gateway's own authority does not get past the handshake: no audit row, no answer."""
    await enroll(home, work)
    stranger = await start("stranger.example")
    await fill(stranger)
    await enroll(home, stranger, user="bob", subject="bob")
    theirs = home.gateway.federation.peers.get("stranger.example", "bob").record
    ours = home.gateway.federation.peers.get("work.example", "ada").record
    credentials = grpc.ssl_channel_credentials(
        ours.trust_bundle.encode(), theirs.key_pem.encode(), theirs.certificate_pem.encode()
    )
    options = [("grpc.ssl_target_name_override", "work.example")]
    before = await _reads(work)

    async with grpc.aio.secure_channel(ours.endpoint, credentials, options=options) as channel:
        method = channel.unary_unary("/federation.v1.FederationService/List")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(b"", timeout=5)

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await _reads(work) == before


async def test_a_used_token_of_another_gateway_is_refused(home: Running, work: Running, start: Start) -> None:
    """A token is refused after its first use."""
    created = await work.admin.CreateGrant(
        pb.CreateGrantRequest(peer=home.name, subject="ada", scope='{"resources": ["tasks"]}')
    )
    token = (await work.admin.CreateEnrollmentToken(pb.CreateEnrollmentTokenRequest(grant_id=created.grant.id))).token
    await home.admin.AddPeer(pb.AddPeerRequest(token=token, user="ada"))
    thief = await start("thief.example")
    await fill(thief)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await thief.admin.AddPeer(pb.AddPeerRequest(token=token, user="ada"))
    assert isinstance(error_of(caught.value), FederationError)
    assert (await thief.admin.ListPeers(pb.ListPeersRequest())).peers == []


async def test_a_grant_that_awaits_confirmation_opens_nothing_before_it(home: Running, work: Running) -> None:
    """With --confirm, calls are refused until the operator has confirmed the fingerprint."""
    created = await work.admin.CreateGrant(
        pb.CreateGrantRequest(peer=home.name, subject="ada", scope='{"resources": ["tasks"]}')
    )
    grant = created.grant.id
    issued = await work.admin.CreateEnrollmentToken(pb.CreateEnrollmentTokenRequest(grant_id=grant, confirm=True))
    added = await home.admin.AddPeer(pb.AddPeerRequest(token=issued.token, user="ada"))
    with pytest.raises(Refusal) as caught:
        await ask(home, list=tasks())

    confirmation = pb.ConfirmGrantRequest(id=grant, fingerprint=added.peer.certificate.fingerprint)
    confirmed = await work.admin.ConfirmGrant(confirmation)

    assert added.awaiting_confirmation
    assert caught.value.reason is Reason.GRANT_INVALID
    assert confirmed.grant.status == pb.GRANT_STATUS_ACTIVE
    assert await ask(home, list=tasks())


async def test_a_peer_that_is_away_is_told_and_then_rests(home: Running, work: Running) -> None:
    """Five failures open the circuit: then a call costs nothing, the status says offline, and reset closes it."""
    await enroll(home, work)
    await work.stop()

    reasons = []
    for page_size in range(1, 8):
        with pytest.raises(Refusal) as caught:
            await ask(home, list=tasks(page_size=page_size))
        reasons.append(caught.value.reason)
    offline = (await home.admin.Status(pb.StatusRequest())).peers[0]
    reset = await home.admin.ResetCircuit(pb.ResetCircuitRequest(name="work.example"))

    assert reasons == [Reason.PEER_UNREACHABLE] * 5 + [Reason.CIRCUIT_OPEN] * 2
    assert (offline.state, offline.circuit.state) == (pb.PEER_STATE_OFFLINE, pb.CIRCUIT_STATE_OPEN)
    assert offline.last_failure.reason == "PEER_UNREACHABLE"
    assert reset.peer.circuit.state == pb.CIRCUIT_STATE_CLOSED


async def test_a_reset_dials_again_though_the_circuit_never_opened(home: Running, work: Running) -> None:
    """A reset drops the failed connection, so that the next call dials without gRPC's backoff."""
    await enroll(home, work)
    await work.stop()
    with pytest.raises(Refusal):
        await ask(home, list=tasks())
    channel, loop = home.gateway.federation.peer("work.example").channel, asyncio.get_running_loop()
    assert channel.current(loop) is not None

    await home.admin.ResetCircuit(pb.ResetCircuitRequest(name="work.example"))

    assert channel.current(loop) is None


async def test_what_crossed_is_on_record_at_the_peer(home: Running, work: Running) -> None:
    """The peer's audit holds reads, refusals and the operator's acts, with the caller of each, without any row."""
    grant = await enroll(home, work)
    await ask(home, list=tasks())
    with pytest.raises(Refusal):
        await ask(home, list=federation_pb2.ListRequest(resource="memory"))
    await work.stop()

    events = [event async for event in _audit(work)]

    seen = {(event.verb, event.outcome, event.resource) for event in events if event.grant_id == grant}
    assert {
        ("grant.create", "ok", ""),
        ("grant.token", "ok", ""),
        ("enroll", "ok", ""),
        ("list", "ok", "tasks"),
        ("list", "denied", "memory"),
    } <= seen
    assert "task number" not in str(events)


async def test_a_removed_peer_is_gone_for_good(home: Running, work: Running) -> None:
    """Neither calls nor the list know it, and the same grant cannot be enrolled with the old token."""
    await enroll(home, work)

    await home.admin.RemovePeer(pb.RemovePeerRequest(name="work.example"))

    with pytest.raises(NotFoundError):
        await ask(home, list=tasks())
    assert (await home.admin.ListPeers(pb.ListPeersRequest())).peers == []


async def test_all_sources_come_in_one_order(home: Running, work: Running) -> None:
    """Own rows and a peer's stand in one order, each with its source; the summary names every source."""
    await enroll(home, work)

    reply = await ask(home, "all", list=tasks(page_size=3))

    assert [(row.row.id, row.source) for row in reply.rows] == [
        ("task-11", "local"),
        ("task-10", WORK),
        ("task-10", "local"),
    ]
    assert [(report.source, report.state) for report in reply.summary.sources] == [("local", "ok"), (WORK, "ok")]
    assert not reply.summary.partial


async def test_a_local_query_sees_what_its_user_sees(home: Running) -> None:
    """Local rows need no grant; another user's rows are hidden."""
    ada, bob = await ask(home, "local", list=tasks()), await ask(home, "local", user="bob", list=tasks())

    assert len(ada.rows) == 12
    assert "bobs" in ids(bob)
    assert "bobs" not in ids(ada)
    assert {row.source for row in ada.rows} == {"local"}


async def test_a_grant_for_an_unknown_user_is_not_made(work: Running) -> None:
    """A typing error is found before a grant exists, with the name that was meant."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await work.admin.CreateGrant(
            pb.CreateGrantRequest(peer="home.example", subject="adda", scope='{"resources": ["tasks"]}')
        )
    assert str(error_of(caught.value)) == "no user 'adda'; did you mean ada?"
    assert (await work.admin.ListGrants(pb.ListGrantsRequest())).grants == []


async def test_an_enrolled_grant_gets_no_second_token(home: Running, work: Running) -> None:
    """One grant, one peer: a second enrollment needs a second grant."""
    grant = await enroll(home, work)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await work.admin.CreateEnrollmentToken(pb.CreateEnrollmentTokenRequest(grant_id=grant))
    assert isinstance(error_of(caught.value), ConflictError)


async def test_an_unforeseen_fault_shows_an_incident_and_nothing_else(
    work: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The text of an unexpected exception stays in the log."""

    async def breaks(_: str) -> bool:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(work.gateway.provider, "has_user", breaks)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [part async for part in work.admin.Query(pb.QueryRequest(user="ada", source="local", list=tasks()))]

    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in (caught.value.details() or "")
    assert "incident" in (caught.value.details() or "")
    assert "secret detail" in caplog.text


async def _reads(running: Running) -> int:
    return sum(1 for event in [e async for e in _audit(running, live=True)] if event.verb == "list")


async def _audit(running: Running, *, live: bool = False) -> AsyncIterator[pb.AuditEvent]:
    """Yield audit events: of a running gateway as it shows them, of a stopped one from its database."""
    if live:
        for event in (await running.admin.ListAuditEvents(pb.ListAuditEventsRequest(page_size=1_000))).events:
            yield event
        return
    database = await Database.open(running.gateway.config.database_url)
    page = await AuditStore(database).page(AuditFilter(), 1_000)
    await database.close()
    for event in page.events:
        yield audit_message(event)
