"""Renewal after expiry by a proof of the old key, on a port that is open to every client."""

import logging
from dataclasses import replace

import grpc
import pytest

from federation.clock import MICROSECONDS
from federation.errors import Reason, Refusal
from federation.store.grants.registry import GrantRegistry
from federation.v1 import enrollment_pb2 as pb
from federation.wire.status import error_detail_of
from tests.support.enrollments import IssuingGateway, csr
from tests.support.pki import new_key
from tests.support.renewal_pair import DAY_S, LIFE_S, RenewalPair

CLOSED = "the grant does not allow this call; ask the operator of the serving gateway"


async def refused(renewing: RenewalPair, request: pb.RenewRequest) -> tuple[str, str]:
    """Reason and text of the enrollment port's refusal; nothing was issued."""
    before = [*renewing.grant.certificates]
    async with renewing.work.serving() as address:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await renewing.ask(address, request)
    assert [*renewing.grant.certificates] == before
    return error_detail_of(caught.value).reason, caught.value.details() or ""


async def answered(renewing: RenewalPair, request: pb.RenewRequest) -> pb.RenewResponse:
    """The enrollment port's answer."""
    async with renewing.work.serving() as address:
        return await renewing.ask(address, request)


@pytest.mark.parametrize("days", [0.0, 6.0, 6.999])
async def test_within_seven_days_after_expiry_the_old_key_renews(
    renewing: RenewalPair, days: float, caplog: pytest.LogCaptureFixture
) -> None:
    """The gateway goes to the enrollment address by itself; the renewal is marked, on record, and warned about."""
    caplog.set_level(logging.WARNING)
    renewing.hands.advance(LIFE_S + days * DAY_S)
    async with renewing.work.serving() as address:
        new = await renewing.renew(enrollment=address)

    newest = renewing.grant.newest
    assert (newest.pem, newest.after_expiry) == (new.certificate_pem, True)
    assert newest.not_after_us > renewing.work.clock.now_us()
    assert [(event.verb, event.outcome, event.reason) for event in renewing.work.events] == [
        ("renew", "ok", "after expiry")
    ]
    assert "renewed after its certificate had expired" in caplog.text
    again = await GrantRegistry.load(renewing.work.database, renewing.work.clock)
    assert again.get(renewing.grant.id).newest.after_expiry


async def test_after_seven_days_it_is_too_late(renewing: RenewalPair) -> None:
    """The issuing gateway refuses, and the renewing one does not send a request."""
    renewing.hands.advance(LIFE_S + 8 * DAY_S)
    reason, text = await refused(renewing, renewing.proved())

    assert reason == Reason.CERTIFICATE_INVALID
    assert "more than 7 days ago" in text
    with pytest.raises(Refusal, match="too long ago") as caught:
        await renewing.renew(enrollment="nowhere.invalid:1")
    assert caught.value.reason is Reason.CERTIFICATE_INVALID


async def test_another_key_proves_nothing(renewing: RenewalPair) -> None:
    """A caller without the old key gets the same answer as for an unknown grant."""
    renewing.hands.advance(LIFE_S + 60)
    wrong = await refused(renewing, renewing.proved(key=new_key()))
    serial = await refused(renewing, renewing.proved(serial="abc"))
    unknown = await refused(renewing, renewing.proved(grant_id="99999999-2222-4333-8444-555555555555"))

    assert wrong == serial == unknown == (Reason.GRANT_INVALID, CLOSED)
    assert {(event.outcome, event.reason, event.grant_id) for event in renewing.work.events} == {
        ("denied", "unproved renewal", "")
    }


async def test_a_proof_is_good_for_its_own_request_alone(renewing: RenewalPair) -> None:
    """A copied proof is not valid for another key or with changed fields."""
    renewing.hands.advance(LIFE_S + 60)
    seen = renewing.proved()
    stolen = pb.RenewRequest(csr=csr(), proof=seen.proof)
    later = pb.RenewRequest(csr=seen.csr, proof=seen.proof)
    later.proof.signed_at.FromMicroseconds(seen.proof.signed_at.ToMicroseconds() + 1)

    assert await refused(renewing, stolen) == (Reason.GRANT_INVALID, CLOSED)
    assert await refused(renewing, later) == (Reason.GRANT_INVALID, CLOSED)


async def test_a_repeated_proof_brings_the_same_certificate(renewing: RenewalPair) -> None:
    """Within its five minutes a proof may be sent again; what it brings is no use without the new key."""
    renewing.hands.advance(LIFE_S + 60)
    request = renewing.proved()

    first, second = await answered(renewing, request), await answered(renewing, request)

    assert first.certificate == second.certificate
    assert renewing.work.events[-1].reason == "same certificate again"


@pytest.mark.parametrize(("at_s", "good"), [(-300, True), (300, True), (-301, False), (301, False), (-1e9, False)])
async def test_a_proof_is_good_for_five_minutes(renewing: RenewalPair, at_s: float, good: bool) -> None:
    """The clocks may differ by that much; beyond, the answer says by how much they do."""
    renewing.hands.advance(LIFE_S + 600)
    request = renewing.proved(at_s=at_s)
    if good:
        assert (await answered(renewing, request)).certificate
    else:
        reason, text = await refused(renewing, request)
        assert reason == Reason.INVALID_REQUEST
        assert f"{at_s:+.0f} s from this gateway's clock" in text


async def test_only_the_newest_serial_renews_after_expiry(renewing: RenewalPair) -> None:
    """After expiry only the newest serial renews; a proof of an earlier key is refused."""
    old = renewing.key, renewing.leaf.serial
    async with renewing.work.serving_renewals() as address:
        await renewing.renew(federation=address)
    renewing.hands.advance(LIFE_S + 60)

    reason, text = await refused(renewing, renewing.proved(key=old[0], serial=old[1]))

    assert (reason, text) == (Reason.GRANT_INVALID, CLOSED)
    assert renewing.work.events[-1].reason == "not the newest serial"
    assert (await answered(renewing, renewing.proved())).certificate


@pytest.mark.parametrize("expired", [False, True])
async def test_an_answer_lost_before_expiry_is_repeated_after_it(renewing: RenewalPair, expired: bool) -> None:
    """The newest certificate never arrived: its request, with a proof of the previous key, gets it or a new one."""
    request = csr()
    renewing.hands.advance(LIFE_S - 600)
    lost = await renewing.work.renewal_issuer.renew(renewing.grant, renewing.leaf.serial, request)
    renewing.hands.advance((LIFE_S if expired else 0) + 660)

    answer = await answered(renewing, renewing.proved(request))

    assert (answer.certificate == lost.certificate.pem) is not expired
    assert answer.certificate == renewing.grant.newest.pem
    assert (await refused(renewing, renewing.proved()))[0] == Reason.GRANT_INVALID


async def test_a_restarted_gateway_still_knows_what_has_expired(renewing: RenewalPair) -> None:
    """The newest certificate stays in memory however long ago it ended, and earlier ones are found in the database."""
    renewing.hands.advance(LIFE_S + 60)
    renewing.work = await IssuingGateway.open(
        renewing.work.database, renewing.work.issuer.authority, renewing.work.clock
    )
    assert (await answered(renewing, renewing.proved())).certificate


async def test_only_the_holder_of_the_key_gets_grant_revoked(renewing: RenewalPair) -> None:
    """The holder learns that the grant was revoked; a stranger learns nothing."""
    renewing.hands.advance(LIFE_S + 60)
    await renewing.work.grants.revoke(renewing.grant.id)

    assert (await refused(renewing, renewing.proved()))[0] == Reason.GRANT_REVOKED
    assert await refused(renewing, renewing.proved(key=new_key())) == (Reason.GRANT_INVALID, CLOSED)


async def test_a_grant_that_has_ended_is_closed(renewing: RenewalPair) -> None:
    """No certificate is renewed under an expired grant."""
    renewing.hands.advance(LIFE_S + 60)
    ended = replace(renewing.grant, expires_at_us=renewing.work.clock.now_us() - MICROSECONDS)
    renewing.work.grants._grants[ended.id] = ended

    assert await refused(renewing, renewing.proved()) == (Reason.GRANT_INVALID, CLOSED)
    assert renewing.work.events[-1].reason == "grant expired"


async def test_a_valid_certificate_renews_on_the_federation_port(renewing: RenewalPair) -> None:
    """Before expiry (five minutes for the clocks apart) the enrollment port renews nothing."""
    renewing.hands.advance(LIFE_S - 310)
    reason, text = await refused(renewing, renewing.proved())
    renewing.hands.advance(20)

    assert (reason, "has not expired" in text) == (Reason.INVALID_REQUEST, True)
    assert (await answered(renewing, renewing.proved())).certificate


async def test_the_new_key_must_be_another_than_the_old(renewing: RenewalPair) -> None:
    """A request for the same key is refused after expiry; the error asks for a new key."""
    renewing.hands.advance(LIFE_S + 60)
    reason, text = await refused(renewing, renewing.proved(csr(renewing.key)))
    assert (reason, "generate a new key" in text) == (Reason.INVALID_REQUEST, True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("grant_id", "nonsense"),
        ("grant_id", "A" * 36),
        ("grant_id", "\0" * 5),
        ("serial", ""),
        ("serial", "XYZ"),
        ("serial", "a" * 41),
        ("signature", b""),
        ("signature", b"x" * 257),
    ],
)
async def test_malformed_proofs_are_named(renewing: RenewalPair, field: str, value: object) -> None:
    """Odd input ends as a clear refusal that says which field."""
    request = renewing.proved()
    setattr(request.proof, field, value)
    reason, text = await refused(renewing, request)
    assert (reason, f"proof: {field}" in text) == (Reason.INVALID_REQUEST, True), text


@pytest.mark.parametrize(
    ("seconds", "nanos"), [(-1, 0), (1 << 62, 0), (1_800_000_000, -1), (1_800_000_000, 1_000_000_000), (0, 1)]
)
async def test_instants_that_are_none_are_refused(renewing: RenewalPair, seconds: int, nanos: int) -> None:
    """Timestamps that a message can carry and no clock can show."""
    request = renewing.proved()
    request.proof.signed_at.seconds, request.proof.signed_at.nanos = seconds, nanos
    reason, text = await refused(renewing, request)
    assert (reason, "signed_at" in text) == (Reason.INVALID_REQUEST, True)


async def test_no_proof_at_all_is_invalid(renewing: RenewalPair) -> None:
    """An empty request is refused like any other odd one."""
    assert (await refused(renewing, pb.RenewRequest()))[0] == Reason.INVALID_REQUEST
    assert (await refused(renewing, pb.RenewRequest(csr=csr())))[0] == Reason.INVALID_REQUEST


async def test_garbled_signatures_prove_nothing(renewing: RenewalPair) -> None:
    """Bytes that are no signature end like a wrong one."""
    renewing.hands.advance(LIFE_S + 60)
    for garbled in (b"x", b"\x30\x06\x02\x01\x00\x02\x01\x00", b"\xff" * 256):
        request = renewing.proved()
        request.proof.signature = garbled
        assert await refused(renewing, request) == (Reason.GRANT_INVALID, CLOSED)
