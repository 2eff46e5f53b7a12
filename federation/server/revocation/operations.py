"""What each kind of taking back does at its steps; `withdrawing.revocation_steps` has the order."""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from federation.clock import Clock
from federation.scope.model import Scope
from federation.server.revocation.protocol import Act, Heard
from federation.server.watch.subscriptions import Event, EventType, SubscriptionRegistry
from federation.store.grants.registry import GrantRegistry
from federation.store.receipts import Receipt, ReceiptKind, ReceiptStore

__all__ = ["Resuming", "Revoking", "ScopeReduction", "StoredAct"]


class StoredAct(Act, Protocol):
    """An act with its durable side."""

    @property
    def grant_id(self) -> str:
        """The grant."""
        ...

    @property
    def kind(self) -> ReceiptKind:
        """What is taken back."""
        ...

    @property
    def receipt(self) -> Receipt:
        """What is known once it was refused."""
        ...

    async def store(self) -> None:
        """Make the refusal durable; raise `StoreError`."""
        ...


class Revoking:
    """Takes a whole grant back."""

    kind = ReceiptKind.REVOKED

    def __init__(self, grants: GrantRegistry, hub: SubscriptionRegistry, grant_id: str, reason: str) -> None:
        self._grants, self._hub, self.grant_id, self._reason = grants, hub, grant_id, reason

    def refuse(self) -> None:
        """Revoke in memory. The first instant and reason stay."""
        grant = self._grants.refuse(self.grant_id, self._reason)
        self.receipt = Receipt(
            id=str(uuid.uuid4()),
            grant_id=grant.id,
            kind=self.kind,
            begun_at_us=grant.revoked_at_us or 0,
            reason=grant.revoked_reason,
        )

    async def store(self) -> None:
        """Store the revocation and its beginning together."""
        await self._grants.revoke(self.grant_id, within=ReceiptStore.beginning(self.receipt))

    def watching(self) -> Iterable[str]:
        """Everyone armed."""
        return self._hub.watching(self.grant_id)

    def tell(self, heard: Heard) -> None:
        """Say that the grant is revoked, and why."""
        self._hub.publish(self.grant_id, Event(EventType.GRANT_REVOKED, self.receipt.reason, heard))


class ScopeReduction:
    """Takes part of a grant's scope back. `losses` says in words which."""

    kind = ReceiptKind.NARROWED

    def __init__(
        self, grants: GrantRegistry, hub: SubscriptionRegistry, grant_id: str, scope: Scope, losses: str, clock: Clock
    ) -> None:
        self._grants, self._hub, self.grant_id = grants, hub, grant_id
        self._scope, self._losses, self._clock = scope, losses, clock

    def refuse(self) -> None:
        """Put the narrower scope in force in memory."""
        self._grants.narrow(self.grant_id, self._scope)
        self.receipt = Receipt(
            id=str(uuid.uuid4()),
            grant_id=self.grant_id,
            kind=self.kind,
            begun_at_us=self._clock.now_us(),
            reason=self._losses,
        )

    async def store(self) -> None:
        """Store the scope and the beginning together."""
        await self._grants.store_scope(self.grant_id, within=ReceiptStore.beginning(self.receipt))

    def watching(self) -> Iterable[str]:
        """Everyone armed."""
        return self._hub.watching(self.grant_id)

    def tell(self, heard: Heard) -> None:
        """Say that what the grant opens has changed."""
        self._hub.publish(self.grant_id, Event(EventType.GRANT_CHANGED, heard=heard))


@dataclass(frozen=True, slots=True)
class Resuming:
    """Goes on with what an earlier process refused and stored."""

    hub: SubscriptionRegistry
    receipt: Receipt

    @property
    def grant_id(self) -> str:
        """The grant."""
        return self.receipt.grant_id

    @property
    def kind(self) -> ReceiptKind:
        """What is taken back."""
        return self.receipt.kind

    def refuse(self) -> None:
        """Do nothing: what was loaded refuses already."""

    async def store(self) -> None:
        """Do nothing: it is where the receipt came from."""

    def watching(self) -> Iterable[str]:
        """Everyone armed."""
        return self.hub.watching(self.grant_id)

    def tell(self, heard: Heard) -> None:
        """Tell whoever armed a watch meanwhile."""
        if self.kind is ReceiptKind.REVOKED:
            self.hub.publish(self.grant_id, Event(EventType.GRANT_REVOKED, self.receipt.reason, heard))
        else:
            self.hub.publish(self.grant_id, Event(EventType.GRANT_CHANGED, heard=heard))
