"""Two real gateways in one process: real databases, mutual TLS on loopback, real enrollment."""

import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio

from federation.admin.address import target
from federation.bootstrap import init_gateway
from federation.config import GatewayConfig, StoreConfig
from federation.gateway import Gateway
from federation.v1 import admin_pb2 as pb
from federation.v1.admin_pb2_grpc import AdminServiceStub
from tests.support.databases import migrated_postgres_url

if TYPE_CHECKING:
    from federation.v1.admin_pb2_grpc import AdminServiceAsyncStub

SCOPE = {
    "resources": ["tasks", "notes"],
    "excluded_resources": ["credentials"],
    "max_rows_per_query": 5,
    "filters": {"tasks": {"include_teams": ["T1"], "include_personal": False}},
}


@dataclass
class Running:
    """A running gateway and an admin stub for it."""

    gateway: Gateway
    stack: AsyncExitStack
    admin: "AdminServiceAsyncStub"

    @property
    def name(self) -> str:
        """The gateway's name."""
        return self.gateway.config.name

    async def stop(self) -> None:
        """Stop the gateway; stopping twice is allowed."""
        await self.stack.aclose()


Start = Callable[..., Awaitable[Running]]
NewStore = Callable[[], Awaitable[str]]


def rows_jsonl(count: int = 12) -> bytes:
    """Two users, two teams, and tasks: even ones of T1, odd ones of T2 or personal; a note; a credential."""
    lines: list[dict[str, Any]] = [
        {"kind": "user", "id": "ada"},
        {"kind": "user", "id": "bob"},
        {"kind": "team", "id": "T1"},
        {"kind": "team", "id": "T2"},
        {"kind": "member", "user": "ada", "team": "T1"},
        {"kind": "member", "user": "ada", "team": "T2"},
        {"kind": "member", "user": "bob", "team": "T2"},
    ]
    for number in range(count):
        team = ("T1", "T2", "T1", "")[number % 4]
        lines.append(
            {
                "kind": "row",
                "resource": "tasks",
                "id": f"task-{number}",
                "owner": "ada",
                "team": team,
                "created_at": f"2026-01-{number + 1:02}T00:00:00Z",
                "data": {"title": f"task number {number}", "status": "open" if number % 3 else "done"},
            }
        )
    lines += [
        {"kind": "row", "resource": "notes", "id": "note-1", "owner": "ada", "data": {"text": "a personal note"}},
        {"kind": "row", "resource": "credentials", "id": "c-1", "owner": "ada", "data": {"text": "a secret"}},
        {"kind": "row", "resource": "tasks", "id": "bobs", "owner": "bob", "data": {"title": "bob's own task"}},
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory with a path short enough for the admin sockets within."""
    directory = Path(tempfile.mkdtemp(prefix="m"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def store(request: pytest.FixtureRequest) -> NewStore:
    """Make the database URL of a new gateway; runs the test on SQLite and PostgreSQL."""
    if request.param == "sqlite":
        return _in_its_directory
    directory = str(request.getfixturevalue("postgres_directory"))
    return lambda: migrated_postgres_url(directory)


async def _in_its_directory() -> str:
    return ""


@pytest_asyncio.fixture
async def start(short_path: Path, store: NewStore) -> AsyncIterator[Start]:
    """Start a gateway by name; an existing one starts again from its directory."""
    started: list[Running] = []

    async def start(name: str, **options: Any) -> Running:
        directory = short_path / name
        if not directory.exists():
            url = StoreConfig(url=await store())
            free = "127.0.0.1:0"
            await init_gateway(GatewayConfig(directory=directory, name=name, listen=free, enroll=free, store=url))
        stack = AsyncExitStack()
        gateway = await stack.enter_async_context(Gateway.open(directory, **options))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(target(gateway.config.socket_path)))
        running = Running(gateway, stack, AdminServiceStub(channel))
        started.append(running)
        await gateway.start()
        return running

    yield start
    for running in reversed(started):
        await running.stop()


async def fill(running: Running, lines: bytes | None = None) -> None:
    """Import rows through the admin socket."""
    chunk = pb.ImportRowsRequest(lines=rows_jsonl() if lines is None else lines)
    async for _ in running.admin.ImportRows(iter([chunk])):
        pass


async def enroll(home: Running, work: Running, *, user: str = "ada", subject: str = "ada", scope: Any = None) -> str:
    """Let `home` read `work` for a user, by grant, token and peer; return the grant's id."""
    created = await work.admin.CreateGrant(
        pb.CreateGrantRequest(peer=home.name, subject=subject, scope=json.dumps(SCOPE if scope is None else scope))
    )
    issued = await work.admin.CreateEnrollmentToken(pb.CreateEnrollmentTokenRequest(grant_id=created.grant.id))
    await home.admin.AddPeer(pb.AddPeerRequest(token=issued.token, user=user))
    return created.grant.id


@pytest_asyncio.fixture
async def home_gateway(start: Start) -> Running:
    """The asking gateway."""
    running = await start("home.example")
    await fill(running)
    return running


@pytest_asyncio.fixture
async def work_gateway(start: Start) -> Running:
    """The serving gateway."""
    running = await start("work.example")
    await fill(running)
    return running
