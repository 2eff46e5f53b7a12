"""What a session costs: many peers at once, a peer that is silent, and one that is known to be away.

Every peer is a server in a process of its own whose lists take 20 ms. Local data are rows in SQLite, read beside them.
Before each call that shall be live what is kept of the peers is dropped, unmeasured, so that all ask the same question.
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
from tests.bench.samples import Samples
from tests.bench.server import ROWS, SLOW_S
from tests.bench.variants import VoidError
from tests.bench.world import DEADLINE_S, GATEWAY, serving
from tests.support.federations import ListedPeers
from tests.support.pki import Pki, channel_credentials

PEERS: Final = 8
BUDGET_S: Final = 0.3
NEVER_S: Final = 3_600.0
BARE_SLOW: Final = "one bare call to a peer at 20 ms"
BARE_EIGHT: Final = f"{PEERS} bare calls at once, each to a peer at 20 ms"
ONE: Final = "session, 1 peer at 20 ms and local"
EIGHT: Final = f"session, {PEERS} peers at 20 ms and local"
FROM_MEMORY: Final = f"session, {PEERS} peers from memory and local"
LOCAL: Final = "session, local alone"
AWAY: Final = "session, local and a peer known to be away"
FIRST: Final = "session, first row beside a silent peer"
SILENT: Final = f"session, all beside a silent peer, less its budget of {BUDGET_S:g} s"
NAMES: Final = (BARE_SLOW, BARE_EIGHT, ONE, EIGHT, FROM_MEMORY, LOCAL, AWAY, FIRST, SILENT)
_ASKED: Final = pb.ListRequest(resource="tasks", page_size=ROWS)


def enrolled(pki: Pki, user: str, port: int, number: int = 0, identity: Any = None) -> PeerRecord:
    """An enrollment of a user at whatever answers on a port."""
    leaf, name = identity or pki.client(), f"peer-{number:03}.example"
    return PeerRecord(
        id=f"{user}-{number}",
        name=name,
        user=user,
        gateway=GATEWAY,
        endpoint=f"127.0.0.1:{port}",
        grant_id=f"{number:08x}-0000-4000-8000-{user.encode().hex():0>12}",
        subject=user,
        certificate_pem=leaf.certificate_pem,
        key_pem=leaf.key_pem,
        trust_bundle=pki.trust_bundle,
        created_at_us=0,
    )


@asynccontextmanager
async def opened(
    directory: Path, records: list[PeerRecord], session: SessionConfig, *, watch: bool
) -> AsyncIterator[Federation]:
    """A federation over these peers, with 20 rows of its own for each of their users."""
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
    """The servers, a federation with a user for each kind of trouble, and the times. Use it as a context."""

    def __init__(self, calls: int) -> None:
        self.rows = {name: Samples() for name in NAMES}
        self._calls = calls
        self._runner, self._stack = asyncio.Runner(), AsyncExitStack()
        self._fed: Federation
        self._bare: list[Any]
        self._away: Session
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
        """Measure each once, in random order."""
        for name in random.sample(NAMES, len(NAMES)):
            cpu = time.process_time()
            took = self._runner.run(self._measure(name))
            self.rows[name].add(took, time.process_time() - cpu)

    async def _open(self) -> None:
        pki, enter = Pki(), self._stack.enter_context
        directory = Path(enter(TemporaryDirectory(prefix="m")))
        ports = [enter(serving(pki, SLOW_S)) for _ in range(PEERS)]
        records = [enrolled(pki, "eight", port, number) for number, port in enumerate(ports)]
        records += [enrolled(pki, "one", ports[0]), enrolled(pki, "away", 9)]
        records += [enrolled(pki, "silent", enter(serving(pki, NEVER_S)))]
        self._fed = await self._stack.enter_async_context(
            opened(directory / "home", records, SessionConfig(peer_budget_s=BUDGET_S), watch=False)
        )
        credentials, options = channel_credentials(pki.trust_bundle, pki.client()), CHANNEL.to_grpc(GATEWAY)
        channels = [grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) for port in ports]
        self._bare = [FederationServiceStub(await self._stack.enter_async_context(each)) for each in channels]
        patient = SessionConfig(peer_budget_s=DEADLINE_S)
        self._eight, self._one = self._fed.session("eight", config=patient), self._fed.session("one", config=patient)
        self._away = self._fed.session("away")
        await self._away.list("tasks")

    async def _measure(self, name: str) -> list[int]:
        if name == BARE_SLOW:
            return [await _together(self._bare[:1]) for _ in range(self._calls)]
        if name == BARE_EIGHT:
            return [await _together(self._bare) for _ in range(self._calls)]
        if name in {FIRST, SILENT}:
            first_ns, all_ns = await self._beside_a_silent_one()
            return [first_ns] if name == FIRST else [all_ns - int(BUDGET_S * 1e9)]
        session, source, answering, fresh = {
            ONE: (self._one, "all", 2, True),
            EIGHT: (self._eight, "all", PEERS + 1, True),
            FROM_MEMORY: (self._eight, "all", PEERS + 1, False),
            LOCAL: (self._away, "local", 1, False),
            AWAY: (self._away, "all", 1, False),
        }[name]
        return await self._listed(session, answering, source, fresh=fresh)

    async def _listed(self, session: Session, answering: int, source: str, *, fresh: bool) -> list[int]:
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
                raise VoidError(f"{answering} sources should have answered: {result.sources}")
        return took

    async def _beside_a_silent_one(self) -> tuple[int, int]:
        """Return when the first row was there, and when all was, in a session that does not know the peer yet."""
        begun, first = time.perf_counter_ns(), 0
        async with self._fed.session("silent") as session, session.stream(_ASKED) as answers:
            async for answer in answers:
                if not first:
                    first = time.perf_counter_ns() - begun
                    if answer.source != "local":
                        raise VoidError(f"{answer.source} answered before local data")
            whole = time.perf_counter_ns() - begun
            if [report.state for report in answers.result.sources] != ["ok", "offline"]:
                raise VoidError(f"the silent peer was none: {answers.result.sources}")
        return first, whole


async def _together(stubs: list[Any]) -> int:
    begun = time.perf_counter_ns()
    calls = [stub.List(_ASKED, timeout=DEADLINE_S) for stub in stubs]
    for call in calls:
        await call
    return time.perf_counter_ns() - begun
