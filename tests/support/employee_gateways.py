"""The employees' gateways, running: each home enrolled at work for its users, and one way to ask them all."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc

from federation.admin.address import target
from federation.admin.errors import error_of
from federation.bootstrap import init_gateway
from federation.config import GatewayConfig, SessionConfig
from federation.errors import Refusal
from federation.gateway import Gateway
from federation.session.results import Result
from federation.session.validation import Request
from federation.v1 import admin_pb2 as pb
from federation.v1 import federation_pb2
from federation.v1.admin_pb2_grpc import AdminServiceStub
from tests.support.employee_data import EMPLOYEES, OFFICES, WORK, Employee, Record
from tests.support.gateway_pair import Running, fill

EPOCH: Final = 1_767_225_600
"""The instant of second 0."""
PATIENCE_S: Final = 30.0
"""What each peer may take: a busy machine is no leak."""
CAPABILITIES: Final = federation_pb2.CapabilitiesRequest()
VERBS: Final = {"ListRequest": "list", "GetRequest": "get", "SearchRequest": "search"}

if TYPE_CHECKING:
    from federation.session.session import Session


@dataclass
class Got:
    """What came back, by session or by socket."""

    rows: list[tuple[str, Record]] = field(default_factory=list)
    """With the source that each claims."""
    cached: int = 0
    snippets: list[tuple[str, frozenset[str]]] = field(default_factory=list)
    """Of hits, with the words of their rows."""
    told: dict[str, str] = field(default_factory=dict)
    """Each source that was asked, with its reason."""
    token: str = ""
    opened: dict[str, frozenset[str]] = field(default_factory=dict)
    """What each source says that it opens."""

    def take(self, row: Any, home: str) -> None:
        """Note a row with its tags: of a session, or of the socket."""
        gateway = home if row.source == "local" else WORK
        data: Mapping[str, str] = json.loads(row.row.data)
        found = row.row
        second = found.created_at.seconds - EPOCH
        record = Record(gateway, found.resource, found.id, found.owner, found.team, second, data)
        self.rows.append((row.source, record))
        self.cached += row.cached
        if row.snippet:
            self.snippets.append((row.snippet, record.words))


class Offices:
    """Every gateway, and two sessions an employee."""

    def __init__(self, running: Mapping[str, Running]) -> None:
        self.running = running
        self.grants: dict[tuple[str, str], str] = {}
        """The grant behind each employee's peer."""
        self._sessions: dict[tuple[str, int], Session] = {}

    async def enroll(self, person: Employee) -> None:
        """Let a home gateway read work for one of its users, once a peer."""
        home, work = self.running[person.home].admin, self.running[WORK].admin
        for name, scope in person.peers.items():
            created = await work.CreateGrant(
                pb.CreateGrantRequest(peer=person.home, subject=person.subject, scope=json.dumps(scope))
            )
            invited = await work.CreateEnrollmentToken(pb.CreateEnrollmentTokenRequest(grant_id=created.grant.id))
            await home.AddPeer(pb.AddPeerRequest(token=invited.token, user=person.user, name=name))
            self.grants[person.name, name] = created.grant.id

    async def open_sessions(self) -> None:
        """Begin anew: what is cached stays."""
        for session in self._sessions.values():
            await session.close()
        config = SessionConfig(peer_budget_s=PATIENCE_S)
        for person in EMPLOYEES:
            federation = self.running[person.home].gateway.federation
            for number in range(2):
                self._sessions[person.name, number] = federation.session(person.user, config=config)

    async def ask(self, person: Employee, number: int, request: Request, source: str, *, by_socket: bool) -> Got:
        """Ask by a session, or by the home gateway's socket under a name that all employees use for their session."""
        if by_socket:
            return await self._by_socket(person, request, source)
        return _taken(await self._sessions[person.name, number].ask(request, source=source), person.home)

    async def _by_socket(self, person: Employee, request: Request, source: str) -> Got:
        verb: dict[str, Any] = {VERBS.get(type(request).__name__, "capabilities"): request}
        asked = pb.QueryRequest(user=person.user, source=source, session="agent", budget_ms=30_000, **verb)
        got = Got()
        try:
            async for part in self.running[person.home].admin.Query(asked):
                for row in part.rows:
                    got.take(row, person.home)
                if part.HasField("capabilities"):
                    got.opened[part.source] = frozenset(part.capabilities.resources)
                got.told |= {report.source: report.reason for report in part.summary.sources}
                got.token = part.next_page_token
        except grpc.aio.AioRpcError as e:
            error = error_of(e)
            if not isinstance(error, Refusal):
                raise error from None
            got.told[str(error).partition(": ")[0] if source != "local" else source] = error.reason
        return got


def _taken(result: Result, home: str) -> Got:
    got = Got(token=result.next_page_token)
    for row in result.rows:
        got.take(row, home)
    got.told = {report.source: report.reason for report in result.sources}
    got.opened = {source: frozenset(each.resources) for source, each in result.capabilities.items()}
    return got


@contextmanager
def offices_open() -> Iterator[tuple[Offices, asyncio.Runner]]:
    """All gateways with their rows and enrollments, on the loop of a runner."""
    directory = Path(tempfile.mkdtemp(prefix="m"))
    try:
        with asyncio.Runner() as runner:
            stack = AsyncExitStack()
            try:
                yield runner.run(_open(stack, directory)), runner
            finally:
                runner.run(stack.aclose())
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _open(stack: AsyncExitStack, directory: Path) -> Offices:
    running = {name: await _running(stack, directory / name, name) for name in OFFICES}
    offices = Offices(running)
    for person in EMPLOYEES:
        await offices.enroll(person)
    for each in running.values():
        assert await each.gateway.federation.armed()
    return offices


async def _running(stack: AsyncExitStack, directory: Path, name: str) -> Running:
    free = "127.0.0.1:0"
    await init_gateway(GatewayConfig(directory=directory, name=name, listen=free, enroll=free))
    gateway = await stack.enter_async_context(Gateway.open(directory))
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(target(gateway.config.socket_path)))
    running = Running(gateway, stack, AdminServiceStub(channel))
    await gateway.start()
    await fill(running, OFFICES[name].lines())
    return running
