"""Renewal over mutual TLS: what the issuing gateway checks, and what a lost answer costs."""

import asyncio
from dataclasses import replace

import grpc
import pytest
from sqlalchemy import select

from federation.clock import MICROSECONDS
from federation.enrollment.renew import renew
from federation.errors import (
    ENROLL_AGAIN,
    Action,
    ConflictError,
    EnrollmentError,
    FederationError,
    Reason,
    Refusal,
    Remedy,
)
from federation.pki.authority import Authority
from federation.store import schema
from federation.store.grants.model import GrantStatus
from federation.store.grants.registry import GrantRegistry
from federation.store.peers import PeerStore
from federation.v1 import enrollment_pb2 as pb
from federation.v1.enrollment_pb2_grpc import EnrollmentServiceStub
from federation.wire.status import error_detail_of
from tests.support.enrollments import SEALER, WORK, csr
from tests.support.pki import PEER, Pki, dial
from tests.support.renewal_pair import LIFE_S, RenewalPair

TEN_MINUTES_US = 600 * MICROSECONDS


async def refused(call) -> tuple[str, str]:
    """Reason and text of a refusal on the wire."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_detail_of(caught.value).reason, caught.value.details() or ""


async def certificates(renewing: RenewalPair) -> int:
    """The number of certificates in the database."""
    async with renewing.work.database.read() as connection:
        return len((await connection.execute(select(schema.certificates.c.serial))).all())


async def test_a_renewal_ends_with_a_new_key_and_both_certificates_accepted(renewing: RenewalPair) -> None:
    """The record changes certificate and key, and nothing else; the store holds the same; it is on record."""
    old = renewing.record
    async with renewing.work.serving_renewals() as address:
        new = await renewing.renew(federation=address)

    assert new.certificate_pem != old.certificate_pem
    assert new.key_pem != old.key_pem
    kept = {"certificate_pem": new.certificate_pem, "key_pem": new.key_pem}
    assert await renewing.peers.all() == (replace(old, **kept),)
    assert [record.is_accepted(renewing.work.clock.now_us()) for record in renewing.grant.certificates.values()] == [
        True,
        True,
    ]
    assert renewing.grant.newest.pem == new.certificate_pem
    events = [(event.verb, event.outcome, event.reason, event.grant_id) for event in renewing.work.events]
    assert events == [("renew", "ok", "", old.grant_id)]


async def test_the_old_serial_ends_ten_minutes_after_the_first_call_with_the_new(renewing: RenewalPair) -> None:
    """Later calls do not move that instant, calls with the old one do not bring it, and a restart keeps it."""
    registry, old = renewing.work.grants, renewing.leaf.serial
    async with renewing.work.serving_renewals() as address:
        await renewing.renew(federation=address)
    new, end = renewing.leaf.serial, renewing.grant.certificates[old].not_after_us
    registry.record_use(renewing.grant.id, old)
    assert renewing.grant.certificates[old].accepted_until_us == end

    first = renewing.work.clock.now_us()
    registry.record_use(renewing.grant.id, new)
    renewing.hands.advance(300)
    registry.record_use(renewing.grant.id, new)
    await registry.flush_uses()

    assert renewing.grant.certificates[old].accepted_until_us == first + TEN_MINUTES_US
    assert renewing.grant.certificates[new].accepted_until_us == renewing.grant.certificates[new].not_after_us
    again = await GrantRegistry.load(renewing.work.database, renewing.work.clock)
    assert again.get(renewing.grant.id).certificates[old].accepted_until_us == first + TEN_MINUTES_US


async def test_an_old_serial_near_its_end_is_not_prolonged(renewing: RenewalPair) -> None:
    """`not_after` stays where it comes sooner than the ten minutes."""
    old = renewing.leaf.serial
    async with renewing.work.serving_renewals() as address:
        await renewing.renew(federation=address)
    end = renewing.grant.certificates[old].not_after_us
    renewing.hands.advance(LIFE_S - 60)

    renewing.work.grants.record_use(renewing.grant.id, renewing.leaf.serial)

    assert renewing.grant.certificates[old].accepted_until_us == end


async def test_a_retired_serial_cannot_renew(renewing: RenewalPair) -> None:
    """Ten minutes after its successor came into use, the old certificate opens nothing, renewals included."""
    old = renewing.leaf
    async with renewing.work.serving_renewals() as address:
        await renewing.renew(federation=address)
        renewing.work.grants.record_use(renewing.grant.id, renewing.leaf.serial)
        renewing.hands.advance(601)
        reason, _ = await refused(renewing.ask(address, pb.RenewRequest(csr=csr()), old))

    assert reason == Reason.GRANT_INVALID
    assert renewing.work.events[-1].reason == "retired serial"


async def test_the_same_request_brings_the_same_certificate(renewing: RenewalPair) -> None:
    """One request, however often it arrives and also at once, makes one certificate."""
    request = pb.RenewRequest(csr=csr())
    async with renewing.work.serving_renewals() as address:
        answers = await asyncio.gather(*(renewing.ask(address, request, renewing.leaf) for _ in range(5)))
        answers.append(await renewing.ask(address, request, renewing.leaf))

    assert len({answer.certificate for answer in answers}) == 1
    assert await certificates(renewing) == 2
    assert [event.reason for event in renewing.work.events].count("same certificate again") == 5


async def test_a_lost_answer_loses_nothing(renewing: RenewalPair) -> None:
    """After a crash of both sides the retry uses the stored key, and gets the lost certificate."""
    answered = renewing.work.renewal_issuer.renew

    async def lost(*args):
        await answered(*args)
        raise Refusal(Reason.INTERNAL, "lost on the way")

    renewing.work.renewal_issuer.renew = lost
    old = renewing.record
    async with renewing.work.serving_renewals() as address:
        with pytest.raises(Refusal, match="lost on the way"):
            await renewing.renew(federation=address)
    assert await renewing.peers.all() == (old,)

    renewing.peers = PeerStore(renewing.work.database, SEALER)
    renewing.work.renewal_issuer.renew = answered
    async with renewing.work.serving_renewals() as address:
        new = await renewing.renew(federation=address)

    assert new.certificate_pem == renewing.grant.newest.pem
    assert await certificates(renewing) == 2


async def test_no_key_of_a_renewal_lies_open_and_the_old_one_is_gone(renewing: RenewalPair) -> None:
    """The new key is stored, sealed, before its use; afterwards neither it nor the old one is stored twice."""
    old, peers = renewing.record, schema.peers
    with pytest.raises(Refusal) as caught:
        await renewing.renew()
    async with renewing.work.database.read() as connection:
        before = (await connection.execute(select(peers))).one()
    async with renewing.work.serving_renewals() as address:
        new = await renewing.renew(federation=address)
    async with renewing.work.database.read() as connection:
        after = (await connection.execute(select(peers))).one()

    assert caught.value.reason is Reason.PEER_UNREACHABLE
    assert b"PRIVATE" not in before.pending_key_sealed
    assert before.pending_csr
    assert after.key_sealed not in {before.key_sealed, before.pending_key_sealed}
    assert (after.pending_key_sealed, after.pending_csr) == (None, None)
    assert after.version > before.version
    assert new.key_pem != old.key_pem


async def test_a_revoked_grant_is_reported_as_revoked(renewing: RenewalPair) -> None:
    """The holder's renewal is refused with GRANT_REVOKED, and nothing is issued."""
    await renewing.work.grants.revoke(renewing.grant.id, "over")
    async with renewing.work.serving_renewals() as address:
        with pytest.raises(Refusal) as caught:
            await renewing.renew(federation=address)

    assert caught.value.reason is Reason.GRANT_REVOKED
    assert renewing.work.events[-1].reason == "grant revoked"
    assert await certificates(renewing) == 1


async def test_a_grant_revoked_while_a_certificate_is_made_brings_none(renewing: RenewalPair) -> None:
    """Neither the answer nor the store holds a certificate that came too late."""
    authority, registry, grant_id = renewing.work.renewal_issuer.authority, renewing.work.grants, renewing.grant.id

    class Revoking:
        def issue_client(self, *args, **options):
            renewing.work.grants._grants[grant_id] = replace(registry.get(grant_id), status=GrantStatus.REVOKED)
            return authority.issue_client(*args, **options)

    renewing.work.renewal_issuer.authority = Revoking()
    async with renewing.work.serving_renewals() as address:
        reason, _ = await refused(renewing.ask(address, pb.RenewRequest(csr=csr()), renewing.leaf))

    assert reason == Reason.GRANT_REVOKED
    assert await certificates(renewing) == 1


async def test_faults_of_a_request_are_named(renewing: RenewalPair) -> None:
    """A request for another name, for the key in use, without a valid CSR, or with a proof, is invalid."""
    async with renewing.work.serving_renewals() as address:
        for request, message in (
            (pb.RenewRequest(csr=csr(name="thief.example")), "common name"),
            (pb.RenewRequest(csr=csr(renewing.key)), "generate a new key"),
            (pb.RenewRequest(csr=b"\x30\x00"), "PKCS #10"),
            (pb.RenewRequest(), "PKCS #10"),
            (pb.RenewRequest(csr=b"x" * 5_000), "larger"),
            (renewing.proved(), "must be absent on the federation address"),
        ):
            reason, text = await refused(renewing.ask(address, request, renewing.leaf))
            assert (reason, message in text) == (Reason.INVALID_REQUEST, True), text

    assert await certificates(renewing) == 1
    assert {event.outcome for event in renewing.work.events} == {"invalid"}


async def test_only_certificates_of_the_grant_renew(renewing: RenewalPair) -> None:
    """A certificate of the authority that the grant does not know is refused."""
    pki = Pki.of(renewing.work.issuer.authority)
    async with renewing.work.serving_renewals() as address:
        for leaf, expected in (
            (pki.client(renewing.grant.id, "ada"), Reason.GRANT_INVALID),
            (pki.client(renewing.grant.id, "eve"), Reason.GRANT_INVALID),
            (pki.client("99999999-2222-4333-8444-555555555555", "ada"), Reason.GRANT_INVALID),
            (pki.bad_client("no extensions"), Reason.CERTIFICATE_INVALID),
        ):
            reason, _ = await refused(renewing.ask(address, pb.RenewRequest(csr=csr()), leaf))
            assert reason == expected

    assert await certificates(renewing) == 1


async def test_the_federation_port_does_not_enroll(renewing: RenewalPair) -> None:
    """`Enroll` belongs to the enrollment port alone."""
    async with (
        renewing.work.serving_renewals() as address,
        dial(address, WORK, renewing.record.trust_bundle, renewing.leaf) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await EnrollmentServiceStub(channel).Enroll(pb.EnrollRequest(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_peer_cannot_hoard_certificates(renewing: RenewalPair) -> None:
    """Beyond 32 that are accepted at once, the next is refused with the time to wait."""
    await renewing.work.grants.close()
    for _ in range(31):
        await renewing.work.renewal_issuer.renew(renewing.grant, renewing.leaf.serial, csr())
    with pytest.raises(Refusal) as caught:
        await renewing.work.renewal_issuer.renew(renewing.grant, renewing.leaf.serial, csr())

    assert caught.value.reason is Reason.RATE_LIMITED
    assert caught.value.retry_after_s == pytest.approx(LIFE_S, abs=2)


async def test_a_certificate_never_outlives_its_grant(renewing: RenewalPair) -> None:
    """The grant's end bounds the renewed certificate as it bounds the first."""
    end = renewing.work.clock.now_us() + 3_600 * MICROSECONDS
    registry = renewing.work.grants
    registry._grants[renewing.grant.id] = replace(renewing.grant, expires_at_us=end)

    issued = await renewing.work.renewal_issuer.renew(renewing.grant, renewing.leaf.serial, csr())

    assert end - MICROSECONDS <= issued.certificate.not_after_us <= end


async def test_a_new_root_is_accepted_beside_a_known_one(renewing: RenewalPair) -> None:
    """The answer's trust bundle replaces the stored one; one that knows none of the old roots is refused."""
    authority, successor = renewing.work.issuer.authority, Authority.create(WORK)
    both = authority.ca_certificate_pem + successor.ca_certificate_pem

    class Rolling:
        trust_bundle = both
        issue_client = staticmethod(successor.issue_client)

    class Strange(Rolling):
        trust_bundle = successor.ca_certificate_pem

    renewing.work.renewal_issuer.authority = Strange()
    async with renewing.work.serving_renewals() as address:
        with pytest.raises(EnrollmentError, match="lacks the authority that this gateway knows"):
            await renewing.renew(federation=address)
        renewing.work.renewal_issuer.authority = Rolling()
        new = await renewing.renew(federation=address)

    assert new.trust_bundle == both


@pytest.mark.parametrize(
    ("changes", "elapsed_s", "problem"),
    [
        ({"certificate_pem": "garbled"}, 0, "cannot be read"),
        ({"key_pem": "garbled"}, 0, "cannot be used"),
        ({}, 30 * LIFE_S, "too long ago to renew it"),
    ],
)
async def test_a_certificate_that_cannot_be_renewed_names_the_act_that_replaces_it(
    renewing: RenewalPair, changes: dict[str, str], elapsed_s: float, problem: str
) -> None:
    """The error ends with "enroll again", and its remedy has the peer, the user and the grant."""
    record = replace(renewing.record, **changes)
    renewing.hands.advance(elapsed_s)

    with pytest.raises(FederationError, match=rf"{problem}; {ENROLL_AGAIN}$") as caught:
        await renew(record, gateway_name=PEER, peers=renewing.peers, clock=renewing.work.clock)

    assert caught.value.remedy == Remedy(
        action=Action.ENROLL_AGAIN, peer=record.name, user=record.user, grant_id=record.grant_id
    )


async def test_an_answer_with_another_key_is_refused(renewing: RenewalPair) -> None:
    """A certificate that the own new key does not fit is not stored."""
    answered = renewing.work.renewal_issuer.renew

    async def swapped(grant, serial, _csr):
        return await answered(grant, serial, csr())

    renewing.work.renewal_issuer.renew = swapped
    async with renewing.work.serving_renewals() as address:
        with pytest.raises(EnrollmentError, match="for another key"):
            await renewing.renew(federation=address)
    assert (await renewing.peers.get(renewing.record.id)).certificate_pem == renewing.record.certificate_pem


async def test_a_record_that_another_process_renewed_is_left_unchanged(renewing: RenewalPair) -> None:
    """Two renewals of one certificate: the second one stores nothing, and says so."""
    old = renewing.record
    async with renewing.work.serving_renewals() as address:
        new = await renewing.renew(federation=address)

    with pytest.raises(ConflictError, match="renewed or removed"):
        await renewing.peers.renew(old, replaces=old.certificate_pem)
    assert (await renewing.peers.get(old.id)).certificate_pem == new.certificate_pem


async def test_versions_change_with_every_change_of_a_peer(renewing: RenewalPair) -> None:
    """Another process sees by one cheap query whether it must read the peers again."""
    seen = [await renewing.peers.versions()]
    with pytest.raises(Refusal):
        await renewing.renew()
    seen.append(await renewing.peers.versions())
    async with renewing.work.serving_renewals() as address:
        await renewing.renew(federation=address)
    seen.append(await renewing.peers.versions())
    await renewing.peers.remove(renewing.record.id)
    seen.append(await renewing.peers.versions())

    assert seen[0] == seen[1]
    assert len({*seen}) == 3


async def test_certificates_of_one_second_keep_their_order(renewing: RenewalPair) -> None:
    """The newest certificate is the last issued, also after a restart, although X.509 counts whole seconds."""
    for _ in range(4):
        await renewing.work.renewal_issuer.renew(renewing.grant, renewing.leaf.serial, csr())

    again = await GrantRegistry.load(renewing.work.database, renewing.work.clock)

    assert [*again.get(renewing.grant.id).certificates] == [*renewing.grant.certificates]


async def test_a_request_with_a_leaf_of_another_key_fails_at_home(renewing: RenewalPair) -> None:
    """A stored key that cannot be used is reported before a request is sent."""
    record = replace(renewing.record, key_pem="nonsense")
    with pytest.raises(EnrollmentError, match="cannot be used"):
        await _renew_record(renewing, record)
    with pytest.raises(EnrollmentError, match="cannot be read"):
        await _renew_record(renewing, replace(renewing.record, certificate_pem="nonsense"))


async def _renew_record(renewing: RenewalPair, record):
    return await renew(record, gateway_name=PEER, peers=renewing.peers, clock=renewing.work.clock)
