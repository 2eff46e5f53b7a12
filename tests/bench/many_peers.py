"""Measures a session over 200 peers, half of them dead, in a separate process: time, tasks and memory.

Half of the dead peers refuse connections, half accept calls and never answer. Run as a module, it measures once and
prints JSON. Tasks and memory are those of the whole process. Watches are on, as by default.
"""

import asyncio
import json
import logging
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

from federation.cache.entries import InvalidationReason
from federation.config import SessionConfig
from federation.session.session import Session
from federation.v1 import federation_pb2 as pb
from tests.bench.clients import ROOT, peer_process
from tests.bench.server import ROWS, SLOW_S
from tests.bench.sessions import SILENT_S, enrollment, open_federation
from tests.support.pki import Pki

PEERS: Final = 200
CONFIG: Final = SessionConfig()
"""The default: two seconds per peer."""
LATER: Final = 20
FIGURES: Final = {
    "open_ms": "open, with every watch attempted: ms",
    "open_tasks": "tasks after opening",
    "first_row_ms": "first request: ms to local rows",
    "first_over_budget_ms": "first request: ms beyond the budget",
    "first_ok": "first request: sources that answered, local included",
    "later_live_ms": "later request, live: ms",
    "later_from_cache_ms": "later request, from the cache: ms",
    "most_tasks": "maximum of tasks",
    "threads": "Python threads",
    "open_kib_a_peer": "KiB per peer to open",
    "first_kib_a_peer": "KiB per peer for the first request",
    "later_kib": "KiB in total for 20 later requests",
    "resident_mib": "MiB of the process",
}
"""The label of each figure."""
REFUSING: Final = 9
"""A port without a listener."""


class ManyPeers:
    """The figures of each round by name: milliseconds, counts and KiB."""

    def __init__(self, peers: int = PEERS) -> None:
        self.peers = peers
        self.rounds: list[dict[str, float]] = []

    def round(self) -> None:
        """Measure in a new process."""
        command = [sys.executable, "-m", "tests.bench.many_peers", str(self.peers)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        self.rounds.append(json.loads(done.stdout))

    def middle(self, name: str) -> float:
        """The median over rounds."""
        return median(each[name] for each in self.rounds)


def _resident_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4


async def _most_tasks(until: asyncio.Event) -> int:
    """Return the maximum number of the loop's tasks until an event, without this one."""
    most = 0
    while not until.is_set():
        most = max(most, len(asyncio.all_tasks()) - 1)
        await asyncio.sleep(0.002)
    return most


async def _measure_first(session: Session) -> dict[str, float]:
    begun, first, rows = time.perf_counter(), 0.0, 0
    states: dict[str, int] = {}
    async with session.stream(pb.ListRequest(resource="tasks", page_size=ROWS)) as answers:
        async for answer in answers:
            first = first or time.perf_counter() - begun
            rows += len(answer.rows)
            states[answer.report.state] = states.get(answer.report.state, 0) + 1
    whole = time.perf_counter() - begun
    return {
        "first_row_ms": first * 1e3,
        "first_over_budget_ms": (whole - CONFIG.peer_budget_s) * 1e3,
        "first_rows": rows,
        **{f"first_{state}": count for state, count in states.items()},
    }


async def _measure_later(session: Session, fed: Any, *, fresh: bool) -> float:
    took = []
    for _ in range(LATER):
        if fresh:
            for peer in fed.peers.all(session.user):
                peer.cache.flush(InvalidationReason.GRANT_CHANGED, peer.grant_id)
        begun = time.perf_counter()
        await session.list("tasks", page_size=ROWS)
        took.append(time.perf_counter() - begun)
    return median(took) * 1e3


async def measure(peers: int, live: int, silent: int, pki: Pki, directory: Path) -> dict[str, float]:
    """Open a federation over `peers` peers; measure the first request, and later ones live and from the cache."""
    leaf, half, quarter = pki.client(), peers // 2, peers // 4
    ports = [live] * (peers - half) + [REFUSING] * quarter + [silent] * (half - quarter)
    records = [enrollment(pki, "ada", port, number, leaf) for number, port in enumerate(ports)]
    before_kib = _resident_kib()
    begun = time.perf_counter()
    async with open_federation(directory, records, CONFIG, watch=True) as fed:
        await fed.armed(1.0)
        figures = {"open_ms": (time.perf_counter() - begun) * 1e3, "open_tasks": float(len(asyncio.all_tasks()))}
        open_kib, ended = _resident_kib(), asyncio.Event()
        counting = asyncio.create_task(_most_tasks(ended))
        async with fed.session("ada") as session:
            await session.list("tasks", page_size=ROWS, source="local")  # the first read of a process compiles its SQL
            figures |= await _measure_first(session)
            first_kib = _resident_kib()
            figures["later_live_ms"] = await _measure_later(session, fed, fresh=True)
            later_kib = _resident_kib()
            figures["later_from_cache_ms"] = await _measure_later(session, fed, fresh=False)
        ended.set()
        figures["most_tasks"] = await counting
        figures["threads"] = threading.active_count()
        figures |= {
            "open_kib_a_peer": (open_kib - before_kib) / peers,
            "first_kib_a_peer": (first_kib - open_kib) / peers,
            "later_kib": later_kib - first_kib,
            "resident_mib": _resident_kib() / 1_024,
        }
    return figures


def main() -> None:
    """Measure once and print JSON."""
    logging.disable()
    pki = Pki()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="m"))) / "home"
        live, silent = (stack.enter_context(peer_process(pki, delay_s)) for delay_s in (SLOW_S, SILENT_S))
        figures = asyncio.run(measure(int(sys.argv[1]), live, silent, pki, directory))
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
