"""The operator's acts on grants: what this gateway lets others read."""

from collections.abc import Sequence
from typing import Final

from federation.admin.messages import advertised, grant_message, stamp
from federation.admin.paging import page_of
from federation.admin.parts import GatewayParts
from federation.admin.users import require_user
from federation.clock import MICROSECONDS
from federation.errors import InputError, NotFoundError
from federation.near import near_matches
from federation.scope import Scope
from federation.store.grants import Grant
from federation.v1 import admin_pb2 as pb

__all__ = ["GrantDesk"]

LONGEST_S: Final = 100 * 366 * 86_400
"""A hundred years: what is longer was meant otherwise."""


class GrantDesk:
    """Creates, shows and opens grants, and records each act in the audit trail."""

    def __init__(self, parts: GatewayParts) -> None:
        self._parts = parts

    async def create(self, request: pb.CreateGrantRequest) -> pb.CreateGrantResponse:
        """Create a pending grant. Raises `InputError` for the scope or a name, `NotFoundError` for the subject."""
        scope = Scope.parse(request.scope)
        if not 0 <= request.expires_in_s <= LONGEST_S:
            raise InputError("expires_in_s", "must be 0 (never) or a number of seconds below a hundred years")
        await require_user(self._parts, request.subject)
        expires = self._now_us() + request.expires_in_s * MICROSECONDS if request.expires_in_s else None
        grant = await self._parts.grants.create(
            peer=request.peer, subject=request.subject, scope=scope, expires_at_us=expires
        )
        self._record("grant.create", grant)
        return pb.CreateGrantResponse(grant=self._message(grant), warnings=scope.warnings)

    async def get(self, request: pb.GetGrantRequest) -> pb.GetGrantResponse:
        """Return one grant."""
        return pb.GetGrantResponse(grant=self._message(self._require(request.id)))

    async def list(self, request: pb.ListGrantsRequest) -> pb.ListGrantsResponse:
        """Return grants, newest first."""
        newest_first = self._parts.grants.all()[::-1]
        page, token = page_of(newest_first, request.page_size, request.page_token)
        return pb.ListGrantsResponse(grants=[self._message(grant) for grant in page], next_page_token=token)

    async def token(self, request: pb.CreateEnrollmentTokenRequest) -> pb.CreateEnrollmentTokenResponse:
        """Make an enrollment token; raise `ConflictError` for a grant that cannot be enrolled any more."""
        token, expires_at_us = await self._parts.issuer.invite(
            request.grant_id, endpoint=self._enrollment_endpoint(), confirm=request.confirm
        )
        self._record("grant.token", self._require(request.grant_id))
        return pb.CreateEnrollmentTokenResponse(token=token.encode(), expires_at=stamp(expires_at_us))

    async def confirm(self, request: pb.ConfirmGrantRequest) -> pb.ConfirmGrantResponse:
        """Open a grant that awaits confirmation."""
        self._require(request.id)
        grant = await self._parts.grants.confirm(request.id, request.fingerprint)
        self._record("grant.confirm", grant)
        return pb.ConfirmGrantResponse(grant=self._message(grant))

    def messages(self) -> Sequence[pb.GrantInfo]:
        """Return every grant for the status, by peer, subject and id."""
        grants = sorted(self._parts.grants.all(), key=lambda grant: (grant.peer, grant.subject, grant.id))
        return [self._message(grant) for grant in grants]

    def _require(self, grant_id: str) -> Grant:
        grant = self._parts.grants.get(grant_id)
        if grant is None:
            near = near_matches(grant_id, (grant.id for grant in self._parts.grants.all()), most=1)
            raise NotFoundError("grant", grant_id, near, "`mosaic federation grant list` shows them")
        return grant

    def _message(self, grant: Grant) -> pb.GrantInfo:
        upkeep = self._parts.upkeep
        leases, watches = upkeep.leases.count(grant.id), upkeep.hub.count(grant.id)
        use = upkeep.counters.of(grant.id)
        return grant_message(grant, self._now_us(), leases=leases, watches=watches, use=use)

    def _record(self, verb: str, grant: Grant) -> None:
        self._parts.audit.record_act(
            verb, grant_id=grant.id, peer=grant.peer, subject=grant.subject, source="admin", reason=grant.revoked_reason
        )

    def _enrollment_endpoint(self) -> str:
        _, enrollment = self._parts.addresses()
        return advertised(self._parts.config, enrollment, "enroll")

    def _now_us(self) -> int:
        return self._parts.clock.now_us()
