"""The connections of the chain: own certificate, disconnecting, probe, rotation, loops."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from federation.breaker import CircuitState
from federation.client.transport.credentials import EnrolledDialer
from federation.clock import Clock
from federation.errors import ENROLL_AGAIN, Action, Reason
from federation.federation import Federation
from federation.v1 import federation_pb2 as pb
from federation.v1.federation_pb2_grpc import FederationServiceStub
from federation.wire.status import error_detail_of
from tests.support.clock import ManualClock
from tests.support.federations import federation_of, sync_channel_of
from tests.support.network_faults import Relay
from tests.support.pki import Pki
from tests.support.scripted import Reply, ScriptedPeer, eventually

SEARCH = pb.SearchRequest(query="report")


@pytest_asyncio.fixture
async def fed(tmp_path: Path, scripted: ScriptedPeer) -> AsyncIterator[Federation]:
    """A federation that knows the scripted peer."""
    async with federation_of(tmp_path, scripted.record()) as fed:
        yield fed


async def reason_of(call: Any) -> str:
    """The reason of a call that fails, or OK."""
    try:
        await call
    except grpc.RpcError as e:
        return error_detail_of(e).reason
    return "OK"


@pytest.mark.parametrize(
    ("expired_for", "cure", "action"),
    [
        (timedelta(hours=1), "rotate it to try at once", Action.ROTATE_PEER),
        (timedelta(days=8), ENROLL_AGAIN, Action.ENROLL_AGAIN),
    ],
)
async def test_expired_own_certificate_is_refused_before_dialling(
    expired_for: timedelta, cure: str, action: Action, tmp_path: Path, scripted: ScriptedPeer, peer_pki: Pki
) -> None:
    """An expired certificate is a local CERTIFICATE_INVALID that names the remedy, and no connection is made."""
    relay = Relay(scripted.port)
    identity = peer_pki.client(ends_in=-expired_for, begins_in=-expired_for - timedelta(days=1))
    record = replace(scripted.record(identity=identity), endpoint=relay.endpoint)
    async with federation_of(tmp_path, record) as fed:
        stub = fed.stub("work.example")
        for _ in range(6):
            with pytest.raises(grpc.RpcError) as failed:
                await stub.Search(SEARCH)
            detail = error_detail_of(failed.value)
            assert (detail.reason, detail.local) == (Reason.CERTIFICATE_INVALID, True)
            assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "expired at" in (failed.value.details() or "")
        assert (failed.value.details() or "").endswith(f"; {cure}")
        assert error_detail_of(failed.value).remedy == record.remedy(action)
        circuit = fed.peer("work.example").circuit
        assert circuit is not None
        assert circuit.snapshot(fed.clock.monotonic()).state is CircuitState.CLOSED
    relay.close()
    assert relay.accepts == 0


async def test_certificate_that_expires_on_a_live_connection(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Expiry is checked for every call, not only when dialling."""
    manual = ManualClock(wall=time.time())
    clock = Clock(time.monotonic, manual.clock.elapsed, manual.clock.wall)
    async with federation_of(tmp_path, scripted.record(), clock=clock) as fed:
        stub = fed.stub("work.example")
        assert await reason_of(stub.Search(SEARCH)) == "OK"
        manual.advance(25 * 3600)
        assert await reason_of(stub.Search(SEARCH)) == Reason.CERTIFICATE_INVALID


@pytest.mark.parametrize("fault", ["key of another", "no certificate"])
async def test_stored_pair_that_cannot_be_used(
    fault: str, tmp_path: Path, scripted: ScriptedPeer, peer_pki: Pki
) -> None:
    """A key that does not fit, or an unreadable certificate, is reported as such, and never as an unreachable peer."""
    record = scripted.record()
    if fault == "key of another":
        record = replace(record, key_pem=peer_pki.client().key_pem)
    else:
        record = replace(record, certificate_pem="-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
    async with federation_of(tmp_path, record) as fed:
        assert await reason_of(fed.stub("work.example").Search(SEARCH)) == Reason.CERTIFICATE_INVALID
    assert scripted.service.calls() == 0


async def test_peer_is_dialled_by_its_name_and_its_bundle_alone(
    tmp_path: Path, scripted: ScriptedPeer, other_scripted: ScriptedPeer
) -> None:
    """A server of another name, or of another authority, is not talked to."""
    misnamed = replace(scripted.record(), endpoint=other_scripted.endpoint)
    stranger = replace(scripted.record(user="bob", grant_id="b"), trust_bundle=Pki().trust_bundle)
    async with federation_of(tmp_path, misnamed, stranger) as fed:
        for user in ("ada", "bob"):
            assert await reason_of(fed.stub("work.example", user).Search(SEARCH)) == Reason.PEER_UNREACHABLE
    assert scripted.service.calls() == other_scripted.service.calls() == 0


async def test_disconnected_channel_dials_no_sooner_than_the_next_call(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """After `disconnect` nothing redials, though the peer is back; the next call dials and works at once."""
    relay = Relay(scripted.port)
    async with federation_of(tmp_path, replace(scripted.record(), endpoint=relay.endpoint)) as fed:
        stub = fed.stub("work.example")
        assert await reason_of(stub.Search(SEARCH)) == "OK"
        fed.peer("work.example").channel.disconnect()
        relay.reset()
        accepts = relay.accepts
        await asyncio.sleep(2.5)  # an idle channel would have redialled by now
        assert relay.accepts == accepts
        assert await reason_of(stub.Search(SEARCH)) == "OK"
        assert relay.accepts == accepts + 1
    relay.close()


async def test_probe_dials_a_connection_of_its_own_that_is_promoted(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """The probe of a half-open circuit uses a connection of its own, which serves from then on if it worked."""
    manual = ManualClock(wall=time.time())
    relay = Relay(scripted.port)
    record = replace(scripted.record(), endpoint=relay.endpoint)
    async with federation_of(tmp_path, record, clock=manual.clock) as fed:
        stub, peer = fed.stub("work.example"), fed.peer("work.example")
        lines: list[Any] = []
        dial = peer.channel._dial
        peer.channel._dial = lambda home: lines.append(dial(home)) or lines[-1]  # type: ignore[func-returns-value]
        scripted.stop()
        for _ in range(5):
            assert await reason_of(stub.Search(SEARCH)) == Reason.PEER_UNREACHABLE
        assert await reason_of(stub.Search(SEARCH)) == Reason.CIRCUIT_OPEN
        assert peer.channel.current(asyncio.get_running_loop()) is None

        manual.advance(40)
        assert await reason_of(stub.Search(SEARCH)) == Reason.PEER_UNREACHABLE
        assert peer.channel.current(asyncio.get_running_loop()) is None
        scripted.start()
        manual.advance(80)
        accepts = relay.accepts
        assert await reason_of(stub.Search(SEARCH)) == "OK"
        assert relay.accepts == accepts + 1
        assert peer.channel.current(asyncio.get_running_loop()) is not None
        assert await reason_of(stub.Search(SEARCH)) == "OK"
        assert relay.accepts == accepts + 1
        assert [line.closed for line in lines] == [True, True, False]
    relay.close()


async def test_promoted_connection_replaces_another_and_never_newer_credentials(
    tmp_path: Path, scripted: ScriptedPeer
) -> None:
    """A probe's connection replaces and closes the current one; one that was dialled before a swap is closed."""
    async with federation_of(tmp_path, scripted.record()) as fed:
        channel, loop = fed.peer("work.example").channel, asyncio.get_running_loop()
        borrowed = channel.acquire(loop)
        channel.release(loop, borrowed)
        probe = channel.acquire(loop, fresh=True)
        channel.release(loop, probe, fresh=True, proven=True)
        assert channel.current(loop) is probe
        assert borrowed.closed

        outdated = channel.acquire(loop, fresh=True)
        channel.swap(EnrolledDialer(scripted.record(), fed.clock))
        channel.release(loop, outdated, fresh=True, proven=True)
        assert channel.current(loop) is None
        assert outdated.closed


async def test_swap_drops_no_call(fed: Federation, scripted: ScriptedPeer, peer_pki: Pki) -> None:
    """New credentials serve the next call while calls on the old connection end there; then that one is closed."""
    gate = threading.Event()
    scripted.service.script("search", Reply(gate=gate), Reply())
    stub, peer = fed.stub("work.example"), fed.peer("work.example")
    before = stub.Search(SEARCH)
    await eventually(lambda: scripted.service.active == 1)
    old = peer.channel.current(asyncio.get_running_loop())
    renewed = replace(peer.record, certificate_pem=(new := peer_pki.client()).certificate_pem, key_pem=new.key_pem)

    fed.peers.load([renewed])
    await stub.Search(SEARCH)
    assert old is not None
    assert not old.closed
    gate.set()
    assert (await before).hits
    await eventually(lambda: old.closed)
    first, second = scripted.service.seen
    assert first.certificate_pem.decode() != second.certificate_pem.decode() == new.certificate_pem
    assert peer.record == renewed


async def test_rotation_under_load_fails_no_call(fed: Federation, scripted: ScriptedPeer, peer_pki: Pki) -> None:
    """Certificates rotate ten times under load, aio and sync: no call fails."""
    stub, peer = fed.stub("work.example"), fed.peer("work.example")
    assert fed._runtime is not None
    sync_stub: Any = FederationServiceStub(sync_channel_of(fed._runtime))
    stopped = False

    async def load() -> int:
        count = 0
        while not stopped:
            assert await reason_of(stub.Search(SEARCH)) == "OK"
            count += 1
        return count

    def sync_load() -> int:
        count = 0
        while not stopped:
            sync_stub.Search(SEARCH)
            count += 1
        return count

    loads = [asyncio.ensure_future(load()) for _ in range(4)] + [asyncio.ensure_future(asyncio.to_thread(sync_load))]
    for _ in range(10):
        new = peer_pki.client()
        fed.peers.load([replace(peer.record, certificate_pem=new.certificate_pem, key_pem=new.key_pem)])
        done = scripted.service.finished
        await eventually(lambda done=done: scripted.service.finished > done + 5)  # type: ignore[misc]
    stopped = True
    assert all(count > 5 for count in await asyncio.gather(*loads))


def test_each_loop_has_its_own_connection(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """One federation serves loops one after the other, and a channel outlives the loop that used it."""
    fed = federation_of(tmp_path, scripted.record())

    async def first() -> None:
        await fed.start()
        assert await reason_of(fed.stub("work.example").Search(SEARCH)) == "OK"

    async def second() -> None:
        assert await reason_of(fed.stub("work.example").Search(SEARCH)) == "OK"
        await fed.close()

    asyncio.run(first())
    asyncio.run(second())
    assert scripted.service.calls() == 2


async def test_connectivity_of_an_aio_channel(fed: Federation) -> None:
    """`channel_ready` and `get_state` tell of this loop's connection; before one is open the state is IDLE."""
    channel = fed.channel("work.example")
    assert channel.get_state() is grpc.ChannelConnectivity.IDLE
    await asyncio.wait_for(channel.channel_ready(), 5)
    assert channel.get_state() is grpc.ChannelConnectivity.READY
    channel.get_state(try_to_connect=True)
    waiting = asyncio.ensure_future(channel.wait_for_state_change(grpc.ChannelConnectivity.CONNECTING))
    await asyncio.wait_for(waiting, 5)


def test_asyncio_still_waits_by_the_attribute_that_the_driver_resets() -> None:
    """The one non-public touch: a task's `__await__` yields the task itself, marked as waited for."""

    async def main() -> None:
        task = asyncio.ensure_future(asyncio.sleep(0, "done"))
        waiting = task.__await__()
        future = waiting.send(None)
        assert future is task
        assert future._asyncio_future_blocking is True
        future._asyncio_future_blocking = False
        await asyncio.sleep(0.01)
        with pytest.raises(StopIteration, match="done"):
            waiting.send(None)

    asyncio.run(main())
