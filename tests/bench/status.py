"""Measures `mosaic federation status` from the start of its process to its end, with one peer and with many.

The peers are enrolled and never answer, so the command and the gateway's reply are measured. The base is the start of
Python itself, `python -c pass`, in the same round.
"""

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Self

from federation.bootstrap import init_gateway
from federation.config import GatewayConfig
from federation.pki.sealing import Sealer
from federation.store.database import Database
from federation.store.peers import PeerRecord, PeerStore
from tests.bench.samples import Samples
from tests.support.peer_records import peer_record
from tests.support.pki import Pki

ROOT: Final = Path(__file__).parents[2]
PYTHON: Final = "python -c pass"
STATUS: Final = "status"
UNUSED_ADDRESS: Final = "127.0.0.1:9"


class StatusTimes:
    """Two gateways in separate processes, and the times of the command against each. A context manager."""

    def __init__(self, peers: int) -> None:
        self.peers = peers
        self.many = f"{STATUS}, {peers:,} peers"
        self.one = f"{STATUS}, 1 peer"
        self.rows = {name: Samples() for name in (PYTHON, self.one, self.many)}
        self._stack = ExitStack()
        self._directories: dict[str, Path] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            root = Path(stack.enter_context(TemporaryDirectory(prefix="m")))
            for name, peers in ((self.one, 1), (self.many, self.peers)):
                directory = self._directories[name] = root / str(peers)
                asyncio.run(_enroll(directory, peers))
                stack.enter_context(_serving(directory))
            self._stack = stack.pop_all()
        for name in self.rows:
            self._time(name)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def round(self) -> None:
        """Measure each variant once, in random order."""
        for name in random.sample(list(self.rows), len(self.rows)):
            took_ns, cpu_s = self._time(name)
            self.rows[name].add([took_ns], cpu_s)

    def _time(self, name: str) -> tuple[int, float]:
        arguments = ["-c", "pass"]
        if name in self._directories:
            arguments = ["-m", "mosaic_cli", "federation", "status", "--gateway", str(self._directories[name])]
        cpu = _children_s()
        begun = time.perf_counter_ns()
        done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        took_ns = time.perf_counter_ns() - begun
        if name == self.many:
            assert f"{self.peers:,} peers: {self.peers} not seen" in done.stdout
        return took_ns, _children_s() - cpu


def _children_s() -> float:
    times = os.times()
    return times.children_user + times.children_system


async def _enroll(directory: Path, peers: int) -> None:
    """Create a gateway with `peers` enrollments, each with its own certificate."""
    free = "127.0.0.1:0"
    await init_gateway(GatewayConfig(directory=directory, name="home.example", listen=free, enroll=free))
    settings = directory / "gateway.toml"
    settings.write_text(settings.read_text().replace("[client]", "[client]\nwatch = false"))
    database, pki = await Database.open(GatewayConfig.load(directory).database_url), Pki()
    try:
        store = PeerStore(database, Sealer.load(directory))
        for number in range(peers):
            await store.add(_record(pki, number))
    finally:
        await database.close()


def _record(pki: Pki, number: int) -> PeerRecord:
    name, grant_id = f"peer-{number}.example", f"{number:08x}-0000-4000-8000-000000000000"
    return peer_record(pki.client(grant_id), pki.trust_bundle, UNUSED_ADDRESS, name=name, grant_id=grant_id)


@contextmanager
def _serving(directory: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "mosaic_cli", "gateway", "serve", "--gateway", str(directory)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert any(line.startswith("  admin") for line in process.stdout), "the gateway did not start"
            yield
            process.terminate()
            process.wait(20)
        finally:
            process.kill()
