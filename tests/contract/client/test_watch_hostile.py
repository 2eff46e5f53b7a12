"""A peer that sends arbitrary messages on the watch harms only itself."""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from federation.client.peer_status import PeerState
from federation.client.peers.watch_handle import WatchState
from federation.errors import Reason, Refusal
from federation.federation import Federation
from federation.v1 import federation_pb2 as pb
from tests.contract.client.test_watch import NOTES, ask, flushes
from tests.support.scripted import ScriptedPeer, eventually
from tests.support.scripted_watches import QUICK, ScriptedWatches, until_watch, watching


async def test_a_flood_makes_the_peer_uncached_until_it_is_quiet(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """Beyond the bound nothing of the peer is cached, other peers' callers are served, and quiet ends it."""
    settings = replace(QUICK, max_events_per_s=20)
    async with watching(tmp_path, scripted.record(), settings=settings) as fed:
        await until_watch(fed)
        for _ in range(60):
            watches.last.change_rows("tasks")
        await eventually(lambda: flushes(fed) > 20)

        assert [await ask(fed), await ask(fed), await ask(fed, NOTES)] == [False, False, False]
        peer = fed.peer("work.example")
        assert peer.cache.stats().entries == 0

        await eventually(lambda: flushes(fed) >= 61, timeout=10)
        await asyncio.sleep(1.1)
        watches.last.beat()
        await asyncio.sleep(0.1)
        await ask(fed)
        assert await ask(fed) is True


async def test_a_revocation_within_a_flood_is_handled(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """A flood delays later events by no more than its own reading takes."""
    async with watching(tmp_path, scripted.record()) as fed:
        await until_watch(fed)
        for _ in range(150):
            watches.last.change_rows("tasks")
        watches.last.revoke()
        await eventually(lambda: bool(watches.last.acks))
        assert fed.peer_state("work.example").state is PeerState.REVOKED


async def test_a_flood_that_ends_with_its_stream_is_over(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """A flood ends with its stream: after the next arming answers are cached again."""
    async with watching(tmp_path, scripted.record(), settings=replace(QUICK, max_events_per_s=5)) as fed:
        await until_watch(fed)
        for _ in range(30):
            watches.last.change_rows("tasks")
        await eventually(lambda: flushes(fed) > 6)
        watches.last.end()
        await eventually(lambda: len(watches.streams) == 2, timeout=10)
        await until_watch(fed)
        await ask(fed)
        assert await ask(fed) is True


async def test_odd_events_are_harmless(tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches) -> None:
    """Unknown kinds, repeated or descending ids, a second arming, odd resources: the stream continues."""
    async with watching(tmp_path, scripted.record()) as fed:
        await until_watch(fed)
        stream = watches.last
        stream.send(event_id=2**64 - 1)
        stream.send(event_id=0, heartbeat=pb.WatchHeartbeat())
        stream.send(event_id=7, grant_changed=pb.WatchGrantChanged())
        stream.send(event_id=7, grant_changed=pb.WatchGrantChanged())
        stream.arm()
        stream.change_rows("")
        stream.change_rows("x" * 100_000)
        stream.change_rows("tasks\x00\n,../..")
        await eventually(lambda: flushes(fed) == 6)

        assert [ack.event_id for ack in stream.acks] == [7, 7]
        assert [await ask(fed), await ask(fed)] == [False, True]
        assert len(watches.streams) == 1


async def test_an_unreadable_message_ends_that_stream_alone(
    watched_fed: Federation, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """Bytes that are no message lose the stream, as a broken network would; it is redialled."""
    scripted.service.raw = b"\xff\xff\xff"
    watches.last.beat()
    await eventually(lambda: len(watches.streams) >= 2)
    scripted.service.raw = None
    await until_watch(watched_fed)
    assert watched_fed.peer_state("work.example").state is PeerState.ACTIVE


async def test_the_texts_of_a_peer_are_made_safe(
    caplog: pytest.LogCaptureFixture, watched_fed: Federation, watches: ScriptedWatches
) -> None:
    """A reason of any size with control characters is short and printable wherever it is shown."""
    caplog.set_level(logging.INFO)
    watches.last.end(Refusal(Reason.INTERNAL, "\x1b[2Jgone\nERROR forged"))
    await eventually(lambda: len(watches.streams) == 2)
    await until_watch(watched_fed)
    watches.last.revoke("\x1b]0;owned\x07\n" + "x" * 1_000_000)
    await eventually(lambda: bool(watches.last.acks))

    revocation = watched_fed.peer_state("work.example").revocation
    assert revocation is not None
    assert len(revocation.reason) == 300
    assert revocation.reason.isprintable()
    assert all(line.isprintable() for line in caplog.messages)
    assert any("is not watched" in line for line in caplog.messages)


async def test_a_peer_that_arms_and_ends_at_once_is_not_dialled_in_a_loop(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """Only a stream that lasts resets the backoff: the pauses grow all the same."""
    settings = replace(QUICK, first_pause_s=0.05, max_pause_s=60.0)
    async with watching(tmp_path, scripted.record(), settings=settings) as fed:
        seen = 0
        end = asyncio.get_running_loop().time() + 1.0
        while asyncio.get_running_loop().time() < end:
            if len(watches.streams) > seen:
                seen = len(watches.streams)
                watches.last.end()
            await asyncio.sleep(0.005)
        assert 2 <= seen <= 7
        assert fed.peer_state("work.example").watch is WatchState.CONNECTING
