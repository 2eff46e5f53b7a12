"""A session with many peers: bounded tasks and memory, and local data first."""

import asyncio
import gc
import socket
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from federation.cache.entries import InvalidationReason
from federation.config import SessionConfig
from federation.session.session import Session
from federation.session.stream import AnswerStream
from federation.store.peers import PeerRecord
from federation.v1 import federation_pb2 as pb
from tests.support.federations import client_threads
from tests.support.provider import ListedProvider, row
from tests.support.scripted import Reply, ScriptedPeer, eventually
from tests.support.sessions import peer_rows, with_data

PEERS = 200
REFUSED = "127.0.0.1:9"
REQUEST = pb.ListRequest(resource="tasks")
SLACK = 256 * 1024
"""Bytes by which Python's own memory may move between two requests without growing with their number."""


def enrollments(scripted: ScriptedPeer, endpoints: list[str]) -> list[PeerRecord]:
    """An enrollment of ada at each endpoint."""
    first = scripted.record()
    return [
        replace(
            first,
            id=f"peer-{number}",
            name=f"peer-{number:03}.example",
            grant_id=f"{number:08x}-0000-4000-8000-000000000000",
            endpoint=endpoint,
        )
        for number, endpoint in enumerate(endpoints)
    ]


async def most_tasks(until: "asyncio.Task[object]") -> int:
    """The maximum number of the loop's tasks until `until` is done, without this one."""
    most = 0
    while not until.done():
        most = max(most, len(asyncio.all_tasks()) - 1)
        await asyncio.sleep(0.002)
    return most


async def answered(answers: AnswerStream, silent: socket.socket) -> Counter[str]:
    """The source states of a request; the silent peers' port is closed once all other peers have answered."""
    states: Counter[str] = Counter()
    async for answer in answers:
        states[answer.report.state] += 1
        if states.total() == PEERS * 3 // 4 + 1:
            silent.close()
    return states


async def again(session: Session, times: int = 1) -> Counter[str]:
    """The source states of the last of `times` further requests."""
    for _ in range(times):
        states = Counter(report.state for report in (await session.list("tasks")).sources)
    return states


async def test_half_of_200_peers_may_be_unreachable(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """With 50 refusing and 50 silent peers of 200, tasks are bounded by the calls in flight, and memory does not grow.

    Peers that are skipped cost no task.
    """
    scripted.service.script("list", Reply(message=peer_rows("t1", "t2")))
    silent = socket.create_server(("127.0.0.1", 0), backlog=PEERS)
    black_hole = f"127.0.0.1:{silent.getsockname()[1]}"
    half, quarter = PEERS // 2, PEERS // 4
    records = enrollments(scripted, [scripted.endpoint] * half + [REFUSED] * quarter + [black_hole] * quarter)
    with silent:
        config = SessionConfig(peer_budget_s=60.0)
        async with with_data(tmp_path, *records) as fed, fed.session("ada", config=config) as session:
            before = len(asyncio.all_tasks())
            asking = asyncio.create_task(answered(session.stream(REQUEST), silent))
            assert await most_tasks(asking) <= before + 2 * PEERS
            assert await asking == {"ok": half + 1, "offline": half}
            await eventually(lambda: len(asyncio.all_tasks()) <= before)

            threads = client_threads()
            later = asyncio.create_task(again(session, 20))
            assert await most_tasks(later) <= before + 2  # the request itself, and local data
            assert await later == {"ok": 1, "cached": half, "skipped": half}

            async def live() -> None:
                for peer in fed.peers.all():
                    assert peer.cache is not None
                    peer.cache.flush(InvalidationReason.GRANT_CHANGED, peer.grant_id)
                assert await again(session) == {"ok": half + 1, "skipped": half}
                scripted.service.seen.clear()

            tracemalloc.start()
            try:
                await live()
                await live()
                gc.collect()
                kept = tracemalloc.get_traced_memory()[0]
                for _ in range(6):
                    await live()
                gc.collect()
                assert tracemalloc.get_traced_memory()[0] < kept + SLACK
            finally:
                tracemalloc.stop()
            await eventually(lambda: len(asyncio.all_tasks()) <= before)
            assert client_threads() <= threads


async def test_peer_requests_wait_for_local_data(
    tmp_path: Path, scripted: ScriptedPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first group of requests, the other peers are queried once local data are read."""
    monkeypatch.setattr("federation.session.fanout.BATCH_S", 0.0)
    monkeypatch.setattr("federation.session.fanout.LOCAL_HEAD_START_S", 3_600.0)
    own = ListedProvider([row("own")], {"ada": set()}, gate=asyncio.Event())
    peers = enrollments(scripted, [scripted.endpoint] * 4)
    async with (
        with_data(tmp_path, *peers, provider=own) as fed,
        fed.session("ada") as session,
        session.stream(REQUEST) as answers,
    ):
        await eventually(lambda: scripted.service.finished == 1)
        assert (await anext(answers)).source == "federated:peer-000.example"
        assert scripted.service.calls("list") == 1
        assert own.gate is not None
        own.gate.set()
        async with asyncio.timeout(60):
            rest = [answer.source async for answer in answers]
    assert rest[0] == "local"
    assert len(rest) == 4


async def test_peer_requests_do_not_wait_for_slow_local_data(
    tmp_path: Path, scripted: ScriptedPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait is short: every peer has answered before slow local data."""
    monkeypatch.setattr("federation.session.fanout.BATCH_S", 0.0)
    own = ListedProvider([row("own")], {"ada": set()}, gate=asyncio.Event())
    peers = enrollments(scripted, [scripted.endpoint] * 4)
    async with (
        with_data(tmp_path, *peers, provider=own) as fed,
        fed.session("ada") as session,
        session.stream(REQUEST) as answers,
    ):
        first = [(await anext(answers)).source for _ in range(4)]
        assert own.gate is not None
        own.gate.set()
        last = [answer.source async for answer in answers]
    assert sorted(first) == [f"federated:peer-{number:03}.example" for number in range(4)]
    assert last == ["local"]
