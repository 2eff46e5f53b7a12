"""Measures sessions: with many peers, with a silent peer, and with a peer that is known to be offline.

Every peer is a server in a separate process whose lists take 20 ms. Local data are rows in SQLite. Before each live
call the peers' cache entries are flushed, unmeasured, so that all calls have the same request.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Self

import grpc

from federation.bootstrap import init_gateway
from federation.cache.entries import InvalidationReason
from federation.config import ClientConfig, GatewayConfig, SessionConfig
from federation.federation import Federation
from federation.resources.batch import Batch, NewRow
from federation.resources.documents import Document
from federation.resources.sql.provider import SqlProvider
from federation.session.session import Session
from federation.store.database import Database
from federation.store.peers import PeerRecord
from federation.v1 import federation_pb2 as pb
from federation.v1.federation_pb2_grpc import FederationServiceStub
from federation.wire.channel_args import CHANNEL
from tests.bench.clients import DEADLINE_S, GATEWAY, peer_process
from tests.bench.samples import Samples
from tests.bench.server import ROWS, SLOW_S
from tests.bench.variants import InvalidBlockError
from tests.support.federations import ListedPeers
from tests.support.peer_records import peer_record
from tests.support.pki import Pki, channel_credentials

PEERS: Final = 8
BUDGET_S: Final = 0.3
SILENT_S: Final = 3_600.0
BARE_SLOW: Final = "one bare call to a peer at 20 ms"
BARE_EIGHT: Final = f"{PEERS} bare calls at once, each to a peer at 20 ms"
ONE: Final = "session, 1 peer at 20 ms and local"
EIGHT: Final = f"session, {PEERS} peers at 20 ms and local"
CACHED: Final = f"session, {PEERS} peers from the cache and local"
LOCAL: Final = "session, local alone"
OFFLINE: Final = "session, local and a peer known to be offline"
FIRST: Final = "session, first row beside a silent peer"
SILENT: Final = f"session, all beside a silent peer, less its budget of {BUDGET_S:g} s"
NAMES: Final = (BARE_SLOW, BARE_EIGHT, ONE, EIGHT, CACHED, LOCAL, OFFLINE, FIRST, SILENT)
_REQUEST: Final = pb.ListRequest(resource="tasks", page_size=ROWS)


def enrollment(pki: Pki, user: str, port: int, number: int = 0, identity: Any = None) -> PeerRecord:
    """An enrollment of a user at the peer on a port."""
    return peer_record(
        identity or pki.client(),
        pki.trust_bundle,
        f"127.0.0.1:{port}",
        name=f"peer-{number:03}.example",
        gateway=GATEWAY,
        user=user,
        grant_id=f"{number:08x}-0000-4000-8000-{user.encode().hex():0>12}",
    )


@asynccontextmanager
async def open_federation(
    directory: Path, records: list[PeerRecord], session: SessionConfig, *, watch: bool
) -> AsyncIterator[Federation]:
    """A federation over these peers, with 20 local rows for each of their users."""
    config = GatewayConfig(
        directory=directory,
        name="home.example",
        client=ClientConfig(watch=watch),
        session=session,
    )
    await init_gateway(config)
    database = await Database.open(config.database_url)
    try:
        provider, users = SqlProvider(database), sorted({record.user for record in records})
        rows = [_own_row(user, number) for user in users for number in range(ROWS)]
        await provider.apply(Batch(users=users, rows=rows))
        async with Federation(config, ListedPeers(*records), provider=provider) as fed:
            yield fed
    finally:
        await database.close()


def _own_row(user: str, number: int) -> NewRow:
    data = {"title": "Write the quarterly report", "status": "open", "priority": "2", "notes": "x" * 32}
    return NewRow("tasks", f"{user}-{number:03}", user, Document.of(data), created_at_us=1_800_000_000_000_000 + number)


class SessionTimes:
    """The servers, a federation with one user per kind of peer, and the times. A context manager."""

    def __init__(self, calls: int) -> None:
        self.rows = {name: Samples() for name in NAMES}
        self._calls = calls
        self._runner, self._stack = asyncio.Runner(), AsyncExitStack()
        self._fed: Federation
        self._bare: list[Any]
        self._offline: Session
        self._eight: Session
        self._one: Session

    def __enter__(self) -> Self:
        self._runner.__enter__()
        self._runner.run(self._open())
        for name in NAMES:
            self._runner.run(self._measure(name))
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.__exit__(None, None, None)

    def round(self) -> None:
        """Measure each variant once, in random order."""
        for name in random.sample(NAMES, len(NAMES)):
            cpu = time.process_time()
            took = self._runner.run(self._measure(name))
            self.rows[name].add(took, time.process_time() - cpu)

    async def _open(self) -> None:
        pki, enter = Pki(), self._stack.enter_context
        directory = Path(enter(TemporaryDirectory(prefix="m")))
        ports = [enter(peer_process(pki, SLOW_S)) for _ in range(PEERS)]
        records = [enrollment(pki, "eight", port, number) for number, port in enumerate(ports)]
        records += [enrollment(pki, "one", ports[0]), enrollment(pki, "offline", 9)]
        records += [enrollment(pki, "silent", enter(peer_process(pki, SILENT_S)))]
        self._fed = await self._stack.enter_async_context(
            open_federation(directory / "home", records, SessionConfig(peer_budget_s=BUDGET_S), watch=False)
        )
        credentials, options = channel_credentials(pki.trust_bundle, pki.client()), CHANNEL.to_grpc(GATEWAY)
        channels = [grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) for port in ports]
        self._bare = [FederationServiceStub(await self._stack.enter_async_context(each)) for each in channels]
        patient = SessionConfig(peer_budget_s=DEADLINE_S)
        self._eight, self._one = self._fed.session("eight", config=patient), self._fed.session("one", config=patient)
        self._offline = self._fed.session("offline")
        await self._offline.list("tasks")

    async def _measure(self, name: str) -> list[int]:
        if name == BARE_SLOW:
            return [await _time_together(self._bare[:1]) for _ in range(self._calls)]
        if name == BARE_EIGHT:
            return [await _time_together(self._bare) for _ in range(self._calls)]
        if name in {FIRST, SILENT}:
            first_ns, all_ns = await self._time_with_silent_peer()
            return [first_ns] if name == FIRST else [all_ns - int(BUDGET_S * 1e9)]
        session, source, answering, fresh = {
            ONE: (self._one, "all", 2, True),
            EIGHT: (self._eight, "all", PEERS + 1, True),
            CACHED: (self._eight, "all", PEERS + 1, False),
            LOCAL: (self._offline, "local", 1, False),
            OFFLINE: (self._offline, "all", 1, False),
        }[name]
        return await self._time_lists(session, answering, source, fresh=fresh)

    async def _time_lists(self, session: Session, answering: int, source: str, *, fresh: bool) -> list[int]:
        took = []
        for _ in range(self._calls):
            if fresh:
                for peer in self._fed.peers.all(session.user):
                    assert peer.cache is not None
                    peer.cache.flush(InvalidationReason.GRANT_CHANGED, peer.grant_id)
            begun = time.perf_counter_ns()
            result = await session.list("tasks", page_size=ROWS, source=source)
            took.append(time.perf_counter_ns() - begun)
            cached = sum(report.state == "cached" for report in result.sources)
            if sum(report.rows == ROWS for report in result.sources) != answering or (fresh and cached):
                raise InvalidBlockError(f"{answering} sources should have answered: {result.sources}")
        return took

    async def _time_with_silent_peer(self) -> tuple[int, int]:
        """Return the times of the first row and of the complete answer, in a session new to the peer."""
        begun, first = time.perf_counter_ns(), 0
        async with self._fed.session("silent") as session, session.stream(_REQUEST) as answers:
            async for answer in answers:
                if not first:
                    first = time.perf_counter_ns() - begun
                    if answer.source != "local":
                        raise InvalidBlockError(f"{answer.source} answered before local data")
            whole = time.perf_counter_ns() - begun
            if [report.state for report in answers.result.sources] != ["ok", "offline"]:
                raise InvalidBlockError(f"the silent peer answered: {answers.result.sources}")
        return first, whole


async def _time_together(stubs: list[Any]) -> int:
    begun = time.perf_counter_ns()
    calls = [stub.List(_REQUEST, timeout=DEADLINE_S) for stub in stubs]
    for call in calls:
        await call
    return time.perf_counter_ns() - begun
