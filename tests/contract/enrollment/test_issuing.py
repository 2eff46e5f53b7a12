import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from federation.enrollment.issuer import EnrollmentRefusal, Issuer
from federation.errors import ConflictError, NotFoundError, Reason
from federation.pki.authority import Authority, IssuedCertificate
from federation.pki.certificates import key_hash
from federation.pki.enrollment_token import EnrollmentToken
from federation.store import schema
from federation.store.database import Database
from federation.store.enrollment_tokens import TokenRecord, TokenStore, hash_secret, mark_redeemed
from federation.store.grants.model import Grant, GrantStatus
from federation.store.grants.registry import GrantRegistry
from tests.support.clock import ManualClock
from tests.support.enrollments import WORK, IssuingGateway, csr
from tests.support.pki import PEER, new_key

AUTHORITY = Authority.create(WORK)
KEY, OTHER_KEY = new_key(), new_key()
SECOND = 1_000_000


@pytest.fixture
def hand() -> ManualClock:
    """A clock that the test moves, at an instant when the certificates are valid."""
    return ManualClock(AUTHORITY.clock.wall())


@pytest.fixture
def authority(hand: ManualClock) -> Authority:
    """The issuing gateway's authority on that time."""
    return replace(AUTHORITY, clock=hand.clock)


async def opened(database: Database, authority: Authority) -> IssuingGateway:
    """A start of the issuing gateway."""
    return await IssuingGateway.open(database, authority, authority.clock)


async def refused(gateway: IssuingGateway, secret: str, request: bytes) -> EnrollmentRefusal:
    """The refusal of an enrollment that must be refused."""
    with pytest.raises(EnrollmentRefusal) as caught:
        await gateway.issuer.enroll(secret, request)
    return caught.value


async def test_a_token_brings_an_active_grant_and_a_known_certificate(database: Database, authority: Authority) -> None:
    """After enrolling, grant and serial are known in memory and in the database."""
    gateway = await opened(database, authority)
    grant = await gateway.grant()
    token = await gateway.token(grant, endpoint="work.example:7444")
    issued = await gateway.issuer.enroll(token.secret, csr(KEY))

    assert (token.gateway, token.grant_id, token.endpoint) == (WORK, grant.id, "work.example:7444")
    assert (issued.grant.status, issued.repeated) == (GrantStatus.ACTIVE, False)
    assert list(gateway.grants.get(grant.id).certificates) == [issued.certificate.serial]
    assert (await opened(database, authority)).grants.all() == gateway.grants.all()


async def test_the_same_key_gets_the_same_certificate_again(database: Database, authority: Authority, hand) -> None:
    """A new request with the same key gets the same certificate, also after the token's expiry and a restart."""
    gateway = await opened(database, authority)
    token = await gateway.token()
    first = await gateway.issuer.enroll(token.secret, csr(KEY))
    again = await gateway.issuer.enroll(token.secret, csr(KEY))
    hand.advance(3_600)
    restarted = await (await opened(database, authority)).issuer.enroll(token.secret, csr(KEY))

    assert [again.certificate, restarted.certificate] == [first.certificate] * 2
    assert (again.repeated, restarted.repeated) == (True, True)


async def test_a_death_between_claim_and_issue_loses_nothing(database: Database, authority: Authority, hand) -> None:
    """A token claimed by a process that died before it issued still serves that key, and only that key."""
    gateway = await opened(database, authority)
    token = await gateway.token()
    await gateway.tokens.claim(hash_secret(token.secret), key_hash(KEY.public_key()))
    hand.advance(3_600)
    restarted = await opened(database, authority)

    assert (await refused(restarted, token.secret, csr(OTHER_KEY))).detail == "token used by another key"
    issued = await restarted.issuer.enroll(token.secret, csr(KEY))
    assert (await restarted.issuer.enroll(token.secret, csr(KEY))).certificate == issued.certificate


async def test_another_key_is_refused(database: Database, authority: Authority) -> None:
    """A used token is refused with a second key, and the refusal names the remedy."""
    gateway = await opened(database, authority)
    token = await gateway.token()
    await gateway.issuer.enroll(token.secret, csr(KEY))
    refusal = await refused(gateway, token.secret, csr(OTHER_KEY))

    assert (refusal.reason, refusal.detail) == (Reason.GRANT_INVALID, "token used by another key")
    assert "ask the operator of work.example to revoke the grant" in refusal.message
    assert refusal.grant.id == token.grant_id


async def test_of_many_keys_at_once_exactly_one_wins(database: Database, authority: Authority) -> None:
    """Concurrent claims of one token by different keys make one certificate, in memory and in the database."""
    gateway = await opened(database, authority)
    token = await gateway.token()
    requests = [csr(new_key()) for _ in range(8)]
    results = await asyncio.gather(
        *(gateway.issuer.enroll(token.secret, request) for request in requests), return_exceptions=True
    )
    won = [result for result in results if not isinstance(result, BaseException)]
    lost = [result.detail for result in results if isinstance(result, EnrollmentRefusal)]

    assert len(won) == 1
    assert lost == ["token used by another key"] * 7
    async with database.read() as connection:
        assert (await connection.scalars(select(schema.certificates.c.serial))).all() == [won[0].certificate.serial]


async def test_two_processes_that_claim_at_once_agree(database: Database, authority: Authority) -> None:
    """The database decides, not the memory of one process."""
    first = await opened(database, authority)
    token = await first.token()
    second = await opened(database, authority)
    hashes = [key_hash(new_key().public_key()) for _ in range(8)]
    claimed = await asyncio.gather(
        *((first, second)[i % 2].tokens.claim(hash_secret(token.secret), value) for i, value in enumerate(hashes))
    )

    assert len({record.claimed_key_hash for record in claimed}) == 1


async def test_one_key_asking_many_times_at_once_gets_one_certificate(database: Database, authority: Authority) -> None:
    """Concurrent requests of one key are answered alike."""
    gateway = await opened(database, authority)
    token = await gateway.token()
    results = await asyncio.gather(*(gateway.issuer.enroll(token.secret, csr(KEY)) for _ in range(6)))

    assert len({result.certificate.serial for result in results}) == 1
    async with database.read() as connection:
        assert len((await connection.execute(select(schema.certificates))).all()) == 1


async def test_an_unused_token_ends(database: Database, authority: Authority, hand) -> None:
    """From its end on, a token that no key claimed is refused, and the message states its expiry."""
    gateway = await opened(database, authority)
    token = await gateway.token()
    hand.advance(900)
    refusal = await refused(gateway, token.secret, csr(KEY))

    assert (refusal.reason, refusal.detail) == (Reason.GRANT_INVALID, "token expired")
    assert "expired at 20" in refusal.message
    assert await gateway.tokens.claim(hash_secret(token.secret), "k") == await gateway.tokens.find(
        hash_secret(token.secret)
    )


async def test_a_token_lives_to_the_last_second(database: Database, authority: Authority, hand) -> None:
    """Just before its end it is good."""
    gateway = await opened(database, authority)
    token = await gateway.token()
    hand.advance(899)

    assert await gateway.issuer.enroll(token.secret, csr(KEY))


@pytest.mark.parametrize("secret", ["", "x", "A" * 44, "ä" * 43])
async def test_a_malformed_secret_is_refused_without_a_look_up(
    database: Database, authority: Authority, secret: str
) -> None:
    """A malformed secret is an invalid request without a grant."""
    refusal = await refused(await opened(database, authority), secret, csr(KEY))

    assert (refusal.reason, refusal.grant) == (Reason.INVALID_REQUEST, None)


async def test_an_unknown_secret_learns_nothing(database: Database, authority: Authority) -> None:
    """Whatever the request, an unknown secret gets one answer."""
    gateway = await opened(database, authority)
    await gateway.token()
    refusals = [await refused(gateway, "A" * 43, request) for request in (csr(KEY), b"garbage", csr(KEY, "x"))]

    assert {refusal.message for refusal in refusals} == {refusals[0].message}
    assert {(refusal.reason, refusal.detail, refusal.grant) for refusal in refusals} == {
        (Reason.GRANT_INVALID, "unknown token", None)
    }


@pytest.mark.parametrize(
    ("request_der", "complaint"),
    [(b"", "PKCS #10"), (b"x" * 5_000, "malformed"), (csr(KEY, "evil.example"), "common name")],
)
async def test_a_bad_request_does_not_spend_the_token(
    database: Database, authority: Authority, request_der: bytes, complaint: str
) -> None:
    """A refused certificate request leaves the token for a good one."""
    gateway = await opened(database, authority)
    token = await gateway.token()
    refusal = await refused(gateway, token.secret, request_der)

    assert refusal.reason is Reason.INVALID_REQUEST
    assert complaint in refusal.message
    assert PEER not in refusal.message
    assert await gateway.issuer.enroll(token.secret, csr(OTHER_KEY))


async def test_a_revoked_grant_enrolls_no_gateway(database: Database, authority: Authority) -> None:
    """Neither a first enrollment nor the same certificate again."""
    gateway = await opened(database, authority)
    fresh, used = await gateway.token(), await gateway.token()
    await gateway.issuer.enroll(used.secret, csr(KEY))
    for token in (fresh, used):
        await gateway.grants.revoke(token.grant_id)
        refusal = await refused(gateway, token.secret, csr(KEY))
        assert (refusal.reason, refusal.detail) == (Reason.GRANT_INVALID, "grant revoked")


async def test_an_expired_grant_enrolls_no_gateway(database: Database, authority: Authority, hand) -> None:
    """The grant's end counts before the token's, and bounds the certificate."""
    gateway = await opened(database, authority)
    end = hand.clock.now_us() + 600 * SECOND
    used = await gateway.token(await gateway.grant(expires_at_us=end))
    fresh = await gateway.token(await gateway.grant(expires_at_us=end))
    issued = await gateway.issuer.enroll(used.secret, csr(KEY))
    assert end - SECOND < issued.certificate.not_after_us <= end

    hand.advance(600)
    assert (await refused(gateway, fresh.secret, csr(KEY))).detail == "grant expired"
    assert (await refused(gateway, used.secret, csr(KEY))).detail == "grant expired"


class Interrupted(TokenStore):
    """Tokens whose claim is followed at once by something else."""

    meanwhile: Callable[[], Awaitable[object]]

    async def claim(self, secret_hash: str, key_hash: str) -> TokenRecord | None:
        claimed = await super().claim(secret_hash, key_hash)
        await self.meanwhile()
        return claimed


def interrupted(gateway: IssuingGateway, meanwhile: Callable[[], Awaitable[object]]) -> Issuer:
    """The gateway's issuer, with something that happens between claim and issue."""
    tokens = Interrupted(gateway.database, gateway.clock)
    tokens.meanwhile = meanwhile
    authority = gateway.issuer.authority
    lifetimes = {"certificate_lifetime_s": 86_400, "token_lifetime_s": 900}
    return Issuer(authority, gateway.grants, tokens, clock=gateway.clock, **lifetimes)


async def test_a_revocation_between_claim_and_issue_wins(database: Database, authority: Authority) -> None:
    """A grant revoked while it is being enrolled gets no certificate."""
    gateway = await opened(database, authority)
    token = await gateway.token()
    issuer = interrupted(gateway, lambda: gateway.grants.revoke(token.grant_id))

    with pytest.raises(EnrollmentRefusal, match="already enrolled or revoked") as caught:
        await issuer.enroll(token.secret, csr(KEY))

    assert "is revoked" in caught.value.detail
    assert gateway.grants.get(token.grant_id).certificates == {}


class RevokedAtOnce(GrantRegistry):
    """Grants that are revoked the moment a certificate was stored."""

    async def add_certificate(self, grant_id: str, certificate: IssuedCertificate, **options: Any) -> Grant:
        await super().add_certificate(grant_id, certificate, **options)
        return await self.revoke(grant_id)


async def test_a_revocation_between_issue_and_answer_wins(database: Database, authority: Authority) -> None:
    """A certificate whose grant was revoked before it was handed out is not handed out."""
    gateway = await opened(database, authority)
    token = await gateway.token()
    grants = await RevokedAtOnce.load(database, gateway.clock)
    lifetimes = {"certificate_lifetime_s": 86_400, "token_lifetime_s": 900}
    issuer = Issuer(authority, grants, gateway.tokens, clock=gateway.clock, **lifetimes)

    with pytest.raises(EnrollmentRefusal, match="revoked or expired"):
        await issuer.enroll(token.secret, csr(KEY))


async def test_a_token_replaced_between_claim_and_issue_brings_nothing(
    database: Database, authority: Authority
) -> None:
    """One grant never ends with two certificates from two tokens."""
    gateway = await opened(database, authority)
    grant = await gateway.grant()
    older, newer = await gateway.token(grant), []

    async def replace_token() -> None:
        newer.append(await gateway.token(grant))

    with pytest.raises(EnrollmentRefusal, match="already enrolled or revoked"):
        await interrupted(gateway, replace_token).enroll(older.secret, csr(KEY))
    assert gateway.grants.get(grant.id).certificates == {}
    assert await gateway.issuer.enroll(newer[0].secret, csr(OTHER_KEY))


async def test_the_same_key_overtaking_itself_gets_one_certificate(database: Database, authority: Authority) -> None:
    """A request that stands between claim and issue while its twin is answered gets the twin's certificate."""
    gateway = await opened(database, authority)
    token = await gateway.token()
    twin = []

    async def ask_too() -> None:
        twin.append(await gateway.issuer.enroll(token.secret, csr(KEY)))

    issued = await interrupted(gateway, ask_too).enroll(token.secret, csr(KEY))

    assert issued.certificate == twin[0].certificate


async def test_confirmation_holds_the_grant_back(database: Database, authority: Authority) -> None:
    """A token made with confirmation enrolls, but the grant stays pending until the fingerprint was compared."""
    gateway = await opened(database, authority)
    token = await gateway.token(confirm=True)
    issued = await gateway.issuer.enroll(token.secret, csr(KEY))
    assert issued.grant.status is GrantStatus.PENDING

    await gateway.grants.confirm(token.grant_id, issued.certificate.fingerprint)
    again = await gateway.issuer.enroll(token.secret, csr(KEY))
    assert (again.grant.status, again.certificate) == (GrantStatus.ACTIVE, issued.certificate)


async def test_a_newer_token_replaces_an_unused_one(database: Database, authority: Authority) -> None:
    """Of two tokens of a grant only the newer works."""
    gateway = await opened(database, authority)
    grant = await gateway.grant()
    older, newer = await gateway.token(grant), await gateway.token(grant)

    assert (await refused(gateway, older.secret, csr(KEY))).detail == "unknown token"
    assert await gateway.issuer.enroll(newer.secret, csr(KEY))


async def test_an_enrolled_grant_gets_no_second_token(database: Database, authority: Authority, hand) -> None:
    """One grant is one enrollment, until its last certificate has ended."""
    gateway = await opened(database, authority)
    grant = await gateway.grant()
    token = await gateway.token(grant)
    await gateway.issuer.enroll(token.secret, csr(KEY))
    with pytest.raises(ConflictError, match="is enrolled under grant"):
        await gateway.token(grant)

    hand.advance(86_400)
    assert (await refused(gateway, token.secret, csr(KEY))).detail == "certificate expired"
    with pytest.raises(ConflictError, match="confirmation would have no effect"):
        await gateway.token(grant, confirm=True)
    assert await gateway.issuer.enroll((await gateway.token(grant)).secret, csr(OTHER_KEY))


async def test_no_token_for_a_grant_that_is_no_more(database: Database, authority: Authority, hand) -> None:
    """The operator gets different errors for unknown, revoked and expired grants."""
    gateway = await opened(database, authority)
    revoked, expired = await gateway.grant(), await gateway.grant(expires_at_us=hand.clock.now_us() + SECOND)
    await gateway.grants.revoke(revoked.id)
    hand.advance(1)

    with pytest.raises(ConflictError, match="is revoked; make a new one"):
        await gateway.token(revoked)
    with pytest.raises(ConflictError, match="is expired; make a new one"):
        await gateway.token(expired)
    with pytest.raises(NotFoundError, match="no grant 'x'"):
        await gateway.issuer.create_token("x", endpoint="a:1")


async def test_the_token_text_leads_back_to_its_grant(database: Database, authority: Authority) -> None:
    """The token as the operator pastes it can be redeemed."""
    gateway = await opened(database, authority)
    pasted = EnrollmentToken.decode((await gateway.token()).encode())

    assert (await gateway.issuer.enroll(pasted.secret, csr(KEY))).grant.id == pasted.grant_id


async def test_a_token_is_redeemed_only_for_the_key_that_claimed_it(database: Database, authority: Authority) -> None:
    """A record with another key does not redeem a claimed token; the record that the claim returned does."""
    gateway = await opened(database, authority)
    tokens = TokenStore(database, authority.clock)
    _, created = await tokens.create((await gateway.grant()).id, confirm=False, lifetime_s=60)
    claimed = await tokens.claim(created.secret_hash, "key")
    assert claimed is not None
    async with database.write() as connection:
        assert not await mark_redeemed(connection, replace(claimed, claimed_key_hash="other key"), "1")
        assert await mark_redeemed(connection, claimed, "1")


async def test_a_new_token_deletes_unused_tokens_alone(database: Database, authority: Authority) -> None:
    """A token that brought a certificate stays stored; an unused token of the grant is gone."""
    gateway = await opened(database, authority)
    tokens = TokenStore(database, authority.clock)
    grant = await gateway.grant()
    token = await gateway.token(grant)
    await gateway.issuer.enroll(token.secret, csr(KEY))
    _, unused = await tokens.create(grant.id, confirm=False, lifetime_s=60)

    await tokens.create(grant.id, confirm=False, lifetime_s=60)

    assert await tokens.find(hash_secret(token.secret)) is not None
    assert await tokens.find(unused.secret_hash) is None


async def test_a_second_token_of_an_enrolled_grant_brings_nothing(database: Database, authority: Authority) -> None:
    """A token that was made before the grant was enrolled by another token is refused afterwards."""
    gateway = await opened(database, authority)
    grant = await gateway.grant()
    token = await gateway.token(grant)
    await gateway.issuer.enroll(token.secret, csr(KEY))
    secret, _ = await TokenStore(database, authority.clock).create(grant.id, confirm=False, lifetime_s=60)

    refusal = await refused(gateway, secret, csr(OTHER_KEY))

    assert (refusal.reason, refusal.detail) == (Reason.GRANT_INVALID, "grant enrolled already")
    assert len(gateway.grants.require(grant.id).certificates) == 1
