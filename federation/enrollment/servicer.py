"""The servicer of `EnrollmentService` on the enrollment port, where clients are not authenticated.

The server's error boundary turns the exceptions of this module into statuses.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from federation.enrollment.issuer import EnrollmentRefusal, Issued, Issuer
from federation.enrollment.renewal_issuer import RenewalIssuer
from federation.errors import Reason
from federation.pki.authority import Authority
from federation.store.grants.model import Grant, GrantStatus
from federation.v1 import enrollment_pb2 as pb
from federation.v1 import enrollment_pb2_grpc

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EnrollmentEvent:
    """One attempt to enroll or to renew, for the audit trail.

    `grant_id`, `peer` and `subject` are empty unless the caller proved that it holds a token or an old key. `outcome`
    is `ok`, `denied`, `invalid` or `error`. `reason` is more precise than the answer to the caller. `source` is gRPC's
    name of the caller's address.
    """

    verb: str
    outcome: str
    reason: str
    source: str
    grant_id: str = ""
    peer: str = ""
    subject: str = ""


EnrollmentAudit = Callable[[EnrollmentEvent], Awaitable[None]]
"""Records an event before the answer leaves; if it raises a `Refusal`, that is the answer."""


class EnrollmentServicer(enrollment_pb2_grpc.EnrollmentServiceServicer):
    """Answers `Enroll`, and `Renew` for expired certificates. Valid ones are renewed on the federation port.

    `endpoint` returns host:port of the federation service as peers reach it.
    """

    def __init__(
        self,
        issuer: Issuer,
        renewal_issuer: RenewalIssuer,
        *,
        endpoint: Callable[[], str],
        audit: EnrollmentAudit,
    ) -> None:
        self._issuer, self._endpoint, self._audit, self._renewal_issuer = issuer, endpoint, audit, renewal_issuer

    async def Enroll(  # noqa: N802 - the name in the contract
        self, request: pb.EnrollRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.EnrollResponse:
        """Redeem a token's secret for a certificate; raise `Refusal` otherwise."""
        work = self._issuer.enroll(request.secret, request.csr)
        return self._response(await self._audited("enroll", work, context.peer()))

    async def Renew(  # noqa: N802 - the name in the contract
        self, request: pb.RenewRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.RenewResponse:
        """Renew an expired certificate by a proof of its key; raise `Refusal` otherwise."""
        work = self._renewal_issuer.renew_expired(request.proof, request.csr)
        issued = await self._audited("renew", work, context.peer(), "after expiry")
        if not issued.repeated:
            LOGGER.warning(
                "grant %s was renewed after its certificate had expired (%s)", issued.grant.id, context.peer()
            )
        return renewal_response(self._renewal_issuer.authority, issued)

    async def _audited(self, verb: str, work: Awaitable[Issued], source: str, audit_reason: str = "") -> Issued:
        try:
            issued = await work
        except EnrollmentRefusal as refusal:
            outcome = "invalid" if refusal.reason is Reason.INVALID_REQUEST else "denied"
            if refusal.grant is not None:
                LOGGER.warning(
                    "%s under grant %s refused: %s (from %s)", verb, refusal.grant.id, refusal.detail, source
                )
            await self._audit(enrollment_event(verb, outcome, refusal.detail, source, refusal.grant))
            raise
        reason = "same certificate again" if issued.repeated else audit_reason
        await self._audit(enrollment_event(verb, "ok", reason, source, issued.grant))
        return issued

    def _response(self, issued: Issued) -> pb.EnrollResponse:
        authority = self._issuer.authority
        return pb.EnrollResponse(
            certificate=issued.certificate.pem,
            trust_bundle=authority.trust_bundle,
            grant_id=issued.grant.id,
            subject=issued.grant.subject,
            gateway=authority.name,
            endpoint=self._endpoint(),
            awaiting_confirmation=issued.grant.status is GrantStatus.PENDING,
        )


def renewal_response(authority: Authority, issued: Issued) -> pb.RenewResponse:
    """Return the answer to a renewal. It contains the roots to trust from now on, so that a root can be replaced."""
    return pb.RenewResponse(certificate=issued.certificate.pem, trust_bundle=authority.trust_bundle)


def enrollment_event(verb: str, outcome: str, reason: str, source: str, grant: Grant | None) -> EnrollmentEvent:
    """Build the event of one attempt; `grant` is the one that the caller proved to hold."""
    if grant is None:
        return EnrollmentEvent(verb, outcome, reason, source)
    return EnrollmentEvent(verb, outcome, reason, source, grant.id, grant.peer, grant.subject)
