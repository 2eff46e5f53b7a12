"""The serving side with nothing scripted: grants, audit and rows in a real database, SQLite and PostgreSQL."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import pytest_asyncio

from federation.pki.authority import Authority
from federation.pki.csr import make_request
from federation.resources.batch import Batch, Member, NewRow
from federation.resources.documents import Document
from federation.resources.sql.provider import SqlProvider
from federation.resources.sql.writes import write_batch
from federation.scope.model import RowFilter, Scope
from federation.server.audit.trail import AuditTrail
from federation.server.pipeline.service import FederationService
from federation.server.revocation.leases import LeaseTable
from federation.server.transport.server import GatewayServer
from federation.store.audit.model import AuditFilter
from federation.store.audit.table import AuditStore
from federation.store.database import Database
from federation.store.grants.registry import GrantRegistry
from federation.v1 import federation_pb2 as pb
from federation.v1 import federation_pb2_grpc as pb_grpc
from federation.wire.status import error_detail_of
from tests.support.pki import Leaf, dial, key_pem, new_key
from tests.support.server_in_memory import GATEWAY, INSTANCE, PAGE_KEY, NoEnrollment, untraced

SCOPE = Scope(
    ("tasks", "notes"),
    max_rows_per_query=4,
    filters={"tasks": RowFilter(frozenset({"T1"}), include_personal=False)},
)
START_US = 1_750_000_000_000_000


@dataclass
class Gateway:
    """The database of the server, and the stub of the enrolled peer."""

    stub: Any
    grants: GrantRegistry
    grant_id: str
    audit: AuditStore


def task(row_id: str, owner: str, team: str = "", at_us: int = START_US, resource: str = "tasks") -> NewRow:
    """A row whose title says report."""
    return NewRow(resource, row_id, owner, Document.of({"title": f"report {row_id}"}), team, at_us, START_US)


def rows() -> list[NewRow]:
    """Ten tasks of T1 that share instants in pairs, and one each of another team, of nobody's team and of eve."""
    shared = [task(f"t{i}", "eve", "T1", START_US - i // 2) for i in range(10)]
    others = [task("other", "ada", "T2"), task("own", "ada"), task("eves", "eve"), task("n1", "ada", resource="notes")]
    return shared + others


@asynccontextmanager
async def serving_gateway(database: Database) -> AsyncIterator[Gateway]:
    """Serve the rows over the database to a peer that was issued a certificate by its authority."""
    provider, grants, audit = SqlProvider(database), await GrantRegistry.load(database), AuditStore(database)
    members = [Member("ada", "T1"), Member("ada", "T2"), Member("eve", "T1")]
    await provider.apply(Batch(("ada", "eve"), ("T1", "T2"), members, rows()))
    authority = Authority.create(GATEWAY, ("127.0.0.1",))
    grant = await grants.create(peer="home.example", subject="ada", scope=SCOPE)
    key = new_key()
    issued = authority.issue_client(
        make_request(key, "home.example"), grant_id=grant.id, subject="ada", peer="home.example", lifetime_s=3_600
    )
    await grants.add_certificate(grant.id, issued, activate=True)
    trail = AuditTrail(audit)
    service = FederationService(
        gateway=GATEWAY,
        version="1",
        provider=provider,
        grants=grants,
        audit=trail,
        page_key=PAGE_KEY,
        tracing=untraced(),
        leases=LeaseTable(),
    )
    server = GatewayServer(
        listen="127.0.0.1:0", enroll="127.0.0.1:0", identity=authority, service=service, enrollment=NoEnrollment()
    )
    trail.start()
    await server.start()
    leaf = Leaf(issued.pem, key_pem(key))
    async with dial(server.federation_address, GATEWAY, authority.trust_bundle, leaf) as channel:
        yield Gateway(pb_grpc.FederationServiceStub(channel), grants, grant.id, audit)
    await server.stop(0.1)
    await trail.stop()
    await grants.close()


@pytest_asyncio.fixture
async def gateway(database: Database) -> AsyncIterator[Gateway]:
    """A serving gateway with an enrolled peer."""
    async with serving_gateway(database) as served:
        yield served


async def error_of(call: Any) -> grpc.aio.AioRpcError:
    """The error of a call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_pages_by_token_and_by_position_give_every_row_once(gateway: Gateway) -> None:
    """The grant's cap limits each page; by token and by position, rows of equal instants come once each."""
    by_token: list[str] = []
    token = ""
    while token or not by_token:
        page = await gateway.stub.List(pb.ListRequest(resource="tasks", page_size=50, page_token=token))
        by_token += [row.id for row in page.rows]
        token = page.next_page_token
        assert len(page.rows) <= 4
    by_place: list[pb.Row] = []
    while True:
        after = pb.ListPosition(created_at=by_place[-1].created_at, id=by_place[-1].id) if by_place else None
        page = await gateway.stub.List(pb.ListRequest(resource="tasks", page_size=3, after=after))
        by_place += page.rows
        if not page.next_page_token:
            break

    assert by_token == [row.id for row in by_place] == [f"t{i}" for i in range(10)]


async def test_scope_and_rights_narrow_every_verb(gateway: Gateway) -> None:
    """Rows outside scope or rights appear in no list, get or search."""
    hidden = ["other", "own", "eves", "absent"]

    refusals = [await error_of(gateway.stub.Get(pb.GetRequest(resource="tasks", id=row_id))) for row_id in hidden]
    hits = (await gateway.stub.Search(pb.SearchRequest(query="report", resources=["tasks"]))).hits
    notes = (await gateway.stub.List(pb.ListRequest(resource="notes"))).rows

    assert {(e.code(), e.details(), error_detail_of(e).reason) for e in refusals} == {
        (grpc.StatusCode.NOT_FOUND, "no such row that this grant may read", "ROW_NOT_FOUND")
    }
    assert len(hits) == 4
    assert {hit.row.team for hit in hits} == {"T1"}
    assert [row.id for row in notes] == ["n1"]


@pytest.mark.smoke
@pytest.mark.postgres
async def test_an_import_in_progress_delays_no_read(postgres_url: str) -> None:
    """A gateway answers reads, and records them, while another connection holds the transaction of a long import."""
    database, other = await Database.open(postgres_url), await Database.open(postgres_url)
    async with serving_gateway(database) as gateway, other.write() as importing:
        await write_batch(importing, Batch(("ada",), rows=[task(f"new{i}", "ada") for i in range(100)]), START_US)
        before = time.monotonic()
        listed = (await gateway.stub.List(pb.ListRequest(resource="tasks"), timeout=5)).rows
        got = (await gateway.stub.Get(pb.GetRequest(resource="tasks", id="t0"), timeout=5)).row
        elapsed_s = time.monotonic() - before
        async with asyncio.timeout(5):
            while len(await gateway.audit.newest(AuditFilter(grant_id=gateway.grant_id), 2)) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    assert (len(listed), got.id) == (4, "t0")
    assert elapsed_s < 2
    await other.close()
    await database.close()


@pytest.mark.smoke
async def test_reads_and_refusals_are_on_record_and_revocation_holds(gateway: Gateway) -> None:
    """Rows of the audit are visible within a second; after `revoke` the next call is refused, and that is recorded."""
    call = gateway.stub.List(pb.ListRequest(resource="tasks"), metadata=(("mosaic-instance", INSTANCE),))
    await call
    assert dict(await call.trailing_metadata())["mosaic-lease-ms"] == "30000"
    await gateway.grants.revoke(gateway.grant_id, "left")

    error = await error_of(gateway.stub.List(pb.ListRequest(resource="tasks")))

    assert error_detail_of(error).reason == "GRANT_REVOKED"
    async with asyncio.timeout(1):
        while len(await gateway.audit.newest(AuditFilter(grant_id=gateway.grant_id), 2)) < 2:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)
    events = (await gateway.audit.page(AuditFilter(grant_id=gateway.grant_id))).events
    assert [(e.outcome, e.reason) for e in events] == [("denied", "GRANT_REVOKED: grant revoked"), ("ok", "")]
    assert (events[1].peer, events[1].subject, events[1].verb) == ("home.example", "ada", "list")
    grant = gateway.grants.get(gateway.grant_id)
    assert grant is not None
    assert grant.last_used_at_us
