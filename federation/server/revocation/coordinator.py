"""What keeps the copies at peers right, assembled: leases, watches, revocations, freshness."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final

from federation.clock import SYSTEM_CLOCK, Clock
from federation.errors import StoreError
from federation.resources.provider import ResourceProvider
from federation.server.audit.trail import AuditTrail
from federation.server.call_stats import CallCounters
from federation.server.revocation.leases import LeaseTable, lease_hold_s
from federation.server.revocation.manager import Revocations
from federation.server.watch.change_notifier import ChangeNotifier
from federation.server.watch.service import BEAT_S, WatchService
from federation.server.watch.subscriptions import SubscriptionRegistry
from federation.store.database import Database
from federation.store.grants.registry import GrantRegistry, GrantStatus
from federation.store.receipts import LeaseBound, ReceiptStore
from federation.wire.metadata import MAX_LEASE_MS

__all__ = ["InvalidationCoordinator"]

LOGGER: Final = logging.getLogger(__name__)
HANDOVER_S: Final = 20.0
"""How long a process elsewhere may go on answering after it lost the right to serve: it asks the database every few
seconds whether it holds it, and then lets its calls end.
"""


class InvalidationCoordinator:
    """One gateway's. `open` it once the right to serve is held, `start` it before serving, `stop` it after.

    `watch` is what serves the watch streams, `leases` what the pipeline notes leases in, `max_lease_ms` their bound,
    `counters` where every call is counted at its end.
    """

    def __init__(
        self,
        grants: GrantRegistry,
        receipts: ReceiptStore,
        provider: ResourceProvider,
        audit: AuditTrail,
        *,
        clock: Clock,
        max_lease_ms: int,
        before: LeaseBound,
        served_from: str,
        heartbeat_interval_s: float,
    ) -> None:
        self._receipts, self.max_lease_ms, self._before = receipts, max_lease_ms, before
        self._bound = LeaseBound(max_lease_ms, served_from)
        self.counters = CallCounters(clock)
        self.leases = LeaseTable(
            clock,
            max_lease_ms=max_lease_ms,
            inherited=_once_served(grants),
            inherited_ms=before.max_lease_ms,
            handover_s=0.0 if before.served_from == served_from else HANDOVER_S,
        )
        self.hub = SubscriptionRegistry(self.leases.leave, awaited=self.leases.awaits)
        self.revocations = Revocations(grants, receipts, self.leases, self.hub, audit, clock)
        self.watch = WatchService(
            self.hub,
            grants,
            audit,
            withdrawing=self.revocations.revoking,
            clock=clock,
            heartbeat_interval_s=heartbeat_interval_s,
            counters=self.counters,
        )
        self._freshness = ChangeNotifier(provider, grants, self.hub)
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
        heartbeat_interval_s: float = BEAT_S,
    ) -> "InvalidationCoordinator":
        """Begin anew after whatever process served before: its leases may be out still.

        `served_from` names the host and directory of this one. Raises `StoreError`.
        """
        receipts = ReceiptStore(database)
        before = await receipts.lease_bound()
        if before is None:
            # No bound was noted: either nothing was ever granted here, or by a version that noted none.
            before = LeaseBound(MAX_LEASE_MS if grants.all() else max_lease_ms, served_from)
        await receipts.set_lease_bound(LeaseBound(max(before.max_lease_ms, max_lease_ms), served_from))
        return cls(
            grants,
            receipts,
            provider,
            audit,
            clock=clock,
            max_lease_ms=max_lease_ms,
            before=before,
            served_from=served_from,
            heartbeat_interval_s=heartbeat_interval_s,
        )

    async def start(self) -> None:
        """Go on with what was left unfinished, and follow the provider's changes. Raises `StoreError`."""
        await self.revocations.resume()
        self._spawn(self._freshness.run(), "freshness")
        if self.max_lease_ms < self._before.max_lease_ms:
            self._spawn(self._lower_bound(), "lease bound")

    async def stop(self) -> None:
        """Leave what is under way to the next process. Twice is fine."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.revocations.close()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    async def _lower_bound(self) -> None:
        """Let the next process wait for this one's leases alone, once the longer ones of the one before are over."""
        await asyncio.sleep(HANDOVER_S + lease_hold_s(self._before.max_lease_ms))
        try:
            await self._receipts.set_lease_bound(self._bound)
        except StoreError as e:
            LOGGER.warning("%s; the next start waits longer than it must", e)


def _once_served(grants: GrantRegistry) -> list[str]:
    """Return the grants under which an earlier process may have answered calls."""
    return [grant.id for grant in grants.all() if grant.newest is not None and grant.status is not GrantStatus.PENDING]
