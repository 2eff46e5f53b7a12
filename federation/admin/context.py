"""The components of one running gateway that the admin handlers use."""

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
from federation.store.grants.model import Grant
from federation.store.grants.registry import GrantRegistry
from federation.store.peers import PeerStore
from federation.telemetry.metrics import FederationMetrics
from federation.v1 import admin_pb2 as pb


class FederationClient(Protocol):
    """The client side of the gateway, implemented by `federation.Federation`."""

    @property
    def peers(self) -> PeerRegistry:
        """Every peer, by name and local user."""
        ...

    async def rotate(self, peer: str, user: str | None = None) -> Peer:
        """Renew the certificate for a peer now."""
        ...

    def session(self, user: str) -> Session:
        """Return a session of a local user."""
        ...


@dataclass(frozen=True, kw_only=True)
class AdminContext:
    """The components of one gateway, shared by its admin handlers and its servers.

    `page_key` is the secret key of local page tokens. `metrics` is `None` if telemetry is switched off. `addresses`
    returns the bound federation address and the bound enrollment address, each as host:port.
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
    federation: FederationClient
    peer_store: PeerStore
    metrics: FederationMetrics | None
    page_key: bytes
    addresses: Callable[[], tuple[str, str]]

    def grant_info(self, grant: Grant) -> pb.GrantInfo:
        """Return a grant as a message, with its current leases, watches and call counts."""
        coordinator = self.coordinator
        leases, watches = coordinator.leases.count(grant.id), coordinator.subscriptions.count(grant.id)
        use = coordinator.counters.of(grant.id)
        return grant_message(grant, self.clock.now_us(), leases=leases, watches=watches, use=use)
