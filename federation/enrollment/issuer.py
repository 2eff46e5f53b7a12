"""The issuing side of enrollment, without the wire: creates tokens, and redeems each for one certificate."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from federation.clock import SYSTEM_CLOCK, Clock, from_micros
from federation.errors import ConflictError, InputError, Reason, Refusal
from federation.pki.authority import Authority, IssuedCertificate
from federation.pki.certificates import key_hash
from federation.pki.csr import MAX_REQUEST_BYTES, read_request
from federation.pki.enrollment_token import EnrollmentToken, is_secret
from federation.store.enrollment_tokens import TokenRecord, TokenStore, hash_secret, mark_redeemed
from federation.store.grants.model import CertificateRecord, Grant, GrantStatus
from federation.store.grants.registry import GrantRegistry

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

UNKNOWN: Final = (
    "this gateway knows no such enrollment token: it was replaced by a newer one, or created by another gateway"
)


class EnrollmentRefusal(Refusal):
    """A refused enrollment or renewal; `grant` is set if the caller proved that it holds the token or old key."""

    def __init__(self, reason: Reason, message: str, *, detail: str, grant: Grant | None = None) -> None:
        super().__init__(reason, message, detail=detail)
        self.grant = grant


@dataclass(frozen=True, slots=True)
class Issued:
    """The result of an enrollment or renewal. `repeated`: an earlier request was issued this certificate."""

    grant: Grant
    certificate: CertificateRecord
    repeated: bool


class Issuer:
    """Creates tokens for grants, and redeems them. Raises `StoreError` if the database fails."""

    def __init__(
        self,
        authority: Authority,
        grants: GrantRegistry,
        tokens: TokenStore,
        *,
        certificate_lifetime_s: float,
        token_lifetime_s: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.authority = authority
        self._grants, self._tokens, self._clock = grants, tokens, clock
        self._certificate_lifetime_s, self._token_lifetime_s = certificate_lifetime_s, token_lifetime_s

    async def create_token(self, grant_id: str, *, endpoint: str, confirm: bool = False) -> tuple[EnrollmentToken, int]:
        """Create a token for a grant without an enrolled gateway; return it and its expiry in Unix microseconds.

        `endpoint` is host:port of this gateway's enrollment service as the peer reaches it. The new token replaces
        earlier tokens of the grant. Raises `NotFoundError`, or `ConflictError` for a grant that is revoked, expired or
        enrolled.
        """
        grant = self._grants.require(grant_id)
        now = self._clock.now_us()
        status = grant.status_at(now)
        if status in {GrantStatus.REVOKED, GrantStatus.EXPIRED}:
            raise ConflictError(f"grant {grant_id} is {status}; make a new one")
        if grant.is_enrolled(now):
            raise ConflictError(f"a gateway is enrolled under grant {grant_id} already; revoke it and make a new one")
        if confirm and status is not GrantStatus.PENDING:
            raise ConflictError(f"grant {grant_id} is active already, so a confirmation would have no effect")
        secret, record = await self._tokens.create(grant_id, confirm=confirm, lifetime_s=self._token_lifetime_s)
        authority = self.authority
        token = EnrollmentToken(endpoint, authority.ca_certificate_pem, secret, authority.name, grant_id)
        return token, record.expires_at_us

    async def enroll(self, secret: str, csr_der: bytes) -> Issued:
        """Redeem a token: claim it for the request's key, then issue. Raises `EnrollmentRefusal`.

        The same token with the same key always gets the same certificate, also after a crash between the two steps.
        """
        if not is_secret(secret) or len(csr_der) > MAX_REQUEST_BYTES:
            message = f"secret or csr is malformed; a csr has at most {MAX_REQUEST_BYTES} bytes"
            raise EnrollmentRefusal(Reason.INVALID_REQUEST, message, detail="malformed request")
        token = await self._tokens.find(hash_secret(secret))
        grant = self._grants.get(token.grant_id) if token else None
        if token is None or grant is None:
            raise EnrollmentRefusal(Reason.GRANT_INVALID, UNKNOWN, detail="unknown token")
        try:
            request = read_request(csr_der, grant.peer)
        except InputError as e:
            raise EnrollmentRefusal(Reason.INVALID_REQUEST, str(e), detail=str(e), grant=grant) from None
        self._check_open(grant)
        token = await self._claim(token, grant, key_hash(request.public_key))
        repeated = token.serial is not None
        if token.serial is None:
            token = await self._issue(token, csr_der)
        return self._issued(token, repeated=repeated)

    async def _claim(self, token: TokenRecord, grant: Grant, key: str) -> TokenRecord:
        claimed = await self._tokens.claim(token.secret_hash, key)
        if claimed is None:
            raise EnrollmentRefusal(Reason.GRANT_INVALID, UNKNOWN, detail="token replaced", grant=grant)
        if claimed.claimed_key_hash is None:
            raise _expired(claimed, grant)
        if claimed.claimed_key_hash != key:
            message = (
                "this enrollment token was used already, with another key; if you did not use it, the token has "
                f"leaked: ask the operator of {self.authority.name} to revoke the grant"
            )
            raise EnrollmentRefusal(Reason.GRANT_INVALID, message, detail="token used by another key", grant=grant)
        return claimed

    async def _issue(self, token: TokenRecord, csr_der: bytes) -> TokenRecord:
        grant = self._grants.require(token.grant_id)
        if grant.is_enrolled(self._clock.now_us()):
            return await self._redeemed(token, grant, "grant enrolled already")
        issued = issue_under(grant, csr_der, self.authority, self._certificate_lifetime_s)

        async def within(connection: "AsyncConnection") -> None:
            if not await mark_redeemed(connection, token, issued.serial):
                raise ConflictError("the token was redeemed or replaced meanwhile")

        try:
            await self._grants.add_certificate(grant.id, issued, activate=not token.confirm, within=within)
        except ConflictError as e:
            return await self._redeemed(token, grant, str(e))
        return replace(token, serial=issued.serial)

    async def _redeemed(self, token: TokenRecord, grant: Grant, detail: str) -> TokenRecord:
        """Return the token if a concurrent request with the same key redeemed it; else raise `EnrollmentRefusal`."""
        redeemed = await self._tokens.find(token.secret_hash)
        if redeemed is None or redeemed.serial is None:
            message = "the grant of this enrollment token is already enrolled or revoked; ask for a new grant"
            raise EnrollmentRefusal(Reason.GRANT_INVALID, message, detail=detail, grant=grant)
        return redeemed

    def _issued(self, token: TokenRecord, *, repeated: bool) -> Issued:
        grant = self._grants.require(token.grant_id)
        self._check_open(grant)  # it may have been revoked meanwhile
        certificate = grant.certificates.get(token.serial or "")
        if certificate is None or not certificate.is_accepted(self._clock.now_us()):
            message = "the certificate of this enrollment token has expired; ask for a new token"
            raise EnrollmentRefusal(Reason.GRANT_INVALID, message, detail="certificate expired", grant=grant)
        return Issued(grant, certificate, repeated)

    def _check_open(self, grant: Grant) -> None:
        status = grant.status_at(self._clock.now_us())
        if status in {GrantStatus.REVOKED, GrantStatus.EXPIRED}:
            message = "the grant of this enrollment token is revoked or expired; ask for a new grant"
            raise EnrollmentRefusal(Reason.GRANT_INVALID, message, detail=f"grant {status}", grant=grant)


def issue_under(grant: Grant, csr_der: bytes, authority: Authority, lifetime_s: float) -> IssuedCertificate:
    """Issue a client certificate with the identity of a grant, which ends with the grant at the latest."""
    return authority.issue_client(
        csr_der,
        grant_id=grant.id,
        subject=grant.subject,
        peer=grant.peer,
        lifetime_s=lifetime_s,
        not_after_us=grant.expires_at_us,
    )


def _expired(token: TokenRecord, grant: Grant) -> EnrollmentRefusal:
    at = from_micros(token.expires_at_us).isoformat(timespec="seconds")
    message = f"this enrollment token expired at {at}; ask for a new one"
    return EnrollmentRefusal(Reason.GRANT_INVALID, message, detail="token expired", grant=grant)
