"""The watch against a scripted peer over real mutual TLS: arming, events, acknowledgements, loss and moves."""

import asyncio
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.breaker import CallResult
from federation.client.peer_status import PeerState
from federation.client.peers.watch_handle import WatchState
from federation.client.watch.policy import WatchSettings
from federation.errors import Reason, Refusal
from federation.federation import Federation
from federation.v1 import federation_pb2 as pb
from federation.wire.channel_args import SERVER
from federation.wire.metadata import CACHED
from federation.wire.status import error_detail_of
from tests.support.federations import ListedPeers, aio_stub
from tests.support.pki import Pki
from tests.support.scripted import Reply, ScriptedPeer, eventually
from tests.support.scripted_watches import IMPATIENT, QUICK, ScriptedWatches, until_watch, watching

TASKS = pb.ListRequest(resource="tasks")
NOTES = pb.ListRequest(resource="notes")
SEARCH = pb.SearchRequest(query="x")


async def ask(fed: Federation, request: Any = TASKS) -> bool:
    """List, and tell whether the answer came from the cache."""
    call = fed.stub("work.example").List(request)
    await call
    return (await call.trailing_metadata())[CACHED] == "true"


async def refused(call: Any) -> str:
    """Return the reason for which a call is refused."""
    with pytest.raises(grpc.RpcError) as error:
        await call
    return error_detail_of(error.value).reason


def flushes(fed: Federation) -> int:
    """Return how often the peer's entries were flushed."""
    cache = fed.peer("work.example").cache
    assert cache is not None
    return cache.stats().flushes


async def test_opening_arms_the_watch_and_flushes_once(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """A federation that opens watches its peers: the stream names the cache object, and arming flushes the cache."""
    watches.arms = False
    async with watching(tmp_path, scripted.record()) as fed:
        await eventually(lambda: len(watches.streams) == 1 and bool(watches.last.received))
        assert fed.peer_state("work.example").watch is WatchState.CONNECTING
        assert [await ask(fed), await ask(fed)] == [False, True]

        watches.last.arm()
        await until_watch(fed)

        assert watches.last.instance_id == fed.instance_id
        assert flushes(fed) == 1
        assert [await ask(fed), await ask(fed)] == [False, True]
        [seen] = [seen for seen in scripted.service.seen if seen.verb == "watch"]
        assert seen.header("mosaic-instance") == [fed.instance_id]


async def test_revocation_turns_the_next_hit_into_a_refusal_without_a_packet(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """After the event, a former hit is GRANT_REVOKED; the peer gets the ack, and no further call."""
    source = ListedPeers(scripted.record())
    async with watching(tmp_path, source=source) as fed:
        await until_watch(fed)
        assert [await ask(fed), await ask(fed)] == [False, True]
        calls = scripted.service.calls()

        event = watches.last.revoke("project over")
        await eventually(lambda: bool(watches.last.acks))

        call = fed.stub("work.example").List(TASKS)
        assert call.done()
        assert await refused(call) == Reason.GRANT_REVOKED
        assert "project over" in await call.details()
        assert await refused(fed.stub("work.example").Search(SEARCH)) == Reason.GRANT_REVOKED
        assert [(ack.event_id, ack.failed_in_flight) for ack in watches.last.acks] == [(event, 0)]
        await eventually(watches.last.ended.is_set)
        await until_watch(fed, WatchState.OFF)
        assert scripted.service.calls() == calls
        state = fed.peer_state("work.example")
        assert state.state is PeerState.REVOKED
        assert state.revocation is not None
        assert state.revocation.reason == "project over"
        await eventually(lambda: bool(source.revoked))
        assert source.revoked == [("peer-work.example-ada", state.revocation.at_us, "project over")]


async def test_the_acknowledgement_comes_after_the_flush(watched_fed: Federation, watches: ScriptedWatches) -> None:
    """When the peer reads the ack, nothing is cached and nothing can be cached or delivered."""
    seen: list[tuple[int, bool]] = []
    await ask(watched_fed)
    peer = watched_fed.peer("work.example")
    cache = peer.cache
    watches.on_request = lambda request: (
        seen.append((cache.stats().entries, peer.refusal is not None)) if request.HasField("ack") else None
    )

    watches.last.revoke()
    await eventually(lambda: bool(seen))

    assert seen == [(0, True)]


async def test_a_refusal_that_comes_before_the_event_costs_no_acknowledgement(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """If a call is refused as revoked before the event arrives, the stream stays open for the event and its ack."""
    settings = replace(QUICK, close_timeout_s=0.1)
    async with watching(tmp_path, scripted.record(), settings=settings) as fed:
        await until_watch(fed)
        scripted.service.script("list", Reply(refusal=Refusal(Reason.GRANT_REVOKED, "over")))
        assert await refused(fed.stub("work.example").List(TASKS)) == Reason.GRANT_REVOKED
        watches.last.beat()
        await asyncio.sleep(0.3)

        event = watches.last.revoke("over")
        await eventually(lambda: bool(watches.last.acks))

        assert [ack.event_id for ack in watches.last.acks] == [event]
        await eventually(watches.last.ended.is_set)


async def test_a_watch_that_is_lost_before_the_event_is_armed_once_more_to_acknowledge(
    watched_fed: Federation, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """After a call's refusal and a lost stream, A arms again for the event, acks it, and makes no further call."""
    scripted.service.script("list", Reply(refusal=Refusal(Reason.GRANT_REVOKED, "over")))
    assert await refused(watched_fed.stub("work.example").List(TASKS)) == Reason.GRANT_REVOKED
    watches.last.end(Refusal(Reason.INTERNAL, "cut"))
    await eventually(lambda: len(watches.streams) == 2 and bool(watches.last.received))

    event = watches.last.revoke("over")
    await eventually(lambda: bool(watches.last.acks))

    assert [ack.event_id for ack in watches.last.acks] == [event]
    await eventually(watches.last.ended.is_set)
    await until_watch(watched_fed, WatchState.OFF)
    await asyncio.sleep(0.3)
    assert len(watches.streams) == 2
    assert watched_fed.peer_state("work.example").state is PeerState.REVOKED


@pytest.mark.parametrize(("answer", "settings"), [(Reason.GRANT_REVOKED, QUICK), (Reason.INTERNAL, IMPATIENT)])
async def test_a_peer_that_awaits_nothing_is_not_dialled_for_long(
    answer: Reason, settings: WatchSettings, tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """Arming again to acknowledge ends with the peer's GRANT_REVOKED, and at the latest with the silence timeout."""
    async with watching(tmp_path, scripted.record(), settings=settings) as fed:
        await until_watch(fed)
        scripted.service.script("list", Reply(refusal=Refusal(Reason.GRANT_REVOKED, "over")))
        assert await refused(fed.stub("work.example").List(TASKS)) == Reason.GRANT_REVOKED
        watches.refusal = Refusal(answer, "over")
        watches.last.end(Refusal(Reason.INTERNAL, "cut"))

        await until_watch(fed, WatchState.OFF)
        await eventually(lambda: not fed.peer("work.example").watch.running)

        dialled = len(watches.streams)
        assert dialled == 2 if answer is Reason.GRANT_REVOKED else dialled > 2
        await asyncio.sleep(0.3)
        assert len(watches.streams) == dialled


async def test_a_stream_that_delivered_the_revocation_is_ended_without_waiting_for_the_peer(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """After `grant_revoked` the stream has no purpose, so it ends long before the silence timeout."""
    async with watching(tmp_path, scripted.record()) as fed:
        await until_watch(fed)
        watches.last.revoke()

        await eventually(watches.last.ended.is_set)
        await until_watch(fed, WatchState.OFF)
        assert len(watches.last.acks) == 1


async def test_a_revoked_peer_is_not_dialled_for_its_acknowledgement_while_the_circuit_is_open(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """A watch with a pending acknowledgement ends at once if the circuit is open."""
    async with watching(tmp_path, scripted.record()) as fed:
        await until_watch(fed)
        scripted.service.script("list", Reply(refusal=Refusal(Reason.GRANT_REVOKED, "over")))
        assert await refused(fed.stub("work.example").List(TASKS)) == Reason.GRANT_REVOKED
        peer = fed.peer("work.example")
        now = time.monotonic()
        for _ in range(5):
            permit = peer.circuit.allow(now)
            peer.circuit.record(permit, CallResult.FAILURE, now)

        watches.last.end(Refusal(Reason.INTERNAL, "cut"))

        await eventually(lambda: not peer.watch.running)
        assert fed.peer_state("work.example").watch is WatchState.OFF
        assert len(watches.streams) == 1


async def test_calls_under_way_are_failed_at_once_and_counted(
    form: str, tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """Shared lists and a search that the peer still works on fail at once; the ack has their number."""
    scripted.service.script("list", Reply(gate=threading.Event()))
    scripted.service.script("search", Reply(gate=threading.Event()))
    async with watching(tmp_path, scripted.record()) as fed:
        await until_watch(fed)
        async with aio_stub(form, fed, scripted) as stub:
            waiting: list[Any] = [stub.List(TASKS, timeout=30) for _ in range(3)]
            waiting.append(stub.Search(SEARCH, timeout=30))
            await eventually(lambda: scripted.service.active == 2)

            watches.last.revoke()
            async with asyncio.timeout(2):
                reasons = {await refused(call) for call in waiting}

        assert reasons == {Reason.GRANT_REVOKED}
        await eventually(lambda: bool(watches.last.acks))
        assert watches.last.acks[0].failed_in_flight == 4
        await eventually(lambda: scripted.service.cancelled == 2)
        assert not fed.peer("work.example").runners


@pytest.mark.parametrize("verb", ["list", "search"])
async def test_a_refusal_of_any_call_is_as_good_as_the_event(
    verb: str, tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """GRANT_REVOKED from the peer itself makes it revoked; a later event is acknowledged."""
    refusal = Reply(refusal=Refusal(Reason.GRANT_REVOKED, "taken back\x1b[31m"))
    scripted.service.script(verb, refusal)
    async with watching(tmp_path, scripted.record()) as fed:
        await until_watch(fed)
        stub = fed.stub("work.example")
        call: Any = stub.List(TASKS) if verb == "list" else stub.Search(SEARCH)
        assert await refused(call) == Reason.GRANT_REVOKED

        state = fed.peer_state("work.example")
        assert state.state is PeerState.REVOKED
        assert state.revocation is not None
        assert state.revocation.reason == "taken back?[31m"
        calls = scripted.service.calls()
        assert await refused(stub.List(TASKS)) == Reason.GRANT_REVOKED
        assert scripted.service.calls() == calls
        watches.last.revoke()
        await eventually(lambda: len(watches.last.acks) == 1)
        await until_watch(fed, WatchState.OFF)


async def test_a_refused_subscription_makes_the_peer_revoked(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """A grant revoked without a watch is known as soon as the watch subscribes; no second dial follows."""
    watches.refusal = Refusal(Reason.GRANT_REVOKED, "long ago")
    async with watching(tmp_path, scripted.record()) as fed:
        await eventually(lambda: fed.peer_state("work.example").state is PeerState.REVOKED)
        await until_watch(fed, WatchState.OFF)
        await asyncio.sleep(0.3)
        assert len(watches.streams) == 1


@pytest.mark.parametrize("reason", [Reason.GRANT_INVALID, Reason.CERTIFICATE_INVALID, Reason.INTERNAL])
async def test_no_other_refusal_is_final(
    reason: Reason, tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """A grant that is not valid (yet) is retried, and the watch arms when it is."""
    watches.refusal = Refusal(reason, "not yet")
    async with watching(tmp_path, scripted.record()) as fed:
        await eventually(lambda: len(watches.streams) >= 2)
        assert fed.peer_state("work.example").revocation is None
        watches.refusal = None
        await until_watch(fed)


async def test_grant_changed_retries(watched_fed: Federation, scripted: ScriptedPeer, watches: ScriptedWatches) -> None:
    """A change of the grant flushes everything; a call that was under way is made once more."""
    gate = threading.Event()
    await ask(watched_fed, NOTES)
    scripted.service.script("list", Reply(gate=gate), Reply())
    waiting = asyncio.ensure_future(ask(watched_fed))
    await eventually(lambda: scripted.service.active == 1)

    event = watches.last.change()
    await eventually(lambda: [ack.event_id for ack in watches.last.acks] == [event])
    gate.set()

    assert await waiting is False
    assert scripted.service.calls("list") == 3
    assert await ask(watched_fed, NOTES) is False
    assert watched_fed.peer_state("work.example").state is PeerState.ACTIVE


async def test_resource_changed_drops_that_resource_alone(watched_fed: Federation, watches: ScriptedWatches) -> None:
    """Changed rows of one resource leave the entries of other resources; there is no acknowledgement."""
    await ask(watched_fed, TASKS)
    await ask(watched_fed, NOTES)

    watches.last.change_rows("tasks")
    await eventually(lambda: flushes(watched_fed) == 2)

    assert [await ask(watched_fed, TASKS), await ask(watched_fed, NOTES)] == [False, True]
    assert watches.last.acks == []


async def test_a_lost_watch_flushes_nothing_and_rearming_once(
    watched_fed: Federation, watches: ScriptedWatches
) -> None:
    """Hits continue without a stream; it is redialled, and its arming flushes what may be stale."""
    await ask(watched_fed)
    watches.arms = False
    watches.last.end()
    await eventually(lambda: len(watches.streams) == 2)

    assert await ask(watched_fed) is True
    assert watched_fed.peer_state("work.example").watch is WatchState.CONNECTING
    assert flushes(watched_fed) == 1

    watches.last.arm()
    await until_watch(watched_fed)
    assert flushes(watched_fed) == 2
    assert await ask(watched_fed) is False


async def test_a_peer_that_is_down_is_redialled_until_it_is_back(
    watched_fed: Federation, scripted: ScriptedPeer
) -> None:
    """A network fault never makes a peer revoked, and hits are served during it."""
    await ask(watched_fed)
    scripted.stop()
    await until_watch(watched_fed, WatchState.CONNECTING)
    assert await ask(watched_fed) is True
    state = watched_fed.peer_state("work.example")
    assert (state.state, state.revocation) == (PeerState.ACTIVE, None)
    assert state.circuit is not None
    assert state.circuit.consecutive_failures == 0

    scripted.start()
    await until_watch(watched_fed)
    assert flushes(watched_fed) == 2


async def test_a_closed_connection_ends_the_stream_alone(watched_fed: Federation, watches: ScriptedWatches) -> None:
    """A stream whose connection is closed is lost as by a network fault: the watch dials again."""
    watched_fed.peer("work.example").channel.close()
    await eventually(lambda: len(watches.streams) == 2)
    await until_watch(watched_fed)


async def test_an_expired_own_certificate_dials_no_watch(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches, peer_pki: Pki
) -> None:
    """The watch checks the credentials first: an expired certificate opens no stream."""
    identity = peer_pki.client(ends_in=timedelta(hours=-1), begins_in=timedelta(hours=-25))
    async with watching(tmp_path, scripted.record(identity=identity)) as fed:
        assert not await fed.armed()
        assert fed.peer_state("work.example").watch is WatchState.CONNECTING
        assert watches.streams == []


async def test_silence_ends_a_stream(tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches) -> None:
    """A peer that is silent for three intervals is redialled; one that sends heartbeats is not."""
    async with watching(tmp_path, scripted.record(), settings=IMPATIENT) as fed:
        await until_watch(fed)
        first = watches.last
        for _ in range(8):
            first.beat()
            await asyncio.sleep(0.1)
        assert len(watches.streams) == 1
        assert first.heartbeats >= 2

        await eventually(lambda: len(watches.streams) == 2)
        await eventually(first.ended.is_set)


async def test_a_subscription_that_is_never_confirmed_is_cancelled(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """A peer that accepts the stream and does not arm it is redialled."""
    watches.arms = False
    settings = replace(QUICK, arm_timeout_s=0.2)
    async with watching(tmp_path, scripted.record(), settings=settings) as fed:
        await eventually(lambda: len(watches.streams) >= 3)
        assert fed.peer_state("work.example").watch is WatchState.CONNECTING
        watches.arms = True
        await until_watch(fed)


async def test_an_open_circuit_dials_nothing(
    watched_fed: Federation, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """While the circuit is open the watch does not dial; a circuit that closes wakes it."""
    scripted.stop()
    for _ in range(5):
        await refused(watched_fed.stub("work.example").Search(SEARCH))
    await until_watch(watched_fed, WatchState.OFF)
    scripted.start()
    await asyncio.sleep(0.4)
    assert len(watches.streams) == 1
    assert watched_fed.peer_state("work.example").state is PeerState.OFFLINE

    circuit = watched_fed.peer("work.example").circuit
    assert circuit is not None
    circuit.reset()
    await until_watch(watched_fed)
    assert len(watches.streams) == 2


async def test_a_circuit_that_opens_ends_a_dial_under_way(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """An unconfirmed stream is cancelled when the circuit opens, before its own timeout."""
    watches.arms = False
    scripted.service.script("search", Reply(code=grpc.StatusCode.UNAVAILABLE))
    async with watching(tmp_path, scripted.record(), settings=replace(QUICK, arm_timeout_s=60.0)) as fed:
        await eventually(lambda: len(watches.streams) == 1)
        for _ in range(5):
            await refused(fed.stub("work.example").Search(SEARCH))
        await until_watch(fed, WatchState.OFF)
        await eventually(watches.last.ended.is_set)


async def test_a_stream_moves_before_it_ages(tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches) -> None:
    """The new stream is armed before the old one ends, on a connection of its own, and nothing is flushed."""
    async with watching(tmp_path, scripted.record(), settings=replace(QUICK, max_stream_age_s=0.5)) as fed:
        await until_watch(fed)
        await ask(fed)
        since = fed.peer_state("work.example").watch_since_us
        await eventually(lambda: len(watches.streams) >= 3 and watches.streams[1].ended.is_set())

        assert await ask(fed) is True
        assert flushes(fed) == 1
        assert fed.peer_state("work.example").watch_since_us == since
        [stream] = [stream for stream in watches.streams if not stream.ended.is_set()][-1:]
        stream.revoke()
        await eventually(lambda: fed.peer_state("work.example").state is PeerState.REVOKED)


@pytest.mark.parametrize(("max_stream_age_s", "gaps"), [(0.4, False), (3_600.0, True)], ids=["moves", "stays"])
async def test_only_moving_in_time_survives_connection_ageing(
    max_stream_age_s: float, gaps: bool, tmp_path: Path, peer_pki: Pki
) -> None:
    """A peer that closes old connections ends a stream that stays, and never one that moves before."""
    ageing = replace(SERVER, max_connection_age_ms=1_000, max_connection_age_grace_ms=200)
    peer = ScriptedPeer(peer_pki, options=ageing)
    watches = ScriptedWatches()
    peer.service.watches = watches.serve
    peer.start()
    try:
        async with watching(tmp_path, peer.record(), settings=replace(QUICK, max_stream_age_s=max_stream_age_s)) as fed:
            await until_watch(fed)
            await asyncio.sleep(3.0)
            assert len(watches.streams) >= 2
            assert (flushes(fed) > 1) is gaps
    finally:
        peer.stop()


async def test_a_move_from_a_stream_that_broke_flushes(watched_fed: Federation, watches: ScriptedWatches) -> None:
    """If the old stream does not end cleanly, an event may have been missed between the two."""
    await ask(watched_fed)
    old, watches.arms = watches.last, False
    watch = watched_fed.peer("work.example").watch
    assert watch is not None
    watch.move()
    await eventually(lambda: len(watches.streams) == 2)
    old.end(Refusal(Reason.RATE_LIMITED, "fell behind"))
    await eventually(old.ended.is_set)
    watches.last.arm()
    await eventually(lambda: flushes(watched_fed) == 2)
    await until_watch(watched_fed)


async def test_a_move_that_fails_leaves_the_old_stream(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """While no new stream can be armed, the old one still delivers events."""
    async with watching(tmp_path, scripted.record(), settings=replace(QUICK, max_stream_age_s=0.2)) as fed:
        await until_watch(fed)
        watches.refusal = Refusal(Reason.RATE_LIMITED, "too many", retry_after_s=0.0)
        await eventually(lambda: len(watches.streams) >= 3)
        first = watches.streams[0]
        assert fed.peer_state("work.example").watch is WatchState.ARMED
        first.change()
        await eventually(lambda: len(first.acks) == 1)


async def test_other_credentials_move_the_watch(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """A replaced certificate arms a new stream before the old one ends; the cache is flushed once."""
    source = ListedPeers(scripted.record())
    async with watching(tmp_path, source=source) as fed:
        await until_watch(fed)
        await ask(fed)
        source.records = (scripted.record(),)
        await fed.refresh()
        await eventually(lambda: len(watches.streams) == 2 and watches.streams[0].ended.is_set())

        assert flushes(fed) == 2
        certificates = {seen.certificate_pem for seen in scripted.service.seen if seen.verb == "watch"}
        assert len(certificates) == 2


async def test_a_peer_without_watches_is_not_redialled_soon(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """UNIMPLEMENTED turns the watch off for a long pause; calls continue."""

    def unimplemented(_: Any, context: Any) -> Any:
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        yield from ()

    scripted.service.watches = unimplemented
    async with watching(tmp_path, scripted.record()) as fed:
        await eventually(lambda: scripted.service.calls("watch") == 1)
        await until_watch(fed, WatchState.OFF)
        await asyncio.sleep(0.2)
        assert scripted.service.calls("watch") == 1
        assert [await ask(fed), await ask(fed)] == [False, True]


async def test_a_stored_revocation_is_known_at_once(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """After a restart there is no dial and no call, and the refusal has the same text as before."""
    record = replace(scripted.record(), revoked_at_us=1_700_000_000_000_000, revoked_reason="project over")
    async with watching(tmp_path, record) as fed:
        call = fed.stub("work.example").List(TASKS)
        assert await refused(call) == Reason.GRANT_REVOKED
        assert await call.details() == ("work.example revoked the grant of ada at 2023-11-14T22:13:20Z: project over")
        assert fed.peer_state("work.example").state is PeerState.REVOKED
        await asyncio.sleep(0.1)
        assert (watches.streams, scripted.service.calls()) == ([], 0)


async def test_a_revoked_peer_starts_no_watch(tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches) -> None:
    """The watch of a peer that revoked the grant starts no task."""
    async with watching(tmp_path, replace(scripted.record(), revoked_at_us=1, revoked_reason="over")) as fed:
        watch = fed.peer("work.example").watch
        watch.start()
        await asyncio.wrap_future(fed._opened().background.submit(asyncio.sleep(0)))

        assert not watch.running
    assert watches.streams == []


async def test_a_revocation_in_the_store_is_loaded(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """A revocation that another process stored ends hits, calls and the watch here too."""
    source = ListedPeers(scripted.record())
    async with watching(tmp_path, source=source, settings=IMPATIENT) as fed:
        await until_watch(fed)
        await ask(fed)
        source.records = (replace(source.records[0], revoked_at_us=1, revoked_reason="elsewhere"),)
        await fed.refresh()
        assert await refused(fed.stub("work.example").List(TASKS)) == Reason.GRANT_REVOKED
        await until_watch(fed, WatchState.OFF)
        assert source.revoked == []


async def test_a_revocation_in_the_store_fails_calls_under_way_and_ends_a_watch_that_brings_no_event(
    tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches
) -> None:
    """A search that the peer still works on fails at once; the watch ends soon, though the peer keeps it alive."""
    scripted.service.script("search", Reply(gate=threading.Event()))
    source = ListedPeers(scripted.record())

    async def keep_alive() -> None:
        while True:
            watches.last.beat()
            await asyncio.sleep(0.05)

    async with watching(tmp_path, source=source, settings=IMPATIENT) as fed:
        await until_watch(fed)
        beating = asyncio.create_task(keep_alive())
        waiting = fed.stub("work.example").Search(SEARCH, timeout=30)
        await eventually(lambda: scripted.service.active == 1)
        source.records = (replace(source.records[0], revoked_at_us=1, revoked_reason="elsewhere"),)
        await fed.refresh()
        async with asyncio.timeout(2):
            assert await refused(waiting) == Reason.GRANT_REVOKED
        await until_watch(fed, WatchState.OFF)
        beating.cancel()
