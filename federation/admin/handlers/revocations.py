"""The operator's acts that take something back: revoking grants, editing scopes, removing users.

Each goes on to its end when the operator's command goes away; asking again joins it, or shows its receipt.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Final

from federation.admin.context import AdminContext
from federation.admin.grant_preview import preview
from federation.admin.grant_warnings import scope_advice
from federation.admin.lookup import require_user
from federation.aio import ShieldedTasks
from federation.resources.provider import Removal, RemovesUsers
from federation.scope.diff import compare_scopes
from federation.scope.model import Scope
from federation.server.revocation.leases import Release
from federation.server.revocation.manager import RevocationHandle, ScopeEdit
from federation.store.grants.registry import Grant, GrantStatus
from federation.store.receipts import Receipt
from federation.v1 import admin_pb2 as pb
from federation.wire.timestamps import optional_timestamp, timestamp

__all__ = ["RevocationDesk", "receipt_message", "release_message"]

News = pb.RevocationProgress | pb.RevocationReceipt
USER_REMOVED = "the user was removed"
MOST_COUNTED: Final = 2**32 - 1
"""The largest number that a receipt can carry. Peers say how many calls they failed, and may say anything."""


class RevocationDesk:
    """Takes back, streams what is awaited, and records each act in the audit trail."""

    def __init__(self, parts: AdminContext) -> None:
        self._parts = parts
        self._under_way = ShieldedTasks()

    async def revoke(self, request: pb.RevokeGrantRequest) -> AsyncIterator[pb.RevokeGrantResponse]:
        """Revoke a grant. The last message is the receipt; with `no_wait` it may be what is still awaited."""
        before = self._parts.grants.require(request.id)
        handle = await self._parts.coordinator.revocations.revoke(request.id, request.reason)
        if before.status is not GrantStatus.REVOKED:
            self._record("grant.revoke", self._parts.grants.require(request.id))
        async for news in self._told(handle, wait=not request.no_wait):
            if isinstance(news, pb.RevocationProgress):
                yield pb.RevokeGrantResponse(progress=news)
            else:
                yield pb.RevokeGrantResponse(receipt=news)

    async def edit_scope(self, request: pb.UpdateGrantScopeRequest) -> AsyncIterator[pb.UpdateGrantScopeResponse]:
        """Put a scope in force, or only say what that would change. Of a narrowing, the last message is the receipt."""
        scope = Scope.parse(request.scope)
        if request.validate_only:
            yield await self._tried(self._parts.grants.require_unrevoked(request.id), scope)
            return
        edit = await self._under_way.run(self._edit(request.id, scope))
        yield await self._first(edit.grant, scope, edit.change.gains, edit.change.losses, applied=edit.applied)
        if edit.handle is None:
            return
        async for news in self._told(edit.handle, wait=not request.no_wait):
            if isinstance(news, pb.RevocationProgress):
                yield pb.UpdateGrantScopeResponse(progress=news)
            else:
                yield pb.UpdateGrantScopeResponse(receipt=news)

    async def remove_user(self, request: pb.RemoveUserRequest) -> AsyncIterator[pb.RemoveUserResponse]:
        """Revoke every grant of a user, then take the user out of the gateway's own data, then wait for the receipts.

        Raises `NotFoundError` for a user that the gateway neither knows nor granted anything as.
        """
        if all(grant.subject != request.user for grant in self._parts.grants.all()):
            await require_user(self._parts, request.user)
        handles, removal = await self._under_way.run(self._remove(request.user, request.reason or USER_REMOVED))
        peers = [peer.name for peer in self._parts.federation.peers.all() if peer.user == request.user]
        yield pb.RemoveUserResponse(
            removal=pb.UserRemoval(
                user=request.user,
                grants=[
                    self._parts.grant_info(self._parts.grants.require(handle.begun.grant_id)) for handle in handles
                ],
                teams=removal.teams if removal else (),
                owned_rows=removal.owned_rows if removal else 0,
                from_data=removal is not None,
                peers=peers,
            )
        )
        for handle in handles:
            async for news in self._told(handle, wait=not request.no_wait):
                if isinstance(news, pb.RevocationProgress):
                    yield pb.RemoveUserResponse(progress=news)
                else:
                    yield pb.RemoveUserResponse(receipt=news)

    async def close(self) -> None:
        """Wait for the acts under way."""
        await self._under_way.join()

    async def _edit(self, grant_id: str, scope: Scope) -> ScopeEdit:
        edit = await self._parts.coordinator.revocations.edit_scope(grant_id, scope)
        if edit.applied:
            self._record("grant.scope", edit.grant, reason="; ".join(edit.change.losses))
        return edit

    async def _remove(self, user: str, reason: str) -> tuple[list[RevocationHandle], Removal | None]:
        handles = await self._revoke_all(user, reason)
        faults = await asyncio.gather(*(handle.durable() for handle in handles), return_exceptions=True)
        provider = self._parts.provider
        removal = await provider.remove_user(user) if isinstance(provider, RemovesUsers) else None
        # A grant that was being made while the user still was there.
        late = await self._revoke_all(user, reason, but={handle.begun.grant_id for handle in handles})
        faults += await asyncio.gather(*(handle.durable() for handle in late), return_exceptions=True)
        self._parts.audit.record_act("user.remove", subject=user, source="admin")
        for fault in faults:
            if isinstance(fault, BaseException):
                raise fault
        return handles + late, removal

    async def _revoke_all(self, user: str, reason: str, but: Collection[str] = ()) -> list[RevocationHandle]:
        """Revoke what is not revoked yet, and again where an earlier revocation could not be stored."""
        revocations, handles = self._parts.coordinator.revocations, []
        mine = [grant for grant in self._parts.grants.all() if grant.subject == user and grant.id not in but]
        # A first revocation refuses without a look at the database; that comes before what may fail.
        for grant in sorted(mine, key=lambda grant: grant.status is GrantStatus.REVOKED):
            if revocations.is_open(grant.id):
                handles.append(await revocations.revoke(grant.id, reason))
                if grant.status is not GrantStatus.REVOKED:
                    self._record("grant.revoke", self._parts.grants.require(grant.id))
        return handles

    async def _told(self, handle: RevocationHandle, *, wait: bool) -> AsyncIterator[News]:
        await handle.durable()
        grant_id = handle.begun.grant_id
        async for instances in handle.follow():
            grant = self._parts.grant_info(self._parts.grants.require(grant_id))
            yield pb.RevocationProgress(grant=grant, awaited=map(release_message, instances))
            if not wait:
                return
        yield receipt_message(await handle.receipt())

    async def _first(
        self, grant: Grant, scope: Scope, gains: tuple[str, ...], losses: tuple[str, ...], *, applied: bool
    ) -> pb.UpdateGrantScopeResponse:
        warnings = await scope_advice(self._parts, grant.subject, scope)
        return pb.UpdateGrantScopeResponse(
            grant=self._parts.grant_info(grant), warnings=warnings, gains=gains, losses=losses, applied=applied
        )

    async def _tried(self, grant: Grant, scope: Scope) -> pb.UpdateGrantScopeResponse:
        change = compare_scopes(grant.scope, scope)
        reply = await self._first(grant, scope, change.gains, change.losses, applied=False)
        provider = self._parts.provider
        reply.opened.extend(await preview(provider, grant.subject, grant.scope))
        reply.opens.extend(await preview(provider, grant.subject, scope))
        return reply

    def _record(self, verb: str, grant: Grant, reason: str = "") -> None:
        self._parts.audit.record_act(
            verb,
            grant_id=grant.id,
            peer=grant.peer,
            subject=grant.subject,
            source="admin",
            reason=reason or grant.revoked_reason,
        )


def receipt_message(receipt: Receipt) -> pb.RevocationReceipt:
    """Return a finished receipt."""
    return pb.RevocationReceipt(
        grant_id=receipt.grant_id,
        kind=receipt.kind.value,
        revoked_at=optional_timestamp(receipt.begun_at_us),
        effective_at=optional_timestamp(receipt.effective_at_us),
        reason=receipt.reason,
        instances=(
            pb.LeaseRelease(
                instance_id=one.instance, how=one.how, at=timestamp(one.at_us), failed_in_flight=one.failed_in_flight
            )
            for one in receipt.instances
        ),
        failed_in_flight=min(MOST_COUNTED, sum(one.failed_in_flight for one in receipt.instances)),
    )


def release_message(release: Release) -> pb.LeaseRelease:
    """Return how one cache object stands."""
    return pb.LeaseRelease(
        instance_id=release.instance,
        how=release.how.value,
        at=optional_timestamp(release.at_us),
        failed_in_flight=release.failed_in_flight,
        until=optional_timestamp(release.until_us),
    )
