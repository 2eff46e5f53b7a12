"""The complete serving side over a real database and mutual TLS, and clients that a test steps by hand."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest_asyncio
from sqlalchemy import event

from federation.clock import SYSTEM_CLOCK, Clock
from federation.pki.authority import Authority
from federation.resources.batch import Batch, Member, NewRow
from federation.resources.documents import Document
from federation.resources.sql.provider import SqlProvider
from federation.scope.model import Scope
from federation.server.audit.trail import AuditTrail
from federation.server.pipeline.service import FederationService
from federation.server.revocation.coordinator import InvalidationCoordinator
from federation.server.transport.server import GatewayServer
from federation.store.database import Database
from federation.store.grants.model import Grant
from federation.store.grants.registry import GrantRegistry
from federation.v1 import federation_pb2 as pb
from federation.v1 import federation_pb2_grpc as pb_grpc
from federation.wire.metadata import INSTANCE, LEASE_MS, first
from tests.support.pki import PEER, Leaf, Pki, dial
from tests.support.server_in_memory import GATEWAY, PAGE_KEY, NoEnrollment, ScriptedWriter, untraced

A, B, C = "a" * 32, "b" * 32, "c" * 32
"""Instance ids of three caches."""
TASKS = pb.ListRequest(resource="tasks")
WIDE = Scope(("tasks", "notes"), max_rows_per_query=10)


def new_row(row_id: str, resource: str = "tasks", owner: str = "ada", team: str = "", title: str = "x") -> NewRow:
    """A new row."""
    return NewRow(resource, row_id, owner, Document.of({"title": title}), team)


@contextmanager
def refusing(database: Database, statement: str) -> Iterator[None]:
    """Make the database fail every statement with this prefix."""

    def refuse(_connection: Any, _cursor: Any, text: str, *_rest: Any) -> None:
        if text.startswith(statement):
            raise OSError(28, "disk full")

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", refuse)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", refuse)


class WatchClient:
    """The client side of one watch stream. Heartbeats of the gateway are skipped."""

    def __init__(self, stub: Any, instance: str) -> None:
        self.instance = instance
        self.call = stub.Watch()

    async def arm(self) -> "WatchClient":
        """Subscribe, and wait until the watch is armed."""
        await self.call.write(pb.WatchRequest(subscribe=pb.WatchSubscribe(instance_id=self.instance)))
        armed = await self.next()
        assert armed.WhichOneof("kind") == "armed"
        assert armed.event_id == 1
        return self

    async def next(self, timeout_s: float = 5.0) -> pb.WatchResponse:
        """The next event."""
        async with asyncio.timeout(timeout_s):
            while True:
                response = await self.call.read()
                assert response is not grpc.aio.EOF, await self.call.code()
                if response.WhichOneof("kind") != "heartbeat":
                    return response

    async def ack(self, event: pb.WatchResponse | int, failed: int = 0) -> None:
        """Acknowledge an event."""
        event_id = event if isinstance(event, int) else event.event_id
        await self.call.write(pb.WatchRequest(ack=pb.WatchAck(event_id=event_id, failed_in_flight=failed)))

    async def beat(self) -> None:
        """Send a heartbeat."""
        await self.call.write(pb.WatchRequest(heartbeat=pb.WatchHeartbeat()))

    async def silent(self, timeout_s: float) -> bool:
        """Tell whether no event arrives within the timeout. The stream cannot be used afterwards."""
        try:
            await self.next(timeout_s)
        except TimeoutError:
            return True
        return False

    async def end(self) -> grpc.RpcError | None:
        """Wait for the end of the stream: its error, or `None` for OK."""
        async with asyncio.timeout(5):
            try:
                while await self.call.read() is not grpc.aio.EOF:
                    pass
            except grpc.aio.AioRpcError as error:
                return error
            code = await self.call.code()
            return None if code is grpc.StatusCode.OK else self.call


@dataclass
class DatabaseServer:
    """A running serving side of a gateway, with its stores."""

    database: Database
    grants: GrantRegistry
    coordinator: InvalidationCoordinator
    provider: SqlProvider
    server: GatewayServer
    authority: Authority
    audit: ScriptedWriter
    stack: AsyncExitStack
    leaves: dict[str, Leaf]
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    @property
    def revocations(self) -> Any:
        """The revocation manager."""
        return self.coordinator.revocations

    async def grant(self, subject: str = "ada", scope: Scope = WIDE, **changes: Any) -> Grant:
        """An active grant with a certificate."""
        grant = await self.grants.create(peer=PEER, subject=subject, scope=scope, **changes)
        await self.certify(grant.id)
        return self.grants.require(grant.id)

    async def certify(self, grant_id: str, **changes: Any) -> Leaf:
        """Another certificate of a grant."""
        leaf = Pki.of(self.authority).client(grant_id, self.grants.require(grant_id).subject, **changes)
        await self.grants.add_certificate(grant_id, leaf.issued, activate=True)
        self.leaves[grant_id] = leaf
        return leaf

    def stub(self, grant: Grant, leaf: Leaf | None = None) -> Any:
        """A stub on a new connection with the grant's certificate."""
        leaf = leaf or self.leaves[grant.id]
        channel = dial(self.server.federation_address, GATEWAY, self.authority.trust_bundle, leaf)
        self.channels.append(channel)
        return pb_grpc.FederationServiceStub(channel)

    async def watch(self, grant: Grant, instance: str = A, stub: Any = None) -> WatchClient:
        """An armed watch."""
        return await WatchClient(stub or self.stub(grant), instance).arm()

    async def lease(self, grant: Grant, instance: str = A, stub: Any = None) -> int:
        """List tasks for a cache; return the lease in ms."""
        call = (stub or self.stub(grant)).List(TASKS, metadata=((INSTANCE, instance),))
        await call
        return int(first(tuple(await call.trailing_metadata()), LEASE_MS) or 0)

    async def stop(self) -> None:
        """Stop in the gateway's order; stopping twice is allowed."""
        for channel in self.channels:
            await channel.close()
        await self.stack.aclose()


StartDatabaseServer = Callable[..., Awaitable[DatabaseServer]]


async def _open(
    database: Database, authority: Authority, leaves: dict[str, Leaf], clock: Clock, **options: Any
) -> DatabaseServer:
    stack = AsyncExitStack()
    writer = ScriptedWriter()
    grants, audit = await GrantRegistry.load(database, clock), AuditTrail(writer, clock)
    provider = options.pop("provider", None) or SqlProvider(database, clock)
    coordinator = await InvalidationCoordinator.open(database, grants, provider, audit, clock=clock, **options)
    service = FederationService(
        gateway=GATEWAY,
        version="1.2.3",
        provider=provider,
        grants=grants,
        audit=audit,
        page_key=PAGE_KEY,
        clock=clock,
        tracing=untraced(clock),
        leases=coordinator.leases,
        max_lease_ms=coordinator.max_lease_ms,
        watch=coordinator.watch.serve,
    )
    server = GatewayServer(
        listen="127.0.0.1:0",
        enroll="127.0.0.1:0",
        identity=authority,
        service=service,
        enrollment=NoEnrollment(),
    )
    server.before_stop.append(coordinator.watch.close)
    audit.start()
    stack.push_async_callback(grants.close)
    stack.push_async_callback(audit.stop)
    stack.push_async_callback(coordinator.stop)
    await coordinator.start()
    await server.start()
    stack.push_async_callback(server.stop, 0.5)
    return DatabaseServer(database, grants, coordinator, provider, server, authority, writer, stack, leaves)


@asynccontextmanager
async def database_servers(database: Database) -> AsyncIterator[StartDatabaseServer]:
    """Yield a function that starts a server on a database; a second start is the gateway's next process."""
    authority = Authority.create(GATEWAY, ("127.0.0.1",))
    leaves: dict[str, Leaf] = {}
    running: list[DatabaseServer] = []

    async def start(clock: Clock = SYSTEM_CLOCK, **options: Any) -> DatabaseServer:
        if running:
            await running[-1].stop()
        running.append(await _open(database, authority, leaves, clock, **options))
        return running[-1]

    yield start
    for one in running:
        await one.stop()


@pytest_asyncio.fixture
async def start_granting(database: Database) -> AsyncIterator[StartDatabaseServer]:
    """Start servers on one database, one after the other."""
    async with database_servers(database) as start:
        yield start


@pytest_asyncio.fixture
async def granting(start_granting: StartDatabaseServer) -> DatabaseServer:
    """A server with ada in T1, bob in T2, and one row of each kind."""
    granting = await start_granting()
    members = (Member("ada", "T1"), Member("bob", "T2"))
    rows = (new_row("t1", team="T1"), new_row("t2"), new_row("t3", owner="bob", team="T2"), new_row("n1", "notes"))
    await granting.provider.apply(Batch(users=("ada", "bob"), teams=("T1", "T2"), members=members, rows=rows))
    return granting
