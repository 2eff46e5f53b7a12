import asyncio
import logging
import socket
from dataclasses import replace
from typing import Any

import grpc
import pytest
from cryptography import x509
from sqlalchemy import select

from federation.clock import SYSTEM_CLOCK
from federation.enrollment.servicer import EnrollmentServicer
from federation.errors import ConflictError, EnrollmentError, InputError, Reason, StoreError
from federation.pki.enrollment_token import EnrollmentToken
from federation.pki.identity_extensions import read_identity
from federation.store import schema
from federation.store.database import Database
from federation.store.grants.model import GrantStatus
from federation.store.peers import PeerStore
from federation.v1 import enrollment_pb2 as pb
from federation.v1.enrollment_pb2_grpc import EnrollmentServiceServicer, EnrollmentServiceStub
from federation.wire.status import error_detail_of
from tests.support.enrollments import FEDERATION_ENDPOINT, SEALER, WORK, EnrollingGateway, IssuingGateway, csr
from tests.support.pki import PEER, Pki, dial, new_key


class LosingAnswers(EnrollmentServicer):
    """Enrolls, and then loses the answer the first `lost` times."""

    lost = 1

    async def Enroll(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name in the contract
        answer = await super().Enroll(request, context)
        if self.lost:
            self.lost -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        return answer


async def failing(home: EnrollingGateway, token: EnrollmentToken, address: str, **options) -> str:
    """Return the error of an enrollment that must fail; no peer is stored."""
    known = await home.peers.all()
    with pytest.raises(EnrollmentError) as caught:
        await home.enroll(token, address, **options)
    assert await home.peers.all() == known
    return str(caught.value)


async def test_an_enrollment_ends_with_a_peer_and_an_active_grant(work: IssuingGateway, home: EnrollingGateway) -> None:
    """Both sides hold the same certificate, and both operators see the same fingerprint."""
    token = await work.token()
    async with work.serving() as address:
        enrolled = await home.enroll(EnrollmentToken.decode(token.encode()), address, name="work")
    grant = work.grants.get(token.grant_id)
    record = enrolled.record

    assert (grant.status, grant.newest.fingerprint) == (GrantStatus.ACTIVE, enrolled.fingerprint)
    assert (record.name, record.user, record.gateway, record.subject) == ("work", "bea", WORK, "ada")
    assert (record.endpoint, record.grant_id) == (FEDERATION_ENDPOINT, grant.id)
    assert (record.certificate_pem, record.trust_bundle) == (grant.newest.pem, work.issuer.authority.trust_bundle)
    assert await home.peers.all() == (record,)
    assert not enrolled.awaiting_confirmation
    assert read_identity(x509.load_pem_x509_certificate(record.certificate_pem.encode())) == (grant.id, "ada")


async def test_an_enrollment_is_audited_before_its_answer_leaves(work: IssuingGateway, home: EnrollingGateway) -> None:
    """One event an attempt: outcome, the finer reason, the grant where it is known, and the caller's address."""
    token = await work.token()
    async with work.serving() as address:
        await failing(home, replace(token, secret="A" * 43), address)
        await home.enroll(token, address)
        await failing(home, await work.token(), address, user="cy", gateway_name="x")

    assert [(event.verb, event.outcome, event.reason) for event in work.events] == [
        ("enroll", "denied", "unknown token"),
        ("enroll", "ok", ""),
        ("enroll", "invalid", "csr: its common name is not the gateway for which this grant was created"),
    ]
    assert [event.grant_id for event in work.events][:2] == ["", token.grant_id]
    assert (work.events[1].peer, work.events[1].subject) == (PEER, "ada")
    assert work.events[1].source.startswith("ipv4:127.0.0.1:")


async def test_an_audit_that_refuses_holds_the_answer_back(work: IssuingGateway, home: EnrollingGateway) -> None:
    """An enrollment that cannot be audited is not answered; the same token still works afterwards."""
    token = await work.token()

    async def refuse(_event) -> None:
        raise StoreError("queue full at line 42")

    servicer = EnrollmentServicer(work.issuer, work.renewal_issuer, endpoint=lambda: FEDERATION_ENDPOINT, audit=refuse)
    async with work.serving(servicer) as address:
        told = await failing(home, token, address)
    async with work.serving() as address:
        assert await home.enroll(token, address)

    assert "internal error; incident" in told
    assert "queue full" not in told


async def test_a_retry_after_a_lost_answer_uses_the_same_key(work: IssuingGateway, home: EnrollingGateway) -> None:
    """The second attempt, after a restart of both gateways, ends with the certificate that was lost."""
    token = await work.token()
    servicer = LosingAnswers(work.issuer, work.renewal_issuer, endpoint=lambda: FEDERATION_ENDPOINT, audit=work.record)
    async with work.serving(servicer) as address:
        told = await failing(home, token, address)
    lost = work.grants.get(token.grant_id).newest
    assert "then repeat the enrollment with this token, which is still valid" in told

    restarted = await IssuingGateway.open(work.database, work.issuer.authority)
    async with restarted.serving() as address:
        enrolled = await EnrollingGateway(PeerStore(work.database, SEALER)).enroll(token, address)
    assert enrolled.record.certificate_pem == lost.pem
    assert [event.reason for event in restarted.events] == ["same certificate again"]


async def test_a_key_without_an_answer_is_used_again(work: IssuingGateway, home: EnrollingGateway) -> None:
    """The key is durable before the request leaves, so that a second attempt sends the same one."""
    token = await work.token()
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        told = await failing(home, token, f"127.0.0.1:{bound.getsockname()[1]}")
    assert "cannot be reached" in told
    async with home.peers._database.read() as connection:
        kept = (await connection.execute(select(schema.pending_enrollments))).one()
    key_pem = SEALER.open(kept.key_sealed, f"key of enrollment {kept.secret_hash}").decode()
    async with work.serving() as address:
        enrolled = await home.enroll(token, address)

    assert enrolled.record.key_pem == key_pem
    async with home.peers._database.read() as connection:
        assert (await connection.execute(select(schema.pending_enrollments))).all() == []


async def test_a_silent_server_ends_in_time(work: IssuingGateway, home: EnrollingGateway) -> None:
    """A server that accepts and never answers costs the timeout and no more."""
    token = await work.token()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        told = await failing(home, token, f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.2)

    assert "no answer in time" in told


async def test_a_second_gateway_with_the_same_token_is_refused(
    work: IssuingGateway, home: EnrollingGateway, caplog: pytest.LogCaptureFixture
) -> None:
    """Another key gets nothing; the attempt is audited under the grant, logged, and the error names the remedy."""
    token = await work.token()
    thief = EnrollingGateway(home.peers)
    async with work.serving() as address:
        await home.enroll(token, address)
        await home.peers.remove((await home.peers.all())[0].id)
        with caplog.at_level(logging.WARNING):
            told = await failing(thief, token, address)

    assert told == (
        f"enrolling at work.example ({address}): refused: this enrollment token was used already, with another key; if "
        "you did not use it, the token has leaked: ask the operator of work.example to revoke the grant"
    )
    last = work.events[-1]
    assert (last.outcome, last.reason, last.grant_id) == ("denied", "token used by another key", token.grant_id)
    assert f"grant {token.grant_id} refused: token used by another key" in caplog.text


async def test_a_refused_enrollment_forgets_its_key(work: IssuingGateway, home: EnrollingGateway) -> None:
    """After a refusal that is final nothing of the attempt stays."""
    token = await work.token()
    await work.grants.revoke(token.grant_id)
    async with work.serving() as address:
        told = await failing(home, token, address)

    assert "the grant of this enrollment token is revoked or expired; ask for a new grant" in told
    async with home.peers._database.read() as connection:
        assert (await connection.execute(select(schema.pending_enrollments))).all() == []


async def test_a_known_grant_or_name_is_refused_before_the_token_is_spent(
    work: IssuingGateway, home: EnrollingGateway
) -> None:
    """No request leaves for a grant, or a name of this user, that is there already."""
    first, second = await work.token(), await work.token()
    async with work.serving() as address:
        await home.enroll(first, address)
        before = len(work.events)
        with pytest.raises(ConflictError, match="is already enrolled here"):
            await home.enroll(first, address, name="again")
        with pytest.raises(ConflictError, match=r"bea already has a peer named work\.example"):
            await home.enroll(second, address)
        with pytest.raises(InputError, match=r"^name: "):
            await home.enroll(second, address, name="a b")
        with pytest.raises(InputError, match=r"^user: "):
            await home.enroll(second, address, user="")
        assert len(work.events) == before
        assert await home.enroll(second, address, user="cy")


async def test_a_token_for_another_gateway_says_which_name_was_sent(
    work: IssuingGateway, home: EnrollingGateway
) -> None:
    """The error names this gateway, not the grant's peer; the right gateway can still use the token."""
    token = await work.token()
    async with work.serving() as address:
        told = await failing(home, token, address, gateway_name="other.example")
        assert await home.enroll(token, address)

    assert "this gateway's name is other.example, and the grant must be for this name" in told
    assert PEER not in told


async def test_confirmation_is_said_to_the_enrolling_side(work: IssuingGateway, home: EnrollingGateway) -> None:
    """A pending grant is reported, and confirming the shown fingerprint activates it."""
    token = await work.token(confirm=True)
    async with work.serving() as address:
        enrolled = await home.enroll(token, address)

    assert enrolled.awaiting_confirmation
    assert work.grants.get(token.grant_id).status is GrantStatus.PENDING
    assert (await work.grants.confirm(token.grant_id, enrolled.fingerprint)).status is GrantStatus.ACTIVE


async def test_only_the_tokens_authority_is_dialled(work: IssuingGateway, home: EnrollingGateway) -> None:
    """A server of another authority, or of the right one under another name, never sees the secret."""
    token = await work.token()
    foreign = Pki().server(WORK, "127.0.0.1")
    misnamed = Pki.of(work.issuer.authority).server("mail.example", "127.0.0.1")
    told = []
    for leaf in (foreign, misnamed):
        async with work.serving(leaf=leaf) as address:
            told.append(await failing(home, token, address))

    assert "not issued by the authority in the token" in told[0]
    assert "certificate of another gateway" in told[1]
    assert work.events == []
    async with work.serving() as address:
        assert await home.enroll(token, address)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"gateway": "evil.example"}, "comes from the gateway"),
        ({"subject": "eve"}, "another grant or subject"),
        ({"endpoint": "x"}, "is not host:port"),
        ({"certificate": Pki().client().certificate_pem}, "another key"),
        ({"trust_bundle": Pki().trust_bundle}, "lacks the authority"),
        ({"certificate": ""}, "cannot be read"),
    ],
)
async def test_a_forged_answer_is_refused(
    work: IssuingGateway, home: EnrollingGateway, changes: dict, complaint: str
) -> None:
    """The right server with a wrong answer: nothing is stored, and the error says what did not hold and whom to ask."""
    token = await work.token()

    class Forging(EnrollmentServicer):
        async def Enroll(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name in the contract
            answer = await super().Enroll(request, context)
            for name, value in changes.items():
                setattr(answer, name, value)
            return answer

    servicer = Forging(work.issuer, work.renewal_issuer, endpoint=lambda: "a:1", audit=work.record)
    async with work.serving(servicer) as address:
        told = await failing(home, token, address)

    assert complaint in told
    assert f"enrolling at work.example ({address}): its answer was refused" in told
    assert "ask the operator of work.example" in told


async def test_words_of_a_peer_cannot_steer_a_terminal(work: IssuingGateway, home: EnrollingGateway) -> None:
    """Control characters in a refusal are not shown, and a long one is cut."""

    class Shouting(EnrollmentServiceServicer):
        async def Enroll(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name in the contract
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "\x1b[2J\r\n" + "x" * 2_000)

    async with work.serving(Shouting()) as address:
        told = await failing(home, await work.token(), address)

    assert told.isprintable()
    assert len(told) < 600
    assert "FAILED_PRECONDITION" in told


async def test_an_expired_token_is_reported_as_expired(work: IssuingGateway, home: EnrollingGateway) -> None:
    """The holder of the real secret learns that the token ended."""
    slow = replace(SYSTEM_CLOCK, wall=lambda: SYSTEM_CLOCK.wall() - 3_600)
    past = await IssuingGateway.open(work.database, work.issuer.authority, slow)
    token = await past.token()
    late = await IssuingGateway.open(work.database, work.issuer.authority)
    async with late.serving() as address:
        told = await failing(home, token, address)

    assert "this enrollment token expired at" in told
    assert (late.events[-1].reason, late.events[-1].grant_id) == ("token expired", token.grant_id)


async def test_statuses_on_the_wire_are_the_contracts(work: IssuingGateway) -> None:
    """Code and reason of each kind of refusal; garbage on the wire is an invalid request, rotation is not there yet."""
    token = await work.token()
    authority = work.issuer.authority
    cases = [
        (pb.EnrollRequest(secret="A" * 43, csr=csr()), grpc.StatusCode.PERMISSION_DENIED, Reason.GRANT_INVALID),
        (pb.EnrollRequest(), grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_REQUEST),
        (pb.EnrollRequest(secret=token.secret, csr=b"x"), grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_REQUEST),
    ]
    async with work.serving() as address, dial(address, WORK, authority.trust_bundle) as channel:
        stub = EnrollmentServiceStub(channel)
        for request, code, reason in cases:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Enroll(request)
            assert (caught.value.code(), error_detail_of(caught.value).reason) == (code, reason)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/federation.v1.EnrollmentService/Enroll")(b"\xff\xff\xff")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Renew(pb.RenewRequest())
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_one_token_used_by_two_gateways_at_once_enrolls_one(database: Database, work: IssuingGateway) -> None:
    """Over the wire, too, exactly one of two keys wins."""
    token = await work.token()
    request = [pb.EnrollRequest(secret=token.secret, csr=csr(new_key())) for _ in range(6)]
    async with work.serving() as address, dial(address, WORK, work.issuer.authority.trust_bundle) as channel:
        stub = EnrollmentServiceStub(channel)
        answers = await asyncio.gather(*(stub.Enroll(r) for r in request), return_exceptions=True)

    assert sorted(type(answer).__name__ for answer in answers) == ["AioRpcError"] * 5 + ["EnrollResponse"]
    async with database.read() as connection:
        assert len((await connection.execute(select(schema.certificates))).all()) == 1
