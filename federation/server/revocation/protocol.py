"""The revocation protocol: revocations of grants and reductions of scopes, and the order of their steps.

The generator `revocation_steps` does no I/O. It yields each step that takes time to its driver, so tests can drive it.
"""

import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

from federation.clock import Clock
from federation.scope.model import Scope
from federation.server.revocation.leases import LeaseTable, PendingRevocation
from federation.server.watch.subscriptions import Event, EventType, SubscriptionRegistry
from federation.store.grants.registry import GrantRegistry
from federation.store.receipts import Receipt, ReceiptKind, ReceiptStore

OnAck = Callable[[str, int], None]


class Act:
    """A revocation or a scope reduction. This class continues one that an earlier process refused and stored."""

    def __init__(self, subscriptions: SubscriptionRegistry, receipt: Receipt) -> None:
        self.subscriptions, self.receipt = subscriptions, receipt
        self.grant_id, self.kind = receipt.grant_id, receipt.kind

    def refuse(self) -> None:
        """Refuse every further answer that holds revoked rows; never waits. Grants load with the refusal in force."""

    async def store(self) -> None:
        """Make the refusal durable together with the beginning of its receipt. Raises `StoreError`."""

    def watching(self) -> frozenset[str]:
        """Return the cache objects with an armed watch."""
        return self.subscriptions.watching(self.grant_id)

    def notify(self, on_ack: OnAck) -> None:
        """Send the event to every watcher.

        `on_ack` is called with each instance that acknowledged the event and the number of calls that it failed.
        """
        if self.kind is ReceiptKind.REVOKED:
            self.subscriptions.publish(self.grant_id, Event(EventType.GRANT_REVOKED, self.receipt.reason, on_ack))
        else:
            self.subscriptions.publish(self.grant_id, Event(EventType.GRANT_CHANGED, on_ack=on_ack))


class Revoking(Act):
    """Revokes a grant. The instant and reason of an earlier revocation of it stay."""

    def __init__(self, grants: GrantRegistry, subscriptions: SubscriptionRegistry, grant_id: str, reason: str) -> None:
        super().__init__(subscriptions, _receipt(grant_id, ReceiptKind.REVOKED, 0, reason))
        self._grants = grants

    def refuse(self) -> None:
        """Revoke the grant in memory. Raises `InputError` for the reason."""
        grant = self._grants.refuse(self.grant_id, self.receipt.reason)
        self.receipt = replace(self.receipt, begun_at_us=grant.revoked_at_us or 0, reason=grant.revoked_reason)

    async def store(self) -> None:
        """Store the revocation and the beginning of its receipt in one transaction."""
        await self._grants.revoke(self.grant_id, within=ReceiptStore.insertion(self.receipt))


class ScopeReduction(Act):
    """Reduces the scope of a grant. `losses` describes what the peer loses."""

    def __init__(
        self,
        grants: GrantRegistry,
        subscriptions: SubscriptionRegistry,
        grant_id: str,
        scope: Scope,
        losses: str,
        clock: Clock,
    ) -> None:
        super().__init__(subscriptions, _receipt(grant_id, ReceiptKind.NARROWED, clock.now_us(), losses))
        self._grants, self._scope = grants, scope

    def refuse(self) -> None:
        """Put the reduced scope in force in memory."""
        self._grants.narrow(self.grant_id, self._scope)

    async def store(self) -> None:
        """Store the scope and the beginning of its receipt in one transaction."""
        await self._grants.store_scope(self.grant_id, within=ReceiptStore.insertion(self.receipt))


@dataclass(frozen=True, slots=True)
class Store:
    """The step that stores the act. If the write fails, the protocol ends here and the refusal stays in force."""

    revocation: PendingRevocation


@dataclass(frozen=True, slots=True)
class Wait:
    """The step that waits for the release of a cache object, for at most `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class StoreReceipt:
    """The step that stores the receipt: no cache can serve the revoked rows any more."""

    revocation: PendingRevocation


Step = Store | Wait | StoreReceipt


def revocation_steps(act: Act, leases: LeaseTable) -> Generator[Step, None, None]:
    """Yield the steps of an act: refuse, store, notify, wait for acks and ends of leases, store the receipt.

    The order matters:

    1. `refuse`: no new answer leaves, and no watch is armed without the event.
    2. `begin`: collects every lease granted before. Nothing runs between the two, so no lease is missed.
    3. `Store` before `notify`: a gateway that restarts after it sent the event continues the act.
    """
    act.refuse()
    revocation = leases.begin(act.grant_id, act.watching(), final=act.kind is ReceiptKind.REVOKED)
    try:
        yield Store(revocation)
        sequence = leases.sequence
        act.notify(lambda instance, failed: leases.ack(act.grant_id, instance, sequence, failed))
        while (seconds := revocation.wait_s()) is not None:
            yield Wait(seconds)
        yield StoreReceipt(revocation)
    finally:
        leases.remove(revocation)


def _receipt(grant_id: str, kind: ReceiptKind, begun_at_us: int, reason: str) -> Receipt:
    return Receipt(id=str(uuid.uuid4()), grant_id=grant_id, kind=kind, begun_at_us=begun_at_us, reason=reason)
