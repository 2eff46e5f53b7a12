"""The employees' running gateways, each home gateway enrolled at work, and one interface to query them."""

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
from tests.support.employee_data import EMPLOYEES, GATEWAYS, WORK, Employee, Record
from tests.support.gateway_pair import Running, fill

EPOCH: Final = 1_767_225_600
"""Unix time of second 0 of the rows."""
PEER_BUDGET_S: Final = 30.0
"""Budget of each peer: a slow machine must not fail the test."""
CAPABILITIES: Final = federation_pb2.CapabilitiesRequest()
VERBS: Final = {"ListRequest": "list", "GetRequest": "get", "SearchRequest": "search"}

if TYPE_CHECKING:
    from federation.session.session import Session


@dataclass
class QueryAnswer:
    """The answer to a query, from a session or the admin socket."""

    rows: list[tuple[str, Record]] = field(default_factory=list)
    """Each with the source in its tag."""
    cached: int = 0
    snippets: list[tuple[str, frozenset[str]]] = field(default_factory=list)
    """Snippets of search hits, with the words of their rows."""
    reasons: dict[str, str] = field(default_factory=dict)
    """The reason of each queried source."""
    token: str = ""
    opened: dict[str, frozenset[str]] = field(default_factory=dict)
    """The resources that each source reports."""

    def add_row(self, row: Any, home: str) -> None:
        """Add a row with its tags, from a session or the socket."""
        gateway = home if row.source == "local" else WORK
        data: Mapping[str, str] = json.loads(row.row.data)
        found = row.row
        second = found.created_at.seconds - EPOCH
        record = Record(gateway, found.resource, found.id, found.owner, found.team, second, data)
        self.rows.append((row.source, record))
        self.cached += row.cached
        if row.snippet:
            self.snippets.append((row.snippet, record.words))


class EmployeeGateways:
    """Every gateway, and two sessions per employee."""

    def __init__(self, running: Mapping[str, Running]) -> None:
        self.running = running
        self.grants: dict[tuple[str, str], str] = {}
        """The grant id of each employee's peer."""
        self._sessions: dict[tuple[str, int], Session] = {}

    async def enroll(self, person: Employee) -> None:
        """Create grants at work and enroll a home gateway for one user, once per peer."""
        home, work = self.running[person.home].admin, self.running[WORK].admin
        for name, scope in person.peers.items():
            created = await work.CreateGrant(
                pb.CreateGrantRequest(peer=person.home, subject=person.subject, scope=json.dumps(scope))
            )
            created_token = await work.CreateEnrollmentToken(pb.CreateEnrollmentTokenRequest(grant_id=created.grant.id))
            await home.AddPeer(pb.AddPeerRequest(token=created_token.token, user=person.user, name=name))
            self.grants[person.name, name] = created.grant.id

    async def open_sessions(self) -> None:
        """Open new sessions; the caches are kept."""
        for session in self._sessions.values():
            await session.close()
        config = SessionConfig(peer_budget_s=PEER_BUDGET_S)
        for person in EMPLOYEES:
            federation = self.running[person.home].gateway.federation
            for number in range(2):
                self._sessions[person.name, number] = federation.session(person.user, config=config)

    async def query(
        self, person: Employee, number: int, request: Request, source: str, *, by_socket: bool
    ) -> QueryAnswer:
        """Query through a session, or through the home gateway's socket under one shared session name."""
        if by_socket:
            return await self._by_socket(person, request, source)
        return _answer_of(await self._sessions[person.name, number].ask(request, source=source), person.home)

    async def _by_socket(self, person: Employee, request: Request, source: str) -> QueryAnswer:
        verb: dict[str, Any] = {VERBS.get(type(request).__name__, "capabilities"): request}
        message = pb.QueryRequest(user=person.user, source=source, session="agent", budget_ms=30_000, **verb)
        answer = QueryAnswer()
        try:
            async for part in self.running[person.home].admin.Query(message):
                for row in part.rows:
                    answer.add_row(row, person.home)
                if part.HasField("capabilities"):
                    answer.opened[part.source] = frozenset(part.capabilities.resources)
                answer.reasons |= {report.source: report.reason for report in part.summary.sources}
                answer.token = part.next_page_token
        except grpc.aio.AioRpcError as e:
            error = error_of(e)
            if not isinstance(error, Refusal):
                raise error from None
            answer.reasons[str(error).partition(": ")[0] if source != "local" else source] = error.reason
        return answer


def _answer_of(result: Result, home: str) -> QueryAnswer:
    answer = QueryAnswer(token=result.next_page_token)
    for row in result.rows:
        answer.add_row(row, home)
    answer.reasons = {report.source: report.reason for report in result.sources}
    answer.opened = {source: frozenset(each.resources) for source, each in result.capabilities.items()}
    return answer


@contextmanager
def open_employee_gateways() -> Iterator[tuple[EmployeeGateways, asyncio.Runner]]:
    """Start all gateways with their rows and enrollments, on the loop of a runner."""
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


async def _open(stack: AsyncExitStack, directory: Path) -> EmployeeGateways:
    running = {name: await _running(stack, directory / name, name) for name in GATEWAYS}
    gateways = EmployeeGateways(running)
    for person in EMPLOYEES:
        await gateways.enroll(person)
    for each in running.values():
        assert await each.gateway.federation.armed()
    return gateways


async def _running(stack: AsyncExitStack, directory: Path, name: str) -> Running:
    free = "127.0.0.1:0"
    await init_gateway(GatewayConfig(directory=directory, name=name, listen=free, enroll=free))
    gateway = await stack.enter_async_context(Gateway.open(directory))
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(target(gateway.config.socket_path)))
    running = Running(gateway, stack, AdminServiceStub(channel))
    await gateway.start()
    await fill(running, GATEWAYS[name].lines())
    return running
