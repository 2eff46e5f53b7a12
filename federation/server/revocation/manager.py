"""The revocation manager runs revocations and reductions of scopes for the gateway, whatever becomes of their callers.

`protocol.revocation_steps` yields the steps that the manager carries out. A process that starts continues what an
earlier process left unfinished.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Generator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final, TypeVar

from federation.clock import SYSTEM_CLOCK, Clock
from federation.errors import ConflictError, FederationError
from federation.scope.diff import ScopeChange, compare_scopes
from federation.scope.model import Scope
from federation.server.audit.trail import AuditTrail
from federation.server.revocation.leases import LeaseTable, PendingRevocation, Release
from federation.server.revocation.protocol import (
    Act,
    Revoking,
    ScopeReduction,
    Step,
    Store,
    StoreReceipt,
    Wait,
    revocation_steps,
)
from federation.server.watch.subscriptions import Event, EventType, SubscriptionRegistry
from federation.store.grants.registry import Grant, GrantRegistry, GrantStatus
from federation.store.receipts import InstanceRecord, Receipt, ReceiptKind, ReceiptStore

__all__ = ["RevocationHandle", "Revocations", "ScopeEdit"]

T = TypeVar("T")
LOGGER: Final = logging.getLogger(__name__)
POLL_S: Final = 0.25
"""How often leases are looked at: the loop's own timers stand still while a machine sleeps, leases do not."""


class RevocationHandle:
    """A caller's view of one revocation. The revocation goes on when its callers go away."""

    def __init__(self, begun: Receipt, withdrawal: PendingRevocation | None = None) -> None:
        self.begun = begun
        """The receipt as known at the beginning."""
        self._withdrawal, self._loop = withdrawal, asyncio.get_running_loop()
        if withdrawal is not None:
            withdrawal.changed = self._wake
        self._released: asyncio.Future[None] = self._loop.create_future()
        self.stored: asyncio.Future[None] = self._loop.create_future()
        """Set by the manager once the database holds the refusal."""
        self.finished: asyncio.Future[Receipt] = self._loop.create_future()
        """Set by the manager once the database holds the receipt."""
        for future in (self.stored, self.finished):
            future.add_done_callback(_retrieve)

    @classmethod
    def over(cls, receipt: Receipt) -> "RevocationHandle":
        """Return the view of a revocation that has its receipt."""
        taking = cls(receipt)
        taking.stored.set_result(None)
        taking.finished.set_result(receipt)
        return taking

    @property
    def instances(self) -> tuple[Release, ...]:
        """The cache objects that were awaited, each with its present state."""
        return self._withdrawal.instances if self._withdrawal else ()

    async def durable(self) -> None:
        """Wait until the refusal is stored. Raises `StoreError` where the write failed; the refusal stays in force."""
        await asyncio.shield(self.stored)

    async def receipt(self) -> Receipt:
        """Wait for the receipt. Raises `StoreError` where a write failed, `ConflictError` where the gateway stops."""
        return await asyncio.shield(self.finished)

    async def follow(self) -> AsyncIterator[tuple[Release, ...]]:
        """Yield `instances` now and after each release, until the revocation ends."""
        while not self.finished.done():
            released = self._released
            yield self.instances
            await asyncio.wait((released, self.finished), return_when=asyncio.FIRST_COMPLETED)

    async def next_release(self, timeout_s: float) -> None:
        """Wait until a cache object is released, for so long at most."""
        await asyncio.wait((self._released,), timeout=timeout_s)

    def fail(self, fault: Exception) -> None:
        """End the revocation in this process with a fault."""
        for future in (self.stored, self.finished):
            if not future.done():
                future.set_exception(fault)

    def _wake(self) -> None:
        self._released.set_result(None)
        self._released = self._loop.create_future()


@dataclass(frozen=True, slots=True)
class ScopeEdit:
    """The result of a scope edit. `taking` is set where the peer lost access, `applied` where the scope differs."""

    grant: Grant
    change: ScopeChange
    taking: RevocationHandle | None
    applied: bool


class Revocations:
    """Revokes grants and reduces their scopes. One event loop uses it; `resume` it once, before serving.

    The audit trail records each revocation that became effective.
    """

    def __init__(
        self,
        grants: GrantRegistry,
        receipts: ReceiptStore,
        leases: LeaseTable,
        hub: SubscriptionRegistry,
        audit: AuditTrail,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._grants, self._receipts, self._leases, self._hub = grants, receipts, leases, hub
        self._audit, self._clock = audit, clock
        self._running: dict[tuple[str, ReceiptKind], RevocationHandle] = {}
        self._unsaved_receipts: dict[str, Receipt] = {}
        self._unstored: dict[str, Scope] = {}
        self._failed: set[tuple[str, ReceiptKind]] = set()
        self._editing, self._asking = asyncio.Lock(), asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    def revoking(self, grant_id: str) -> bool:
        """Tell whether the grant is being revoked at this moment."""
        return (grant_id, ReceiptKind.REVOKED) in self._running

    def is_open(self, grant_id: str) -> bool:
        """Tell whether the grant is not revoked, or its revocation has no receipt yet: it goes on, or it failed."""
        revoked = self._grants.require(grant_id).status is GrantStatus.REVOKED
        return not revoked or self.revoking(grant_id) or (grant_id, ReceiptKind.REVOKED) in self._failed

    async def revoke(self, grant_id: str, reason: str = "") -> RevocationHandle:
        """Revoke a grant, from this call on; or return what an earlier revocation of it came to, or is coming to.

        Raises `NotFoundError`, `InputError` for the reason, `StoreError` where receipts cannot be read.
        """
        act = Revoking(self._grants, self._hub, grant_id, reason)
        if self._grants.require(grant_id).status is not GrantStatus.REVOKED:
            return self._start(act)
        async with self._asking:
            return await self._known(grant_id, ReceiptKind.REVOKED) or self._start(act)

    async def edit_scope(self, grant_id: str, scope: Scope) -> ScopeEdit:
        """Put a scope in force for the next request, durably, and tell the peer.

        For the scope that is in force already, `taking` is the last narrowing of the grant, if there was one. Raises
        `NotFoundError`, `ConflictError` for a revoked grant, `StoreError`.
        """
        return await asyncio.shield(self._spawn(self._edit(grant_id, scope)))

    async def receipts(self, grant_id: str) -> tuple[Receipt, ...]:
        """Return what was taken back last of each kind, its revocation first, finished or not. Raises `StoreError`."""
        kinds = (ReceiptKind.REVOKED, ReceiptKind.NARROWED)
        found = [await self._receipts.last(grant_id, kind) for kind in kinds]
        return tuple(self._unsaved_receipts.get(receipt.id, receipt) for receipt in found if receipt is not None)

    async def resume(self) -> None:
        """Go on with what an earlier process left unfinished. Raises `StoreError`."""
        for receipt in await self._receipts.unfinished():
            LOGGER.warning("grant %s: what was being taken back was not finished; going on", receipt.grant_id)
            self._start(Act(self._hub, receipt))

    async def close(self) -> None:
        """Leave what is under way to the next process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _edit(self, grant_id: str, scope: Scope) -> ScopeEdit:
        async with self._editing:
            grant = self._grants.require(grant_id)
            if grant.status is GrantStatus.REVOKED:
                raise ConflictError(f"grant {grant_id} is revoked, which is final; make a new one")
            stored = self._unstored.get(grant_id, grant.scope)
            change = compare_scopes(stored, scope)
            if scope == grant.scope == stored:
                return ScopeEdit(grant, change, await self._known(grant_id, ReceiptKind.NARROWED), applied=False)
            taking = None
            self._unstored[grant_id] = stored
            if change.narrows or compare_scopes(grant.scope, scope).narrows:
                losses = "; ".join(change.losses)
                taking = self._start(ScopeReduction(self._grants, self._hub, grant_id, scope, losses, self._clock))
                await taking.durable()
            else:
                await self._grants.widen(grant_id, scope)
                self._hub.publish(grant_id, Event(EventType.GRANT_CHANGED))
            del self._unstored[grant_id]
            return ScopeEdit(self._grants.require(grant_id), change, taking, applied=True)

    async def _known(self, grant_id: str, kind: ReceiptKind) -> RevocationHandle | None:
        """Return the last taking back of a kind: under way, or over. One that nobody runs is taken up again."""
        # One that ends while the database is read would look unfinished there, so this comes first.
        if (running := self._running.get((grant_id, kind))) is not None:
            return running
        stored = await self._receipts.last(grant_id, kind)
        if stored is None or stored.effective_at_us is not None:
            return None if stored is None else RevocationHandle.over(stored)
        if (unkept := self._unsaved_receipts.get(stored.id)) is not None:
            await self._keep(unkept)
            return RevocationHandle.over(unkept)
        return self._start(Act(self._hub, stored))

    def _start(self, act: Act) -> RevocationHandle:
        """Refuse at once, and run the other steps in a task. Raises what the refusal raises."""
        steps = revocation_steps(act, self._leases)
        first = next(steps)
        taking = RevocationHandle(act.receipt, first.withdrawal if isinstance(first, Store) else None)
        self._running[act.grant_id, act.kind] = taking
        self._spawn(self._finish(act, taking, steps, first))
        return taking

    async def _finish(
        self, act: Act, taking: RevocationHandle, steps: Generator[Step, None, None], first: Step
    ) -> None:
        try:
            for step in chain((first,), steps):
                await self._do(step, act, taking)
        except asyncio.CancelledError:
            taking.fail(ConflictError("the gateway stops; this goes on when it starts again"))
            raise
        except Exception as e:
            if isinstance(e, FederationError):
                LOGGER.error("%s", e)  # noqa: TRY400 - the caller that waits gets it as well
            else:
                LOGGER.exception("grant %s: taking it back failed", act.grant_id)
            self._failed.add((act.grant_id, act.kind))
            taking.fail(e)
        finally:
            steps.close()
            if self._running.get((act.grant_id, act.kind)) is taking:
                del self._running[act.grant_id, act.kind]
            if act.kind is ReceiptKind.REVOKED:
                self._hub.end(act.grant_id)

    async def _do(self, step: Step, act: Act, taking: RevocationHandle) -> None:
        match step:
            case Store():
                await act.store()
                taking.stored.set_result(None)
            case Wait(seconds):
                await taking.next_release(min(seconds, POLL_S))
            case StoreReceipt(withdrawal):
                receipt = _receipt(taking.begun, withdrawal)
                await self._keep(receipt)
                taking.finished.set_result(receipt)

    async def _keep(self, receipt: Receipt) -> None:
        self._unsaved_receipts[receipt.id] = receipt
        await self._receipts.finish(receipt)
        del self._unsaved_receipts[receipt.id]
        self._failed.discard((receipt.grant_id, receipt.kind))
        grant = self._grants.require(receipt.grant_id)
        self._audit.record_act(
            "grant.effective",
            grant_id=grant.id,
            peer=grant.peer,
            subject=grant.subject,
            reason=f"{receipt.kind}: {receipt.reason}" if receipt.reason else receipt.kind.value,
            source="gateway",
        )

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _receipt(begun: Receipt, withdrawal: PendingRevocation) -> Receipt:
    instances = (
        InstanceRecord(one.instance, one.how.value, one.at_us or 0, one.failed_in_flight)
        for one in withdrawal.instances
    )
    effective_at_us = max(begun.begun_at_us, withdrawal.effective_at_us)
    return replace(begun, effective_at_us=effective_at_us, instances=tuple(instances))


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Retrieve the exception, so that asyncio does not log it where no caller waits any more."""
    if not future.cancelled():
        future.exception()
