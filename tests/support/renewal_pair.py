"""An enrolled peer whose certificate is renewed on a manual clock, and its raw renewal requests."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from federation.clock import MICROSECONDS
from federation.enrollment.renew import renew
from federation.pki.authority import Authority
from federation.pki.renewal_proof import make_proof
from federation.store.database import Database
from federation.store.grants.model import Grant
from federation.store.peers import PeerRecord, PeerStore
from federation.v1 import enrollment_pb2 as pb
from federation.v1.enrollment_pb2_grpc import EnrollmentServiceStub
from tests.support.clock import ManualClock
from tests.support.enrollments import SEALER, WORK, EnrollingGateway, IssuingGateway, csr
from tests.support.pki import PEER, Leaf, dial

LIFE_S = 86_400
DAY_S = 86_400


@dataclass
class RenewalPair:
    """Both gateways after one enrollment. `record` is the enrolling gateway's record of the peer."""

    work: IssuingGateway
    peers: PeerStore
    record: PeerRecord
    hands: ManualClock

    @property
    def grant(self) -> Grant:
        """The issuing gateway's current grant."""
        grant = self.work.grants.get(self.record.grant_id)
        assert grant is not None
        return grant

    @property
    def leaf(self) -> Leaf:
        """The current certificate and key of `record`."""
        return Leaf(self.record.certificate_pem, self.record.key_pem)

    @property
    def key(self) -> ec.EllipticCurvePrivateKey:
        """The current private key of `record`."""
        key = load_pem_private_key(self.record.key_pem.encode(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key

    async def renew(self, *, federation: str = "127.0.0.1:1", enrollment: str = "127.0.0.1:1") -> PeerRecord:
        """Renew with the client code at these addresses, and update `record`."""
        stored = await self.peers.get(self.record.id)
        assert stored is not None
        record = replace(stored, endpoint=federation, enrollment_endpoint=enrollment)
        self.record = await renew(record, gateway_name=PEER, peers=self.peers, clock=self.work.clock)
        return self.record

    async def ask(self, address: str, request: pb.RenewRequest, leaf: Leaf | None = None) -> pb.RenewResponse:
        """Send one request, over mutual TLS if a leaf is given."""
        async with dial(address, WORK, self.record.trust_bundle, leaf) as channel:
            answer: pb.RenewResponse = await EnrollmentServiceStub(channel).Renew(request, timeout=10)
            return answer

    def proved(self, request: bytes = b"", *, key: Any = None, at_s: float = 0.0, **changes: Any) -> pb.RenewRequest:
        """A request with a proof, dated `at_s` seconds from now; `changes` replace signed values."""
        request = request or csr()
        values = {"grant_id": self.record.grant_id, "serial": self.leaf.serial, "csr_der": request} | changes
        now_us = self.work.clock.now_us() + round(at_s * MICROSECONDS)
        return pb.RenewRequest(csr=request, proof=make_proof(key or self.key, now_us=now_us, **values))


@pytest_asyncio.fixture
async def renewing(database: Database) -> AsyncIterator[RenewalPair]:
    """An enrolled peer. The manual clock starts at the machine's time, which TLS uses."""
    hands = ManualClock(time.time())
    work = await IssuingGateway.open(database, Authority.create(WORK, ["127.0.0.1"], hands.clock), hands.clock)
    home = EnrollingGateway(PeerStore(database, SEALER, hands.clock), hands.clock)
    async with work.serving() as address:
        enrolled = await home.enroll(await work.token(), address)
    work.events.clear()
    yield RenewalPair(work, home.peers, enrolled.record, hands)
    await work.grants.close()
