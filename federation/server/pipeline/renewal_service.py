"""`Renew` on the federation port, where the caller's certificate and grant are checked as for any call."""

from typing import Final

import grpc

from federation.clock import SYSTEM_CLOCK, Clock
from federation.enrollment.issuer import Issued
from federation.enrollment.renewal_issuer import RenewalIssuer
from federation.enrollment.servicer import EnrollmentAudit, enrollment_event, renewal_response
from federation.errors import Reason, Refusal
from federation.server.pipeline.authorization import authorize
from federation.server.pipeline.error_boundary import Context
from federation.server.pipeline.identity import CallerIdentity, caller_of
from federation.server.pipeline.rate_limit import GrantLimiter
from federation.store.grants.model import Grant
from federation.store.grants.registry import GrantRegistry
from federation.v1 import enrollment_pb2 as pb
from federation.verbs.validation import invalid

SERVICE_NAME: Final = "federation.v1.EnrollmentService"
RENEWALS_PER_MINUTE: Final = 30


class RenewalService:
    """Serves `EnrollmentService.Renew` over mutual TLS; `Enroll` is UNIMPLEMENTED here."""

    def __init__(
        self,
        renewal_issuer: RenewalIssuer,
        grants: GrantRegistry,
        *,
        audit: EnrollmentAudit,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._renewal_issuer, self._grants, self._audit, self._clock = renewal_issuer, grants, audit, clock
        self._limiter = GrantLimiter(clock.monotonic)

    def rpc_handler(self) -> grpc.GenericRpcHandler:
        """Return the handler that the server of the federation port registers."""
        renew = grpc.unary_unary_rpc_method_handler(
            self._renew,
            request_deserializer=pb.RenewRequest.FromString,
            response_serializer=pb.RenewResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE_NAME, {"Renew": renew})

    async def _renew(self, request: pb.RenewRequest, context: Context) -> pb.RenewResponse:
        source = context.peer()
        caller: CallerIdentity | None = None
        grant: Grant | None = None
        try:
            caller = caller_of(context.auth_context(), self._clock.now_us())
            grant = self._grants.get(caller.grant_id)
            issued = await self._issue(grant, caller, request)
        except Refusal as refusal:
            outcome = "invalid" if refusal.reason is Reason.INVALID_REQUEST else "denied"
            await self._audit(enrollment_event("renew", outcome, refusal.detail or refusal.reason.value, source, grant))
            raise
        await self._audit(
            enrollment_event("renew", "ok", "same certificate again" if issued.repeated else "", source, issued.grant)
        )
        return renewal_response(self._renewal_issuer.authority, issued)

    async def _issue(self, grant: Grant | None, caller: CallerIdentity, request: pb.RenewRequest) -> Issued:
        if grant is not None:
            self._limiter.check(grant.id, RENEWALS_PER_MINUTE)
        grant = authorize(grant, caller, self._clock.now_us())
        self._grants.record_use(grant.id, caller.serial)
        if request.HasField("proof"):
            raise invalid(
                "proof",
                "must be absent on the federation address, where the certificate of the connection is the proof",
            )
        issued = await self._renewal_issuer.renew(grant, caller.serial, request.csr)
        authorize(self._grants.get(grant.id), caller, self._clock.now_us())
        return issued
