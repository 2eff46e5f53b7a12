"""What the admin service acts upon: the parts of one running gateway."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from federation.admin.messages.common import grant_message
from federation.client.peers.peer import Peer
from federation.client.peers.registry import PeerRegistry
from federation.clock import Clock
from federation.config import GatewayConfig
from federation.enrollment.issuer import Issuer
from federation.enrollment.renewal_issuer import RenewalIssuer
from federation.resources.provider import ResourceProvider
from federation.server.audit.trail import AuditTrail
from federation.server.revocation.coordinator import InvalidationCoordinator
from federation.server.transport.server_certificate import ServerCertificate
from federation.session.session import Session
from federation.store.audit.table import AuditStore
from federation.store.grants.registry import Grant, GrantRegistry
from federation.store.peers import PeerStore
from federation.telemetry.metrics import FederationMetrics
from federation.v1 import admin_pb2 as pb

__all__ = ["AdminContext", "Federating"]


class Federating(Protocol):
    """The client side of the gateway; `federation.Federation` is one."""

    @property
    def peers(self) -> PeerRegistry:
        """Every peer by name and local user."""
        ...

    async def rotate(self, peer: str, user: str | None = None) -> Peer:
        """Replace the certificate for a peer now."""
        ...

    def session(self, user: str) -> Session:
        """Return a session of one of the gateway's users."""
        ...


@dataclass(frozen=True, kw_only=True)
class AdminContext:
    """The parts of a gateway, made by whoever assembles it and shared with its servers.

    `page_key` is the secret of local page tokens; `metrics` is `None` where telemetry is switched off. `addresses`
    returns the federation and the enrollment address (host:port) as bound.
    """

    config: GatewayConfig
    clock: Clock
    version: str
    started_at_us: int
    grants: GrantRegistry
    issuer: Issuer
    renewal_issuer: RenewalIssuer
    server_certificate: ServerCertificate
    provider: ResourceProvider
    coordinator: InvalidationCoordinator
    audit: AuditTrail
    audit_store: AuditStore
    federation: Federating
    peer_store: PeerStore
    metrics: FederationMetrics | None
    page_key: bytes
    addresses: Callable[[], tuple[str, str]]

    def grant_info(self, grant: Grant) -> pb.GrantInfo:
        """Return a grant with what is known of its use at this moment."""
        coordinator = self.coordinator
        leases, watches = coordinator.leases.count(grant.id), coordinator.subscriptions.count(grant.id)
        use = coordinator.counters.of(grant.id)
        return grant_message(grant, self.clock.now_us(), leases=leases, watches=watches, use=use)
