"""The operator's acts on grants: what this gateway lets others read."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from federation.admin.context import AdminContext
from federation.admin.grant_preview import preview
from federation.admin.grant_warnings import grant_advice, scope_advice
from federation.admin.handlers.revocations import receipt_message
from federation.admin.lookup import find_grant, require_user
from federation.admin.messages.common import advertised, status_value
from federation.admin.pagination import page_of
from federation.clock import MICROSECONDS
from federation.errors import Action, InputError, NotFoundError, Remedy
from federation.scope.model import Scope
from federation.store.grants.registry import Grant, GrantStatus
from federation.suggest import near_matches
from federation.v1 import admin_pb2 as pb
from federation.wire.timestamps import optional_timestamp

__all__ = ["GrantDesk"]

SHOWN: Final = 64
"""Characters of a wrong name that an error repeats."""
LONGEST_S: Final = 100 * 366 * 86_400
"""A hundred years: what is longer was meant otherwise."""


class GrantDesk:
    """Creates, shows and opens grants, and records each act in the audit trail."""

    def __init__(self, parts: AdminContext) -> None:
        self._parts = parts

    async def create(self, request: pb.CreateGrantRequest) -> pb.CreateGrantResponse:
        """Create a pending grant, or only say what it would open.

        Raises `InputError` for the scope or a name, `NotFoundError` for the subject.
        """
        scope = Scope.parse(request.scope)
        if not 0 <= request.expires_in_s <= LONGEST_S:
            raise InputError("expires_in_s", "must be 0 (never) or a number of seconds below a hundred years")
        await require_user(self._parts, request.subject)
        grants = self._parts.grants
        expires = self._now_us() + request.expires_in_s * MICROSECONDS if request.expires_in_s else None
        asked: dict[str, Any] = {"peer": request.peer, "subject": request.subject, "scope": scope}
        if request.validate_only:
            grant = grants.draft(**asked, expires_at_us=expires)
        else:
            grant = await grants.create(**asked, expires_at_us=expires)
            self._record("grant.create", grant)
        opens = await preview(self._parts.provider, grant.subject, scope)
        advice = await scope_advice(self._parts, grant.subject, scope)
        reply = pb.CreateGrantResponse(
            grant=self._parts.grant_info(grant),
            warnings=(*advice, *grant_advice(self._parts, grant, opens)),
            opens=opens,
        )
        if request.validate_only:
            reply.grant.ClearField("id")
        return reply

    async def get(self, request: pb.GetGrantRequest) -> pb.GetGrantResponse:
        """Return one grant with its receipts. What it opens is counted where asked for, and where it opens anything."""
        grant = find_grant(self._parts.grants, request.id)
        receipts = await self._parts.coordinator.revocations.receipts(grant.id)
        counts = request.preview and grant.status_at(self._now_us()) in {GrantStatus.PENDING, GrantStatus.ACTIVE}
        opens = await preview(self._parts.provider, grant.subject, grant.scope) if counts else ()
        return pb.GetGrantResponse(
            grant=self._parts.grant_info(grant), opens=opens, receipts=map(receipt_message, receipts)
        )

    async def list(self, request: pb.ListGrantsRequest) -> pb.ListGrantsResponse:
        """Return grants that pass every filter, newest first.

        Raises `NotFoundError` with near matches for a peer or subject that nothing is known of.
        """
        grants, now_us = self._parts.grants.all(), self._now_us()
        await self._check_filters(request, grants)
        wanted = [
            grant
            for grant in grants
            if request.peer in {"", grant.peer}
            and request.subject in {"", grant.subject}
            and request.status in {0, status_value(grant, now_us)}
        ]
        page, token = page_of(sorted(wanted, key=_newest_first), _newest_first, request)
        return pb.ListGrantsResponse(grants=map(self._parts.grant_info, page), next_page_token=token)

    async def token(self, request: pb.CreateEnrollmentTokenRequest) -> pb.CreateEnrollmentTokenResponse:
        """Make an enrollment token; raise `ConflictError` for a grant that cannot be enrolled any more."""
        token, expires_at_us = await self._parts.issuer.create_token(
            request.grant_id, endpoint=self._enrollment_endpoint(), confirm=request.confirm
        )
        self._record("grant.token", self._parts.grants.require(request.grant_id))
        return pb.CreateEnrollmentTokenResponse(token=token.encode(), expires_at=optional_timestamp(expires_at_us))

    async def confirm(self, request: pb.ConfirmGrantRequest) -> pb.ConfirmGrantResponse:
        """Open a grant that awaits confirmation."""
        grant = await self._parts.grants.confirm(request.id, request.fingerprint)
        self._record("grant.confirm", grant)
        return pb.ConfirmGrantResponse(grant=self._parts.grant_info(grant))

    def messages(self) -> Sequence[pb.GrantInfo]:
        """Return every grant for the status, by peer, subject and id."""
        grants = sorted(self._parts.grants.all(), key=lambda grant: (grant.peer, grant.subject, grant.id))
        return [self._parts.grant_info(grant) for grant in grants]

    async def _check_filters(self, request: pb.ListGrantsRequest, grants: Iterable[Grant]) -> None:
        """Tell a slip in a filter from a filter that nothing passes."""
        peers, subjects = {grant.peer for grant in grants}, {grant.subject for grant in grants}
        if request.peer and request.peer not in peers:
            near, remedy = near_matches(request.peer, peers, most=1), Remedy(action=Action.LIST_GRANTS)
            cure = "list all grants to find it"
            raise NotFoundError("grant for the gateway", request.peer[:SHOWN], near, cure, remedy=remedy)
        if request.subject and request.subject not in subjects:
            await require_user(self._parts, request.subject)

    def _record(self, verb: str, grant: Grant) -> None:
        self._parts.audit.record_act(
            verb, grant_id=grant.id, peer=grant.peer, subject=grant.subject, source="admin", reason=grant.revoked_reason
        )

    def _enrollment_endpoint(self) -> str:
        _, enrollment = self._parts.addresses()
        return advertised(self._parts.config, enrollment, "enroll")

    def _now_us(self) -> int:
        return self._parts.clock.now_us()


def _newest_first(grant: Grant) -> tuple[int, str]:
    return -grant.created_at_us, grant.id
