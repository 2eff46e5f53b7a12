"""Handlers of the RPCs on grants: creating, showing, enrolling and confirming them."""

from collections.abc import Iterable
from typing import Any, Final

from federation.admin.context import AdminContext
from federation.admin.grant_preview import preview
from federation.admin.grant_warnings import grant_warnings, scope_warnings
from federation.admin.lookup import find_grant, require_user
from federation.admin.messages.common import receipt_message, status_value
from federation.admin.pagination import page_of
from federation.clock import MICROSECONDS
from federation.errors import Action, InputError, NotFoundError, Remedy
from federation.scope.model import Scope
from federation.store.grants.model import Grant, GrantStatus
from federation.suggest import near_matches
from federation.v1 import admin_pb2 as pb
from federation.wire.timestamps import timestamp

MAX_NAME_SHOWN: Final = 64
"""Characters of an unknown name that an error quotes."""
MAX_EXPIRY_S: Final = 100 * 366 * 86_400
"""A hundred years. A longer lifetime is taken for a mistake in the unit."""


class GrantHandlers:
    """Creates, shows and confirms grants, and records each act in the audit trail."""

    def __init__(self, context: AdminContext) -> None:
        self._context = context

    async def create(self, request: pb.CreateGrantRequest) -> pb.CreateGrantResponse:
        """Create a pending grant, or with `validate_only` only preview the rows that it would open.

        Raises `InputError` for an invalid scope, name or lifetime, `NotFoundError` for an unknown subject.
        """
        scope = Scope.parse(request.scope)
        if not 0 <= request.expires_in_s <= MAX_EXPIRY_S:
            raise InputError("expires_in_s", "must be 0 (never) or a number of seconds below a hundred years")
        await require_user(self._context, request.subject)
        grants = self._context.grants
        expires = self._now_us() + request.expires_in_s * MICROSECONDS if request.expires_in_s else None
        fields: dict[str, Any] = {"peer": request.peer, "subject": request.subject, "scope": scope}
        if request.validate_only:
            grant = grants.draft(**fields, expires_at_us=expires)
        else:
            grant = await grants.create(**fields, expires_at_us=expires)
            self._context.audit.record_grant_act("grant.create", grant, source="admin")
        opens = await preview(self._context.provider, grant.subject, scope)
        warnings = await scope_warnings(self._context, grant.subject, scope)
        reply = pb.CreateGrantResponse(
            grant=self._context.grant_info(grant),
            warnings=(*warnings, *grant_warnings(self._context, grant, opens)),
            opens=opens,
        )
        if request.validate_only:
            reply.grant.ClearField("id")
        return reply

    async def get(self, request: pb.GetGrantRequest) -> pb.GetGrantResponse:
        """Return one grant with its receipts, and with `preview` the row counts of a pending or active grant."""
        grant = find_grant(self._context.grants, request.id)
        receipts = await self._context.coordinator.revocations.receipts(grant.id)
        counts = request.preview and grant.status_at(self._now_us()) in {GrantStatus.PENDING, GrantStatus.ACTIVE}
        opens = await preview(self._context.provider, grant.subject, grant.scope) if counts else ()
        return pb.GetGrantResponse(
            grant=self._context.grant_info(grant), opens=opens, receipts=map(receipt_message, receipts)
        )

    async def list(self, request: pb.ListGrantsRequest) -> pb.ListGrantsResponse:
        """Return the grants that match every filter, newest first.

        Raises `NotFoundError` with near matches for an unknown peer or subject.
        """
        grants, now_us = self._context.grants.all(), self._now_us()
        await self._check_filters(request, grants)
        matching = [
            grant
            for grant in grants
            if request.peer in {"", grant.peer}
            and request.subject in {"", grant.subject}
            and request.status in {0, status_value(grant, now_us)}
        ]
        page, token = page_of(sorted(matching, key=_newest_first), _newest_first, request)
        return pb.ListGrantsResponse(grants=map(self._context.grant_info, page), next_page_token=token)

    async def token(self, request: pb.CreateEnrollmentTokenRequest) -> pb.CreateEnrollmentTokenResponse:
        """Create an enrollment token. Raises `ConflictError` for a grant that cannot be enrolled any more."""
        _, address = self._context.addresses()
        token, expires_at_us = await self._context.issuer.create_token(
            request.grant_id, endpoint=self._context.config.advertised(address), confirm=request.confirm
        )
        grant = self._context.grants.require(request.grant_id)
        self._context.audit.record_grant_act("grant.token", grant, source="admin")
        return pb.CreateEnrollmentTokenResponse(token=token.encode(), expires_at=timestamp(expires_at_us))

    async def confirm(self, request: pb.ConfirmGrantRequest) -> pb.ConfirmGrantResponse:
        """Activate a grant that awaits confirmation."""
        grant = await self._context.grants.confirm(request.id, request.fingerprint)
        self._context.audit.record_grant_act("grant.confirm", grant, source="admin")
        return pb.ConfirmGrantResponse(grant=self._context.grant_info(grant))

    async def _check_filters(self, request: pb.ListGrantsRequest, grants: Iterable[Grant]) -> None:
        """Raise `NotFoundError` for a filter value that is unknown, rather than just without a match."""
        peers, subjects = {grant.peer for grant in grants}, {grant.subject for grant in grants}
        if request.peer and request.peer not in peers:
            near, remedy = near_matches(request.peer, peers, most=1), Remedy(action=Action.LIST_GRANTS)
            cure = "list all grants to find it"
            raise NotFoundError("grant for the gateway", request.peer[:MAX_NAME_SHOWN], near, cure, remedy=remedy)
        if request.subject and request.subject not in subjects:
            await require_user(self._context, request.subject)

    def _now_us(self) -> int:
        return self._context.clock.now_us()


def _newest_first(grant: Grant) -> tuple[int, str]:
    return -grant.created_at_us, grant.id
