"""Revocations and changes reach the connected asking gateway at once."""

import asyncio
import statistics
import time
from typing import Any

import grpc
import pytest

from federation.client.peer_status import PeerState
from federation.client.peers.watch_handle import WatchState
from federation.errors import Reason
from federation.server.watch.subscriptions import Event
from federation.v1 import admin_pb2 as pb
from federation.v1 import federation_pb2
from federation.wire.metadata import CACHED
from federation.wire.status import error_detail_of
from tests.support.gateway_pair import Running, Start, enroll, fill, rows_jsonl
from tests.support.scripted import eventually

TASKS = federation_pb2.ListRequest(resource="tasks")
NOTES = federation_pb2.ListRequest(resource="notes")


async def ask(home: Running, request: Any = TASKS, user: str = "ada") -> tuple[list[str], bool]:
    """List at the work gateway; return ids and whether it was a hit."""
    call = home.gateway.federation.stub("work.example", user).List(request)
    reply = await call
    return [row.id for row in reply.rows], (await call.trailing_metadata())[CACHED] == "true"


async def refusal(home: Running, user: str = "ada") -> str:
    """Return why the next list is refused."""
    with pytest.raises(grpc.RpcError) as error:
        await ask(home, user=user)
    return error_detail_of(error.value).reason


async def revoke(work: Running, grant_id: str, reason: str = "") -> pb.RevocationReceipt:
    """Revoke, and return the receipt."""
    request = pb.RevokeGrantRequest(id=grant_id, reason=reason)
    return [reply async for reply in work.admin.RevokeGrant(request)][-1].receipt


async def test_a_hit_is_refused_right_after_the_receipt(home_gateway: Running, work_gateway: Running) -> None:
    """The receipt says that A acknowledged, and from then on A refuses by itself what was a hit a moment before."""
    grant = await enroll(home_gateway, work_gateway)
    state = home_gateway.gateway.federation.peer_state("work.example", "ada")
    assert state.watch is WatchState.ARMED
    await ask(home_gateway)
    assert (await ask(home_gateway))[1] is True

    receipt = await revoke(work_gateway, grant, "project over")
    assert await refusal(home_gateway) == Reason.GRANT_REVOKED

    [instance] = receipt.instances
    assert (instance.how, instance.instance_id) == ("acked", home_gateway.gateway.federation.instance_id)
    state = home_gateway.gateway.federation.peer_state("work.example", "ada")
    assert state.state is PeerState.REVOKED
    assert state.revocation is not None
    assert state.revocation.reason == "project over"
    await eventually(lambda: home_gateway.gateway.federation.peer_state("work.example", "ada").watch is WatchState.OFF)


async def test_a_restart_of_the_asking_gateway_remembers(
    home_gateway: Running, work_gateway: Running, start: Start
) -> None:
    """A revoked peer keeps instant and reason of its revocation, also while the other gateway is down."""
    grant = await enroll(home_gateway, work_gateway)
    await revoke(work_gateway, grant, "project over")
    before = home_gateway.gateway.federation.peer_state("work.example", "ada").revocation
    await work_gateway.stop()
    await home_gateway.stop()
    again = await start("home.example")

    state = again.gateway.federation.peer_state("work.example", "ada")
    assert (state.state, state.revocation) == (PeerState.REVOKED, before)
    assert await refusal(again) == Reason.GRANT_REVOKED
    status = await again.admin.Status(pb.StatusRequest())
    assert status.peers[0].state == pb.PEER_STATE_REVOKED
    assert status.peers[0].revocation.reason == "project over"
    assert status.peers[0].watch.state == "off"


@pytest.mark.parametrize("by", ["call", "renewal"])
async def test_a_refusal_that_comes_first_says_why(home_gateway: Running, work_gateway: Running, by: str) -> None:
    """A refused call or renewal states the reason of the revocation, before the watch or without one."""
    grant = await enroll(home_gateway, work_gateway)
    work_gateway.gateway.grants.refuse(grant, "project over")  # as while the write is under way
    if by == "call":
        assert await refusal(home_gateway) == Reason.GRANT_REVOKED
    else:
        with pytest.raises(grpc.aio.AioRpcError, match="project over"):
            await home_gateway.admin.RotatePeer(pb.RotatePeerRequest(name="work.example", user="ada"))

    status = await home_gateway.admin.Status(pb.StatusRequest())
    assert status.peers[0].state == pb.PEER_STATE_REVOKED
    assert status.peers[0].revocation.reason.endswith("that is final: project over")


async def test_from_commit_to_acknowledgement(
    home_gateway: Running, work_gateway: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    """An armed watch brings a revocation, and its acknowledgement back, within a round trip."""
    took: list[float] = []
    subscriptions = work_gateway.gateway._parts.coordinator.subscriptions
    publish = subscriptions.publish

    def timed(grant_id: str, event: Event) -> int:
        begun = time.perf_counter()

        def heard(instance: str, failed: int) -> None:
            took.append(time.perf_counter() - begun)
            if event.on_ack is not None:
                event.on_ack(instance, failed)

        return publish(grant_id, Event(event.event_type, event.text, heard))

    subscriptions.publish = timed  # type: ignore[method-assign]
    for number in range(15):
        user = f"user-{number}"
        lines = b'{"kind":"user","id":"%s"}\n' % user.encode()
        await fill(home_gateway, lines)
        await fill(work_gateway, lines)
        grant = await enroll(home_gateway, work_gateway, user=user, subject=user)
        await ask(home_gateway, user=user)
        await revoke(work_gateway, grant)
        assert await refusal(home_gateway, user) == Reason.GRANT_REVOKED
    median_ms = statistics.median(took) * 1e3
    with capsys.disabled():
        print(f"\nfrom commit to acknowledgement: median {median_ms:.2f} ms, worst {max(took) * 1e3:.2f} ms")

    assert len(took) == 15
    assert median_ms < 50


async def test_a_write_shows_within_a_moment(home_gateway: Running, work_gateway: Running) -> None:
    """A row that is written at B is in A's next list after about a round trip, and other resources stay cached."""
    await enroll(home_gateway, work_gateway)
    await ask(home_gateway, NOTES)
    before, _ = await ask(home_gateway)
    row = rows_jsonl().splitlines()[7].replace(b"task-0", b"task-new").replace(b"2026-01-01", b"2026-03-01")
    await fill(work_gateway, row + b"\n")

    async with asyncio.timeout(5):
        while "task-new" not in (after := (await ask(home_gateway))[0]):  # noqa: ASYNC110 - as a user would
            await asyncio.sleep(0.01)
    assert "task-new" not in before
    assert after[0] == "task-new"
    assert (await ask(home_gateway, NOTES))[1] is True


async def test_the_other_gateway_restarts(home_gateway: Running, work_gateway: Running, start: Start) -> None:
    """While B is down hits continue; when it is back the watch arms again and flushes the cache once."""
    await enroll(home_gateway, work_gateway)
    await ask(home_gateway)
    settings = work_gateway.gateway.config.directory / "gateway.toml"
    address = work_gateway.gateway.federation_address
    await work_gateway.stop()
    text = settings.read_text()
    settings.write_text(text.replace('listen = "127.0.0.1:0"', f'listen = "{address}"'))
    federation = home_gateway.gateway.federation
    await eventually(lambda: federation.peer_state("work.example", "ada").watch is WatchState.CONNECTING)
    assert (await ask(home_gateway))[1] is True
    cache = federation.peer("work.example", "ada").cache
    assert cache is not None
    flushes = cache.stats().flushes

    await start("work.example")
    await eventually(lambda: federation.peer_state("work.example", "ada").watch is WatchState.ARMED, timeout=30)
    assert cache.stats().flushes == flushes + 1
    assert (await ask(home_gateway))[1] is False


async def test_calls_in_flight_are_counted_in_the_receipt(home_gateway: Running, work_gateway: Running) -> None:
    """Calls in flight at A fail at once when the event arrives, and the receipt states their number."""
    grant = await enroll(home_gateway, work_gateway)
    peer = home_gateway.gateway.federation.peer("work.example", "ada")
    gate = asyncio.Event()
    served = work_gateway.gateway.provider.list

    async def slowly(*arguments: Any, **options: Any) -> Any:
        await gate.wait()
        return await served(*arguments, **options)

    work_gateway.gateway.provider.list = slowly  # type: ignore[method-assign]
    call = home_gateway.gateway.federation.stub("work.example", "ada").List(TASKS, timeout=30)
    await eventually(lambda: bool(peer.runners))
    await asyncio.sleep(0.1)
    receipt = await revoke(work_gateway, grant)
    gate.set()

    with pytest.raises(grpc.RpcError) as error:
        await call
    assert error_detail_of(error.value).reason == Reason.GRANT_REVOKED
    assert receipt.failed_in_flight == 1
