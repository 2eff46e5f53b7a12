"""Both sides of enrollment over one database: an issuing gateway, served over real TLS, and an enrolling gateway."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec

from federation.clock import SYSTEM_CLOCK, Clock
from federation.enrollment.enroll import EnrolledPeer, enroll
from federation.enrollment.issuer import Issuer
from federation.enrollment.renewal_issuer import RenewalIssuer
from federation.enrollment.servicer import EnrollmentEvent, EnrollmentServicer
from federation.pki.authority import Authority
from federation.pki.csr import make_request
from federation.pki.enrollment_token import EnrollmentToken
from federation.pki.sealing import Sealer
from federation.scope.model import Scope
from federation.server.pipeline.error_boundary import ErrorBoundary
from federation.server.pipeline.renewal_service import RenewalService
from federation.store.database import Database
from federation.store.enrollment_tokens import TokenStore
from federation.store.grants.model import Grant
from federation.store.grants.registry import GrantRegistry
from federation.store.peers import PeerStore
from federation.v1.enrollment_pb2_grpc import add_EnrollmentServiceServicer_to_server
from federation.wire.channel_args import SERVER
from tests.support.pki import PEER, Leaf, new_key, server_credentials

WORK = "work.example"
FEDERATION_ENDPOINT = "work.example:7443"
SCOPE = Scope(("tasks",))
SEALER = Sealer(bytes(range(32)))


def csr(key: ec.EllipticCurvePrivateKey | None = None, name: str = PEER) -> bytes:
    """A valid certificate request."""
    return make_request(key or new_key(), name)


@dataclass
class IssuingGateway:
    """The gateway that issues certificates, as one process with its own view of the database."""

    database: Database
    grants: GrantRegistry
    tokens: TokenStore
    issuer: Issuer
    renewal_issuer: RenewalIssuer
    clock: Clock
    events: list[EnrollmentEvent] = field(default_factory=list)

    @classmethod
    async def open(cls, database: Database, authority: Authority, clock: Clock = SYSTEM_CLOCK) -> "IssuingGateway":
        """Load grants and tokens from the database, as the gateway does when it starts."""
        grants, tokens = await GrantRegistry.load(database, clock), TokenStore(database, clock)
        lifetimes = {"certificate_lifetime_s": 86_400, "token_lifetime_s": 900}
        issuer = Issuer(authority, grants, tokens, clock=clock, **lifetimes)
        renewal_issuer = RenewalIssuer(authority, grants, certificate_lifetime_s=86_400, clock=clock)
        return cls(database, grants, tokens, issuer, renewal_issuer, clock)

    async def grant(self, **changes: Any) -> Grant:
        """A pending grant for the enrolling gateway."""
        return await self.grants.create(**({"peer": PEER, "subject": "ada", "scope": SCOPE} | changes))

    async def token(self, grant: Grant | None = None, **options: Any) -> EnrollmentToken:
        """An enrollment token, of a new grant unless one is given."""
        grant = grant or await self.grant()
        token, _ = await self.issuer.create_token(grant.id, **({"endpoint": "127.0.0.1:1"} | options))
        return token

    async def record(self, event: EnrollmentEvent) -> None:
        """Record an audit event."""
        self.events.append(event)

    @property
    def servicer(self) -> EnrollmentServicer:
        """The enrollment service of this gateway."""
        return EnrollmentServicer(
            self.issuer, self.renewal_issuer, endpoint=lambda: FEDERATION_ENDPOINT, audit=self.record
        )

    @asynccontextmanager
    async def serving(self, servicer: Any = None, *, leaf: Leaf | None = None) -> AsyncIterator[str]:
        """Serve enrollment on loopback with this gateway's server certificate (or `leaf`); yield host:port."""
        authority = self.issuer.authority
        leaf = leaf or Leaf(authority.server_certificate_pem, authority.server_key_pem)
        server = grpc.aio.server(interceptors=(ErrorBoundary(),), options=SERVER.to_grpc())
        add_EnrollmentServiceServicer_to_server(servicer or self.servicer, server)
        port = server.add_secure_port("127.0.0.1:0", server_credentials(leaf))
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(0)

    @asynccontextmanager
    async def serving_renewals(self) -> AsyncIterator[str]:
        """Serve renewals over mutual TLS, as the federation port does; yield host:port."""
        authority = self.issuer.authority
        leaf = Leaf(authority.server_certificate_pem, authority.server_key_pem)
        service = RenewalService(self.renewal_issuer, self.grants, audit=self.record, clock=self.clock)
        server = grpc.aio.server(interceptors=(ErrorBoundary(),), options=SERVER.to_grpc())
        server.add_generic_rpc_handlers((service.rpc_handler(),))
        port = server.add_secure_port("127.0.0.1:0", server_credentials(leaf, authority.trust_bundle))
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(0)


@dataclass
class EnrollingGateway:
    """The gateway that enrolls."""

    peers: PeerStore
    clock: Clock = SYSTEM_CLOCK

    async def enroll(self, token: EnrollmentToken, address: str = "", **options: Any) -> EnrolledPeer:
        """Redeem a token, at `address` if given."""
        token = replace(token, endpoint=address or token.endpoint)
        values = {"gateway_name": PEER, "user": "bea", "peers": self.peers, "clock": self.clock} | options
        return await enroll(token, **values)


@pytest_asyncio.fixture
async def work(database: Database) -> AsyncIterator[IssuingGateway]:
    """An issuing gateway on the real clock."""
    gateway = await IssuingGateway.open(database, Authority.create(WORK, ["127.0.0.1"]))
    yield gateway
    await gateway.grants.close()


@pytest_asyncio.fixture
async def home(database: Database) -> EnrollingGateway:
    """An enrolling gateway, in the same database as the issuing gateway."""
    return EnrollingGateway(PeerStore(database, SEALER))
