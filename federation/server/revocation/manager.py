"""The manager of revocations and scope reductions, which run on when their callers are cancelled.

`protocol.revocation_steps` yields the steps that the manager carries out. A process that starts continues the
revocations that an earlier process left unfinished.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Generator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final, TypeVar

from federation.aio import cancel_and_wait
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
from federation.store.grants.model import Grant, GrantStatus
from federation.store.grants.registry import GrantRegistry
from federation.store.receipts import InstanceRecord, Receipt, ReceiptKind, ReceiptStore

T = TypeVar("T")
LOGGER: Final = logging.getLogger(__name__)
POLL_S: Final = 0.25
"""Seconds between checks of leases: the event loop's timers stop while a machine sleeps, leases do not."""


class RevocationHandle:
    """A caller's view of one revocation. The revocation continues when its callers are cancelled."""

    def __init__(self, begun: Receipt, revocation: PendingRevocation | None = None) -> None:
        self.begun = begun
        """The receipt as it was at the beginning."""
        self._revocation, self._loop = revocation, asyncio.get_running_loop()
        if revocation is not None:
            revocation.changed = self._wake
        self._released: asyncio.Future[None] = self._loop.create_future()
        self.stored: asyncio.Future[None] = self._loop.create_future()
        """Set by the manager once the database holds the refusal."""
        self.finished: asyncio.Future[Receipt] = self._loop.create_future()
        """Set by the manager once the database holds the receipt."""
        for future in (self.stored, self.finished):
            future.add_done_callback(_consume_exception)

    @classmethod
    def completed(cls, receipt: Receipt) -> "RevocationHandle":
        """Return the handle of a revocation that has its receipt."""
        handle = cls(receipt)
        handle.stored.set_result(None)
        handle.finished.set_result(receipt)
        return handle

    @property
    def instances(self) -> tuple[Release, ...]:
        """The cache objects that were awaited, each with its present state."""
        return self._revocation.instances if self._revocation else ()

    async def durable(self) -> None:
        """Wait until the refusal is stored. Raises `StoreError` if the write failed; the refusal stays in force."""
        await asyncio.shield(self.stored)

    async def receipt(self) -> Receipt:
        """Wait for the receipt. Raises `StoreError` if a write failed, `ConflictError` if the gateway stops."""
        return await asyncio.shield(self.finished)

    async def follow(self) -> AsyncIterator[tuple[Release, ...]]:
        """Yield `instances` now and after each release, until the revocation ends."""
        while not self.finished.done():
            released = self._released
            yield self.instances
            await asyncio.wait((released, self.finished), return_when=asyncio.FIRST_COMPLETED)

    async def next_release(self, timeout_s: float) -> None:
        """Wait for the release of a cache object, for at most `timeout_s`."""
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
    """The result of a scope edit. `handle` is set if the peer lost access, `applied` if the scope differs."""

    grant: Grant
    change: ScopeChange
    handle: RevocationHandle | None
    applied: bool


class Revocations:
    """Revokes grants and reduces their scopes. Use it from one event loop, and call `resume` once, before serving.

    The audit trail records each revocation that became effective.
    """

    def __init__(
        self,
        grants: GrantRegistry,
        receipts: ReceiptStore,
        leases: LeaseTable,
        subscriptions: SubscriptionRegistry,
        audit: AuditTrail,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._grants, self._receipts, self._leases, self._subscriptions = grants, receipts, leases, subscriptions
        self._audit, self._clock = audit, clock
        self._running: dict[tuple[str, ReceiptKind], RevocationHandle] = {}
        self._unsaved_receipts: dict[str, Receipt] = {}
        self._stored_scopes: dict[str, Scope] = {}
        self._failed: set[tuple[str, ReceiptKind]] = set()
        self._edit_lock, self._lookup_lock = asyncio.Lock(), asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    def is_revoking(self, grant_id: str) -> bool:
        """Tell whether the grant is being revoked at this moment."""
        return (grant_id, ReceiptKind.REVOKED) in self._running

    def is_open(self, grant_id: str) -> bool:
        """Tell whether the grant is not revoked, or its revocation has no receipt yet because it runs or failed."""
        revoked = self._grants.require(grant_id).status is GrantStatus.REVOKED
        return not revoked or self.is_revoking(grant_id) or (grant_id, ReceiptKind.REVOKED) in self._failed

    async def revoke(self, grant_id: str, reason: str = "") -> RevocationHandle:
        """Revoke a grant at once; or return the handle of its earlier revocation.

        Raises `NotFoundError`, `InputError` for the reason, `StoreError` if receipts cannot be read.
        """
        act = Revoking(self._grants, self._subscriptions, grant_id, reason)
        if self._grants.require(grant_id).status is not GrantStatus.REVOKED:
            return self._start(act)
        async with self._lookup_lock:
            return await self._latest(grant_id, ReceiptKind.REVOKED) or self._start(act)

    async def edit_scope(self, grant_id: str, scope: Scope) -> ScopeEdit:
        """Put a scope in force for the next request, durably, and notify the peer.

        If the scope is in force already, `handle` is that of the grant's latest scope reduction, if any. Raises
        `NotFoundError`, `ConflictError` for a revoked grant, `StoreError`.
        """
        return await asyncio.shield(self._spawn(self._edit(grant_id, scope)))

    async def receipts(self, grant_id: str) -> tuple[Receipt, ...]:
        """Return the latest receipt of each kind, finished or not, the revocation first. Raises `StoreError`."""
        kinds = (ReceiptKind.REVOKED, ReceiptKind.NARROWED)
        found = [await self._receipts.last(grant_id, kind) for kind in kinds]
        return tuple(self._unsaved_receipts.get(receipt.id, receipt) for receipt in found if receipt is not None)

    async def resume(self) -> None:
        """Continue the revocations that an earlier process left unfinished. Raises `StoreError`."""
        for receipt in await self._receipts.unfinished():
            LOGGER.warning(
                "grant %s: an earlier process left a revocation or scope reduction unfinished; continuing it",
                receipt.grant_id,
            )
            self._start(Act(self._subscriptions, receipt))

    async def close(self) -> None:
        """Stop the running revocations; the next process continues them."""
        await cancel_and_wait(*self._tasks)

    async def _edit(self, grant_id: str, scope: Scope) -> ScopeEdit:
        async with self._edit_lock:
            grant = self._grants.require_unrevoked(grant_id)
            stored = self._stored_scopes.get(grant_id, grant.scope)
            change = compare_scopes(stored, scope)
            if scope == grant.scope == stored:
                return ScopeEdit(grant, change, await self._latest(grant_id, ReceiptKind.NARROWED), applied=False)
            handle = None
            self._stored_scopes[grant_id] = stored
            if change.narrows or compare_scopes(grant.scope, scope).narrows:
                losses = "; ".join(change.losses)
                handle = self._start(
                    ScopeReduction(self._grants, self._subscriptions, grant_id, scope, losses, self._clock)
                )
                await handle.durable()
            else:
                await self._grants.widen(grant_id, scope)
                self._subscriptions.publish(grant_id, Event(EventType.GRANT_CHANGED))
            del self._stored_scopes[grant_id]
            return ScopeEdit(self._grants.require(grant_id), change, handle, applied=True)

    async def _latest(self, grant_id: str, kind: ReceiptKind) -> RevocationHandle | None:
        """Return the handle of the latest revocation of a kind; one that failed or was interrupted is started again."""
        # Check this first: a revocation that ends during the read below would look unfinished there.
        if (running := self._running.get((grant_id, kind))) is not None:
            return running
        stored = await self._receipts.last(grant_id, kind)
        if stored is None or stored.effective_at_us is not None:
            return None if stored is None else RevocationHandle.completed(stored)
        if (unsaved := self._unsaved_receipts.get(stored.id)) is not None:
            await self._store_receipt(unsaved)
            return RevocationHandle.completed(unsaved)
        return self._start(Act(self._subscriptions, stored))

    def _start(self, act: Act) -> RevocationHandle:
        """Refuse at once, and run the other steps in a task. Raises what the refusal raises."""
        steps = revocation_steps(act, self._leases)
        first = next(steps)
        handle = RevocationHandle(act.receipt, first.revocation if isinstance(first, Store) else None)
        self._running[act.grant_id, act.kind] = handle
        self._spawn(self._run(act, handle, steps, first))
        return handle

    async def _run(self, act: Act, handle: RevocationHandle, steps: Generator[Step, None, None], first: Step) -> None:
        try:
            for step in chain((first,), steps):
                await self._carry_out(step, act, handle)
        except asyncio.CancelledError:
            handle.fail(ConflictError("the gateway stops; the revocation continues when the gateway starts again"))
            raise
        except Exception as e:
            if isinstance(e, FederationError):
                LOGGER.error("%s", e)  # noqa: TRY400 - the caller that waits gets it as well
            else:
                LOGGER.exception("grant %s: its revocation or scope reduction failed", act.grant_id)
            self._failed.add((act.grant_id, act.kind))
            handle.fail(e)
        finally:
            steps.close()
            if self._running.get((act.grant_id, act.kind)) is handle:
                del self._running[act.grant_id, act.kind]
            if act.kind is ReceiptKind.REVOKED:
                self._subscriptions.close(act.grant_id)

    async def _carry_out(self, step: Step, act: Act, handle: RevocationHandle) -> None:
        match step:
            case Store():
                await act.store()
                handle.stored.set_result(None)
            case Wait(seconds):
                await handle.next_release(min(seconds, POLL_S))
            case StoreReceipt(revocation):
                receipt = _receipt(handle.begun, revocation)
                await self._store_receipt(receipt)
                handle.finished.set_result(receipt)

    async def _store_receipt(self, receipt: Receipt) -> None:
        self._unsaved_receipts[receipt.id] = receipt
        await self._receipts.finish(receipt)
        del self._unsaved_receipts[receipt.id]
        self._failed.discard((receipt.grant_id, receipt.kind))
        self._audit.record_grant_act(
            "grant.effective",
            self._grants.require(receipt.grant_id),
            reason=f"{receipt.kind}: {receipt.reason}" if receipt.reason else receipt.kind.value,
            source="gateway",
        )

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _receipt(begun: Receipt, revocation: PendingRevocation) -> Receipt:
    instances = (
        InstanceRecord(one.instance, one.how.value, one.at_us or 0, one.failed_in_flight)
        for one in revocation.instances
    )
    effective_at_us = max(begun.begun_at_us, revocation.effective_at_us)
    return replace(begun, effective_at_us=effective_at_us, instances=tuple(instances))


def _consume_exception(future: asyncio.Future[Any]) -> None:
    """Retrieve the exception, so that asyncio does not log it when no caller waits for it."""
    if not future.cancelled():
        future.exception()
