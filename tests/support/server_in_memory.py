"""The serving side of a gateway over real mutual TLS, with grants and rows in memory, and channels to it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import grpc
import pytest_asyncio
from opentelemetry.trace import NoOpTracerProvider

from federation.clock import SYSTEM_CLOCK, Clock
from federation.pki.authority import Authority
from federation.pki.certificates import fingerprint_of, validity_us
from federation.scope.model import RowFilter, Scope
from federation.server.audit.trail import AuditTrail
from federation.server.pipeline.service import FederationService
from federation.server.pipeline.tracing import ServerTracing
from federation.server.revocation.leases import LeaseTable
from federation.server.transport.server import GatewayServer
from federation.store.audit.model import AuditEvent
from federation.store.grants.model import CertificateRecord, Grant, GrantStatus
from federation.telemetry.spans import SpanSource
from federation.v1 import enrollment_pb2_grpc
from federation.v1 import federation_pb2_grpc as pb_grpc
from tests.support.clock import ManualClock
from tests.support.pki import GRANT_ID, PEER, SUBJECT, Leaf, Pki, dial
from tests.support.provider import ListedProvider, row

GATEWAY = "work.example"
INSTANCE = "0123456789abcdef0123456789abcdef"
PAGE_KEY = b"k" * 32
SCOPE = Scope(("tasks", "notes", "api_keys"), filters={"notes": RowFilter(frozenset({"T1"}), include_personal=False)})


def untraced(clock: Clock = SYSTEM_CLOCK) -> ServerTracing:
    """Server tracing without spans and metrics."""
    return ServerTracing(SpanSource(NoOpTracerProvider()), clock)


class ScriptedWriter:
    """An audit table in memory. Writes fail while `fault` is set, and wait while `gate` is cleared."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []
        self.batches: list[int] = []
        self.fault: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.attempts = 0
        self.begun = asyncio.Event()
        self._written = asyncio.Condition()

    async def insert_many(self, events: Sequence[AuditEvent]) -> None:
        self.attempts += 1
        self.begun.set()
        await self.gate.wait()
        if self.fault:
            raise self.fault
        self.batches.append(len(events))
        self.events += events
        async with self._written:
            self._written.notify_all()

    async def seen(self, count: int) -> list[AuditEvent]:
        """Wait until `count` events are written; return all."""
        async with asyncio.timeout(5), self._written:
            await self._written.wait_for(lambda: sum(event.count for event in self.events) >= count)
        return self.events


class ListedGrants(dict[str, Grant]):
    """Grants by id, with the interface that the pipeline uses."""

    def __init__(self) -> None:
        super().__init__()
        self.used: list[str] = []

    def record_use(self, grant_id: str, serial: str) -> None:
        self.used.append(grant_id)

    def certify(self, grant_id: str, leaf: Leaf) -> None:
        """Add a certificate to a grant."""
        grant = self[grant_id]
        self[grant_id] = replace(grant, certificates={**grant.certificates, leaf.serial: record(leaf)})

    def change(self, grant_id: str, **changes: Any) -> None:
        """Replace fields of a grant."""
        self[grant_id] = replace(self[grant_id], **changes)


class NoEnrollment(enrollment_pb2_grpc.EnrollmentServiceServicer):
    """An enrollment service that raises an error whose text must not leave the gateway."""

    async def Enroll(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise ValueError("secret words")

    async def Renew(self, request: Any, context: Any) -> Any:  # noqa: N802
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not yet")


@dataclass
class MemoryServer:
    """A running server and its parts. `leaf` is the valid certificate of the grant `GRANT_ID`."""

    server: GatewayServer
    authority: Authority
    pki: Pki
    leaf: Leaf
    grants: ListedGrants
    provider: ListedProvider
    trail: AuditTrail
    writer: ScriptedWriter
    clock: ManualClock
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    def channel(self, leaf: Leaf | None = None, *, anonymous: bool = False) -> grpc.aio.Channel:
        """A new channel with this certificate, the valid one, or none."""
        shown = None if anonymous else leaf or self.leaf
        channel = dial(self.server.federation_address, GATEWAY, self.authority.trust_bundle, shown)
        self.channels.append(channel)
        return channel

    def stub(self, leaf: Leaf | None = None) -> "pb_grpc.FederationServiceAsyncStub":
        """A stub on a new channel."""
        return pb_grpc.FederationServiceStub(self.channel(leaf))

    def known_leaf(self, **changes: Any) -> Leaf:
        """Another certificate of the valid grant."""
        leaf = self.pki.client(**changes)
        self.grants.certify(GRANT_ID, leaf)
        return leaf


StartMemoryServer = Callable[..., Awaitable[MemoryServer]]


def record(leaf: Leaf) -> CertificateRecord:
    """The store's record of a certificate."""
    before, after = validity_us(leaf.certificate)
    print_ = fingerprint_of(leaf.certificate)
    return CertificateRecord(leaf.serial, print_, leaf.certificate_pem, "", before, after, after)


def grant_of(*leaves: Leaf, **changes: Any) -> Grant:
    """The active grant `GRANT_ID` with these certificates."""
    certificates: Mapping[str, CertificateRecord] = {leaf.serial: record(leaf) for leaf in leaves}
    grant = Grant(
        id=GRANT_ID,
        peer=PEER,
        subject=SUBJECT,
        scope=SCOPE,
        status=GrantStatus.ACTIVE,
        created_at_us=0,
        certificates=certificates,
    )
    return replace(grant, **changes)


def sample_rows() -> ListedProvider:
    """Rows: the grant allows t1-t3 and n1, but not n2 (personal), x1 (another team) and e1 (of eve)."""
    rows = [row(f"t{i}", age=i, title=f"task {i}") for i in (1, 2, 3)]
    rows += [
        row("n1", resource="notes", owner="eve", team="T1", title="note of the team"),
        row("n2", resource="notes", title="note of her own"),
        row("x1", owner="eve", team="T2", title="task of others"),
        row("e1", owner="eve", title="task of eve"),
        row("k1", resource="api_keys", title="key"),
    ]
    return ListedProvider(rows, {"ada": {"T1"}, "eve": {"T1", "T2"}})


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[StartMemoryServer]:
    """Start servers, stopped after the test: `serve(capacity=…, **options of FederationService)`."""
    running: list[MemoryServer] = []

    async def start(*, capacity: int = 64, enrollment: Any = None, server: Any = None, **options: Any) -> MemoryServer:
        clock = ManualClock(time.time())
        authority = Authority.create(GATEWAY, ("127.0.0.1",))
        pki = Pki.of(authority)
        leaf = pki.client(ends_in=timedelta(hours=24))
        grants, provider, writer = ListedGrants(), sample_rows(), ScriptedWriter()
        grants[GRANT_ID] = grant_of(leaf)
        trail = AuditTrail(writer, clock.clock, capacity=capacity)
        service = FederationService(
            **{
                "gateway": GATEWAY,
                "version": "1.2.3",
                "provider": provider,
                "grants": grants,
                "audit": trail,
                "page_key": PAGE_KEY,
                "clock": clock.clock,
                "tracing": untraced(clock.clock),
                "leases": LeaseTable(clock.clock),
                **options,
            }
        )
        gateway = GatewayServer(
            listen="127.0.0.1:0",
            enroll="127.0.0.1:0",
            identity=authority,
            service=service,
            enrollment=enrollment or NoEnrollment(),
            **(server or {}),
        )
        trail.start()
        await gateway.start()
        running.append(MemoryServer(gateway, authority, pki, leaf, grants, provider, trail, writer, clock))
        return running[-1]

    yield start
    for serving in running:
        serving.writer.gate.set()
        serving.writer.fault = None
        for channel in serving.channels:
            await channel.close()
        await serving.server.stop(0.1)
        await serving.trail.stop()


@pytest_asyncio.fixture
async def serving(serve: StartMemoryServer) -> MemoryServer:
    """A server with default options."""
    return await serve()
