"""Runs what is taken back, owned by the gateway: it goes on when the operator's command goes away, and after a crash.

`withdrawing.revocation_steps` has the order of the steps, `acts` what they do.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from federation.clock import SYSTEM_CLOCK, Clock
from federation.errors import ConflictError, FederationError
from federation.scope.diff import ScopeChange, scope_change
from federation.scope.model import Scope
from federation.server.revocation.handle import RevocationHandle
from federation.server.revocation.leases import LeaseTable, PendingRevocation
from federation.server.revocation.operations import Resuming, Revoking, ScopeReduction, StoredAct
from federation.server.revocation.protocol import Step, Store, StoreReceipt, Wait, revocation_steps
from federation.server.watch.subscriptions import Event, EventType, SubscriptionRegistry
from federation.store.grants.registry import Grant, GrantRegistry, GrantStatus
from federation.store.receipts import InstanceRecord, Receipt, ReceiptKind, ReceiptStore

__all__ = ["Revocations", "ScopeEdit"]

T = TypeVar("T")
LOGGER: Final = logging.getLogger(__name__)
POLL_S: Final = 0.25
"""How often leases are looked at: the loop's own timers stand still while a machine sleeps, leases do not."""


@dataclass(frozen=True, slots=True)
class ScopeEdit:
    """What became of a new scope: `taking` is there where the peer lost something, `applied` where it differs."""

    grant: Grant
    change: ScopeChange
    taking: RevocationHandle | None
    applied: bool


class Revocations:
    """Takes back grants and parts of their scopes. One event loop uses it; `resume` it once, before serving.

    `record` hears of each that became effective.
    """

    def __init__(
        self,
        grants: GrantRegistry,
        receipts: ReceiptStore,
        leases: LeaseTable,
        hub: SubscriptionRegistry,
        *,
        record: Callable[[Receipt], None],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._grants, self._receipts, self._leases, self._hub = grants, receipts, leases, hub
        self._record, self._clock = record, clock
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
            self._start(Resuming(self._hub, receipt))

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
            change = scope_change(stored, scope)
            if scope == grant.scope == stored:
                return ScopeEdit(grant, change, await self._known(grant_id, ReceiptKind.NARROWED), applied=False)
            taking = None
            self._unstored[grant_id] = stored
            if change.narrows or scope_change(grant.scope, scope).narrows:
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
        return self._start(Resuming(self._hub, stored))

    def _start(self, act: StoredAct) -> RevocationHandle:
        """Refuse, and let the rest go on by itself. Raises what the refusal raises."""
        steps = revocation_steps(act, self._leases, act.grant_id, final=act.kind is ReceiptKind.REVOKED)
        first = next(steps)
        taking = RevocationHandle(act.receipt, first.withdrawal if isinstance(first, Store) else None)
        self._running[act.grant_id, act.kind] = taking
        self._spawn(self._finish(act, taking, steps, first))
        return taking

    async def _finish(
        self, act: StoredAct, taking: RevocationHandle, steps: Generator[Step, None, None], first: Step
    ) -> None:
        try:
            await self._drive(act, taking, steps, first)
        except asyncio.CancelledError:
            taking.fail(ConflictError("the gateway stops; this goes on when it starts again"))
            raise
        except FederationError as e:
            LOGGER.error("%s", e)  # noqa: TRY400 - whoever waits hears of it as well
            self._fail(taking, e)
        except Exception as e:
            LOGGER.exception("grant %s: taking it back failed", act.grant_id)
            self._fail(taking, e)
        finally:
            steps.close()
            if self._running.get((act.grant_id, act.kind)) is taking:
                del self._running[act.grant_id, act.kind]
            if act.kind is ReceiptKind.REVOKED:
                self._hub.end(act.grant_id)

    async def _drive(
        self, act: StoredAct, taking: RevocationHandle, steps: Generator[Step, None, None], step: Step | None
    ) -> None:
        while step is not None:
            match step:
                case Store():
                    await act.store()
                    taking.now_durable()
                case Wait(seconds):
                    await taking.next_news(min(seconds, POLL_S))
                case StoreReceipt(withdrawal):
                    receipt = _receipt(taking.begun, withdrawal)
                    await self._keep(receipt)
                    taking.finish(receipt)
            step = next(steps, None)

    async def _keep(self, receipt: Receipt) -> None:
        self._unsaved_receipts[receipt.id] = receipt
        await self._receipts.finish(receipt)
        del self._unsaved_receipts[receipt.id]
        self._failed.discard((receipt.grant_id, receipt.kind))
        self._record(receipt)

    def _fail(self, taking: RevocationHandle, fault: Exception) -> None:
        self._failed.add((taking.begun.grant_id, taking.begun.kind))
        taking.fail(fault)

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
