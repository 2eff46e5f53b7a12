"""`EnrollmentService` on the wire: server TLS alone, so everything that arrives here may be hostile.

It stands behind the server's incident guard, which turns what is raised here into statuses.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from federation.errors import Reason
from federation.store.grant import Grant, GrantStatus
from federation.trust.issuing import EnrollmentRefusal, Issued, Issuer
from federation.v1 import enrollment_pb2 as pb
from federation.v1 import enrollment_pb2_grpc

__all__ = ["EnrollmentAudit", "EnrollmentEvent", "EnrollmentServicer"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EnrollmentEvent:
    """One attempt to enroll, for the audit log.

    `grant_id`, `peer` and `subject` are empty while nobody has shown the secret of a token. `outcome` is an outcome
    word (`ok`, `denied`, `invalid`, `error`); `reason` tells the attempts apart more finely than the caller is told;
    `source` is gRPC's name of the caller's address.
    """

    verb: str
    outcome: str
    reason: str
    source: str
    grant_id: str = ""
    peer: str = ""
    subject: str = ""


EnrollmentAudit = Callable[[EnrollmentEvent], Awaitable[None]]
"""Takes each event before its answer leaves; a `Refusal` that it raises is answered instead."""


class EnrollmentServicer(enrollment_pb2_grpc.EnrollmentServiceServicer):
    """Answers `Enroll`. `endpoint` gives host:port of the federation service as peers reach it."""

    def __init__(self, issuer: Issuer, *, endpoint: Callable[[], str], audit: EnrollmentAudit) -> None:
        self._issuer, self._endpoint, self._audit = issuer, endpoint, audit

    async def Enroll(  # noqa: N802 - the name in the contract
        self, request: pb.EnrollRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.EnrollResponse:
        """Turn a token's secret and a certificate request into a certificate, or raise a `Refusal`."""
        return self._response(await self._enroll(request, context.peer()))

    async def Renew(  # noqa: N802 - the name in the contract
        self, request: pb.RenewRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.RenewResponse:
        """Answer UNIMPLEMENTED: this version does not renew certificates."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this gateway does not renew certificates")
        raise AssertionError  # abort always raises

    async def _enroll(self, request: pb.EnrollRequest, source: str) -> Issued:
        try:
            issued = await self._issuer.enroll(request.secret, request.csr)
        except EnrollmentRefusal as refusal:
            outcome = "invalid" if refusal.reason is Reason.INVALID_REQUEST else "denied"
            if refusal.grant is not None:
                _log.warning(
                    "enrollment under grant %s refused: %s (from %s)", refusal.grant.id, refusal.detail, source
                )
            await self._audit(_event(outcome, refusal.detail, source, refusal.grant))
            raise
        reason = "same certificate again" if issued.again else ""
        await self._audit(_event("ok", reason, source, issued.grant))
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


def _event(outcome: str, reason: str, source: str, grant: Grant | None) -> EnrollmentEvent:
    if grant is None:
        return EnrollmentEvent("enroll", outcome, reason, source)
    return EnrollmentEvent("enroll", outcome, reason, source, grant.id, grant.peer, grant.subject)
