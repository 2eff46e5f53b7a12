"""The coordinator of cache invalidation: assembles leases, watches, revocations and change events of one gateway."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final

from federation.aio import cancel_and_wait
from federation.clock import SYSTEM_CLOCK, Clock
from federation.errors import StoreError
from federation.resources.provider import ResourceProvider
from federation.server.audit.trail import AuditTrail
from federation.server.call_stats import CallCounters
from federation.server.revocation.leases import LeaseTable, lease_hold_s
from federation.server.revocation.manager import Revocations
from federation.server.watch.change_notifier import ChangeNotifier
from federation.server.watch.service import HEARTBEAT_INTERVAL_S, WatchService
from federation.server.watch.subscriptions import SubscriptionRegistry
from federation.store.database import Database
from federation.store.grants.model import GrantStatus
from federation.store.grants.registry import GrantRegistry
from federation.store.receipts import LeaseBound, ReceiptStore
from federation.wire.metadata import MAX_LEASE_MS

LOGGER: Final = logging.getLogger(__name__)
HANDOVER_S: Final = 20.0
"""Seconds for which a process on another machine may answer calls after it lost the serving lock: it checks the lock
in the database every few seconds, and then completes its calls.
"""


class InvalidationCoordinator:
    """Creates and runs the components that invalidate peers' caches.

    `open` it once the process holds the serving lock, `start` it before serving, `stop` it afterwards. `watch` serves
    the watch streams, the pipeline records leases in `leases` with at most `max_lease_ms`, and `counters` counts calls.
    """

    def __init__(
        self,
        grants: GrantRegistry,
        receipts: ReceiptStore,
        provider: ResourceProvider,
        audit: AuditTrail,
        *,
        clock: Clock,
        bound: LeaseBound,
        previous: LeaseBound,
        heartbeat_interval_s: float,
    ) -> None:
        self._receipts, self._bound, self._previous = receipts, bound, previous
        self.max_lease_ms = bound.max_lease_ms
        self.counters = CallCounters(clock)
        self.leases = LeaseTable(
            clock,
            max_lease_ms=bound.max_lease_ms,
            inherited=_served_grants(grants),
            inherited_ms=previous.max_lease_ms,
            handover_s=0.0 if previous.served_from == bound.served_from else HANDOVER_S,
        )
        self.subscriptions = SubscriptionRegistry(self.leases.on_disconnect, is_pending=self.leases.is_pending)
        self.revocations = Revocations(grants, receipts, self.leases, self.subscriptions, audit, clock)
        self.watch = WatchService(
            self.subscriptions,
            grants,
            audit,
            is_revoking=self.revocations.is_revoking,
            clock=clock,
            heartbeat_interval_s=heartbeat_interval_s,
            counters=self.counters,
        )
        self._change_notifier = ChangeNotifier(provider, grants, self.subscriptions)
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def open(
        cls,
        database: Database,
        grants: GrantRegistry,
        provider: ResourceProvider,
        audit: AuditTrail,
        *,
        clock: Clock = SYSTEM_CLOCK,
        served_from: str = "",
        max_lease_ms: int = MAX_LEASE_MS,
        heartbeat_interval_s: float = HEARTBEAT_INTERVAL_S,
    ) -> "InvalidationCoordinator":
        """Return a coordinator that accounts for the leases of the process that served before.

        `served_from` names the host and directory of this process. Raises `StoreError`.
        """
        receipts, bound = ReceiptStore(database), LeaseBound(max_lease_ms, served_from)
        previous = await receipts.lease_bound()
        if previous is None:
            # No bound is stored: either no lease was ever granted, or by a version that stored none.
            previous = LeaseBound(MAX_LEASE_MS if grants.all() else max_lease_ms, served_from)
        await receipts.set_lease_bound(LeaseBound(max(previous.max_lease_ms, max_lease_ms), served_from))
        return cls(
            grants,
            receipts,
            provider,
            audit,
            clock=clock,
            bound=bound,
            previous=previous,
            heartbeat_interval_s=heartbeat_interval_s,
        )

    async def start(self) -> None:
        """Continue unfinished revocations, and follow the provider's changes. Raises `StoreError`."""
        await self.revocations.resume()
        self._spawn(self._change_notifier.run(), "change notifier")
        if self.max_lease_ms < self._previous.max_lease_ms:
            self._spawn(self._lower_bound(), "lease bound")

    async def stop(self) -> None:
        """Stop; the next process continues unfinished revocations. Idempotent."""
        tasks, self._tasks = self._tasks, []
        await cancel_and_wait(*tasks)
        await self.revocations.close()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    async def _lower_bound(self) -> None:
        """Store the lower bound of this process, once the longer leases of the previous process have ended."""
        await asyncio.sleep(HANDOVER_S + lease_hold_s(self._previous.max_lease_ms))
        try:
            await self._receipts.set_lease_bound(self._bound)
        except StoreError as e:
            LOGGER.warning("%s; after the next start, revocations wait longer than they need to", e)


def _served_grants(grants: GrantRegistry) -> list[str]:
    """Return the ids of the grants under which an earlier process may have answered calls."""
    return [grant.id for grant in grants.all() if grant.newest is not None and grant.status is not GrantStatus.PENDING]
