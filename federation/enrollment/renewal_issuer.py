"""The issuing side of renewal, without the wire: issues a certificate to a peer that proves its current one."""

import asyncio
from typing import Final

from cryptography import x509

from federation.clock import MICROSECONDS, SYSTEM_CLOCK, Clock
from federation.enrollment.issuer import EnrollmentRefusal, Issued, issue_under
from federation.errors import ENROLL_AGAIN, ConflictError, InputError, Reason
from federation.pki.authority import Authority
from federation.pki.certificates import key_hash
from federation.pki.csr import CertificateRequest, read_request
from federation.pki.renewal_proof import PROOF_SKEW_US, RenewalClaim, read_proof
from federation.pki.rotation_policy import AFTER_EXPIRY_US
from federation.store.grants.model import CertificateRecord, Grant, GrantStatus
from federation.store.grants.registry import GrantRegistry
from federation.v1 import enrollment_pb2 as pb

MAX_ACCEPTED: Final = 32
"""Certificates of a grant that are accepted at once; requests for more are refused until one has expired."""
CLOSED: Final = "the grant does not allow this call; ask the operator of the serving gateway"


class RenewalIssuer:
    """Renews certificates of enrolled peers. The same request returns the same certificate again.

    Raises `EnrollmentRefusal`, and `StoreError` if the database fails.
    """

    def __init__(
        self, authority: Authority, grants: GrantRegistry, *, certificate_lifetime_s: float, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.authority = authority
        self._grants, self._clock = grants, clock
        self._certificate_lifetime_s = certificate_lifetime_s
        self._lock = asyncio.Lock()

    async def renew(self, grant: Grant, serial: str, csr_der: bytes) -> Issued:
        """Renew for an authorized caller, whose connection presents the certificate `serial`."""
        return await self._renew(grant, grant.certificates[serial], csr_der, after_expiry=False)

    async def renew_expired(self, proof: pb.RenewProof, csr_der: bytes) -> Issued:
        """Renew for a caller whose certificate has expired, by a proof of its key.

        Without a valid proof, every refusal is the same. The certificate must be the grant's newest and have expired at
        most 7 days ago. Otherwise the request must be the one of the newest certificate, whose answer was lost.
        """
        try:
            claim = read_proof(proof)
        except ValueError as e:
            raise _invalid(f"proof: {e}") from None
        grant = self._grants.get(claim.grant_id)
        presented = await self._grants.find_certificate(grant.id, claim.serial) if grant else None
        if grant is None or presented is None or not claim.is_signed_by(presented.pem, csr_der):
            raise EnrollmentRefusal(Reason.GRANT_INVALID, CLOSED, detail="unproved renewal")
        self._check_time(claim, presented, grant)
        request = _read(csr_der, grant)
        newest = grant.newest
        if newest is not None and newest.serial != presented.serial and newest.csr_hash != request.hash:
            raise EnrollmentRefusal(Reason.GRANT_INVALID, CLOSED, detail="not the newest serial", grant=grant)
        return await self._renew(grant, presented, csr_der, after_expiry=True)

    async def _renew(self, grant: Grant, presented: CertificateRecord, csr_der: bytes, *, after_expiry: bool) -> Issued:
        request = _read(csr_der, grant)
        if request.hash != presented.csr_hash and key_hash(request.public_key) == _key_hash(presented):
            raise _invalid("csr: its key is that of the certificate in use; generate a new key", grant)
        async with self._lock:
            grant = self._current(grant)
            known = _issued_for(grant, request, self._clock.now_us())
            if known is not None:
                return Issued(grant, known, repeated=True)
            self._check_room(grant)
            issued = issue_under(grant, csr_der, self.authority, self._certificate_lifetime_s)
            try:
                await self._grants.add_certificate(grant.id, issued, activate=False, after_expiry=after_expiry)
            except ConflictError:
                raise _revoked(self._grants.require(grant.id)) from None
        grant = self._current(grant)
        return Issued(grant, grant.certificates[issued.serial], repeated=False)

    def _current(self, grant: Grant) -> Grant:
        """Return the present state of the grant. Raises `EnrollmentRefusal` if it is not active any more."""
        grant = self._grants.require(grant.id)
        status = grant.status_at(self._clock.now_us())
        if status is GrantStatus.REVOKED:
            raise _revoked(grant)
        if status is not GrantStatus.ACTIVE:
            raise EnrollmentRefusal(Reason.GRANT_INVALID, CLOSED, detail=f"grant {status}", grant=grant)
        return grant

    def _check_time(self, claim: RenewalClaim, presented: CertificateRecord, grant: Grant) -> None:
        now = self._clock.now_us()
        off = claim.signed_at_us - now
        if abs(off) > PROOF_SKEW_US:
            text = f"proof: signed_at is {off / MICROSECONDS:+.0f} s from this gateway's clock; compare both clocks"
            raise _invalid(text, grant, detail="stale proof")
        if now < presented.not_after_us - PROOF_SKEW_US:
            raise _invalid("proof: its certificate has not expired; renew it on the federation address", grant)
        if now > presented.not_after_us + AFTER_EXPIRY_US:
            message = f"the certificate expired more than 7 days ago; {ENROLL_AGAIN}"
            raise EnrollmentRefusal(Reason.CERTIFICATE_INVALID, message, detail="expired too long ago", grant=grant)

    def _check_room(self, grant: Grant) -> None:
        now = self._clock.now_us()
        ends = [each.accepted_until_us for each in grant.certificates.values() if each.is_accepted(now)]
        if len(ends) >= MAX_ACCEPTED:
            refusal = EnrollmentRefusal(
                Reason.RATE_LIMITED,
                f"{MAX_ACCEPTED} certificates of this grant are accepted at this moment; use one of them",
                detail="too many certificates",
                grant=grant,
            )
            refusal.retry_after_s = (min(ends) - now) / MICROSECONDS
            raise refusal


def _read(csr_der: bytes, grant: Grant) -> CertificateRequest:
    try:
        return read_request(csr_der, grant.peer)
    except InputError as e:
        raise _invalid(str(e), grant) from None


def _issued_for(grant: Grant, request: CertificateRequest, now_us: int) -> CertificateRecord | None:
    """Return the certificate that was issued for this request before, if it is still accepted."""
    known = (each for each in grant.certificates.values() if each.csr_hash == request.hash)
    return next((each for each in known if each.is_accepted(now_us)), None)


def _key_hash(certificate: CertificateRecord) -> str:
    return key_hash(x509.load_pem_x509_certificate(certificate.pem.encode()).public_key())


def _invalid(message: str, grant: Grant | None = None, *, detail: str = "") -> EnrollmentRefusal:
    return EnrollmentRefusal(Reason.INVALID_REQUEST, message, detail=detail or message, grant=grant)


def _revoked(grant: Grant) -> EnrollmentRefusal:
    return EnrollmentRefusal(Reason.GRANT_REVOKED, grant.revoked_text, detail="grant revoked", grant=grant)
