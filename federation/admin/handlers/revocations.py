"""Handlers of the RPCs that withdraw rights: revoking grants, editing scopes, removing users.

An operation completes even if the operator's command ends. A repeated request joins it, or returns its receipt.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Final, TypeVar

from federation.admin.context import AdminContext
from federation.admin.grant_preview import preview
from federation.admin.grant_warnings import scope_warnings
from federation.admin.lookup import require_user
from federation.admin.messages.common import receipt_message, release_message
from federation.aio import ShieldedTasks
from federation.resources.provider import Removal, RemovesUsers
from federation.scope.diff import ScopeChange, compare_scopes
from federation.scope.model import Scope
from federation.server.revocation.manager import RevocationHandle, ScopeEdit
from federation.store.grants.model import Grant, GrantStatus
from federation.v1 import admin_pb2 as pb

USER_REMOVED: Final = "the user was removed"
Response = TypeVar("Response", pb.RevokeGrantResponse, pb.UpdateGrantScopeResponse, pb.RemoveUserResponse)


class RevocationHandlers:
    """Revokes and narrows grants, streams the progress, and records each act in the audit trail."""

    def __init__(self, context: AdminContext) -> None:
        self._context = context
        self._under_way = ShieldedTasks()

    async def revoke(self, request: pb.RevokeGrantRequest) -> AsyncIterator[pb.RevokeGrantResponse]:
        """Revoke a grant. The last message is the receipt, or with `no_wait` possibly the progress so far."""
        before = self._context.grants.require(request.id)
        handle = await self._context.coordinator.revocations.revoke(request.id, request.reason)
        if before.status is not GrantStatus.REVOKED:
            self._record_revocation(request.id)
        async for message in self._progress(pb.RevokeGrantResponse, handle, wait=not request.no_wait):
            yield message

    async def edit_scope(self, request: pb.UpdateGrantScopeRequest) -> AsyncIterator[pb.UpdateGrantScopeResponse]:
        """Replace a scope, or with `validate_only` only preview the change.

        If the new scope is narrower, the last message is the receipt, or with `no_wait` possibly the progress so far.
        """
        scope = Scope.parse(request.scope)
        if request.validate_only:
            yield await self._preview_edit(self._context.grants.require_unrevoked(request.id), scope)
            return
        edit = await self._under_way.run(self._edit(request.id, scope))
        yield await self._scope_response(edit.grant, scope, edit.change, applied=edit.applied)
        if edit.handle is None:
            return
        async for message in self._progress(pb.UpdateGrantScopeResponse, edit.handle, wait=not request.no_wait):
            yield message

    async def remove_user(self, request: pb.RemoveUserRequest) -> AsyncIterator[pb.RemoveUserResponse]:
        """Revoke every grant of a user, then remove the user from the gateway's own data, then wait for the receipts.

        Raises `NotFoundError` for a user that occurs neither in the gateway's data nor as the subject of a grant.
        """
        if all(grant.subject != request.user for grant in self._context.grants.all()):
            await require_user(self._context, request.user)
        handles, removal = await self._under_way.run(self._remove(request.user, request.reason or USER_REMOVED))
        peers = [peer.name for peer in self._context.federation.peers.all() if peer.user == request.user]
        yield pb.RemoveUserResponse(
            removal=pb.UserRemoval(
                user=request.user,
                grants=[
                    self._context.grant_info(self._context.grants.require(handle.begun.grant_id)) for handle in handles
                ],
                teams=removal.teams if removal else (),
                owned_rows=removal.owned_rows if removal else 0,
                from_data=removal is not None,
                peers=peers,
            )
        )
        for handle in handles:
            async for message in self._progress(pb.RemoveUserResponse, handle, wait=not request.no_wait):
                yield message

    async def close(self) -> None:
        """Wait for operations in progress."""
        await self._under_way.join()

    async def _edit(self, grant_id: str, scope: Scope) -> ScopeEdit:
        edit = await self._context.coordinator.revocations.edit_scope(grant_id, scope)
        if edit.applied:
            self._context.audit.record_grant_act(
                "grant.scope", edit.grant, reason="; ".join(edit.change.losses), source="admin"
            )
        return edit

    async def _remove(self, user: str, reason: str) -> tuple[list[RevocationHandle], Removal | None]:
        handles = await self._revoke_all(user, reason)
        faults = await asyncio.gather(*(handle.durable() for handle in handles), return_exceptions=True)
        provider = self._context.provider
        removal = await provider.remove_user(user) if isinstance(provider, RemovesUsers) else None
        # A grant may have been created before the user was removed.
        late_handles = await self._revoke_all(user, reason, excluding={handle.begun.grant_id for handle in handles})
        faults += await asyncio.gather(*(handle.durable() for handle in late_handles), return_exceptions=True)
        self._context.audit.record_act("user.remove", subject=user, source="admin")
        for fault in faults:
            if isinstance(fault, BaseException):
                raise fault
        return handles + late_handles, removal

    async def _revoke_all(self, user: str, reason: str, excluding: Collection[str] = ()) -> list[RevocationHandle]:
        """Revoke a user's grants that are not revoked, and retry revocations that could not be stored."""
        revocations, handles = self._context.coordinator.revocations, []
        user_grants = [
            grant for grant in self._context.grants.all() if grant.subject == user and grant.id not in excluding
        ]
        # Grants not revoked yet come first: they are refused without the database, and retries may fail in it.
        for grant in sorted(user_grants, key=lambda grant: grant.status is GrantStatus.REVOKED):
            if revocations.is_open(grant.id):
                handles.append(await revocations.revoke(grant.id, reason))
                if grant.status is not GrantStatus.REVOKED:
                    self._record_revocation(grant.id)
        return handles

    async def _progress(
        self, response: type[Response], handle: RevocationHandle, *, wait: bool
    ) -> AsyncIterator[Response]:
        """Yield the state of a revocation after each release, then its receipt; without `wait` only one of them."""
        await handle.durable()
        async for instances in handle.follow():
            grant = self._context.grant_info(self._context.grants.require(handle.begun.grant_id))
            yield response(progress=pb.RevocationProgress(grant=grant, awaited=map(release_message, instances)))
            if not wait:
                return
        yield response(receipt=receipt_message(await handle.receipt()))

    async def _scope_response(
        self, grant: Grant, scope: Scope, change: ScopeChange, *, applied: bool
    ) -> pb.UpdateGrantScopeResponse:
        warnings = await scope_warnings(self._context, grant.subject, scope)
        return pb.UpdateGrantScopeResponse(
            grant=self._context.grant_info(grant),
            warnings=warnings,
            gains=change.gains,
            losses=change.losses,
            applied=applied,
        )

    async def _preview_edit(self, grant: Grant, scope: Scope) -> pb.UpdateGrantScopeResponse:
        reply = await self._scope_response(grant, scope, compare_scopes(grant.scope, scope), applied=False)
        provider = self._context.provider
        reply.opened.extend(await preview(provider, grant.subject, grant.scope))
        reply.opens.extend(await preview(provider, grant.subject, scope))
        return reply

    def _record_revocation(self, grant_id: str) -> None:
        grant = self._context.grants.require(grant_id)
        self._context.audit.record_grant_act("grant.revoke", grant, reason=grant.revoked_reason, source="admin")
