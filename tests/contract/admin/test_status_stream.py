"""`Status` and `WatchStatus` of real gateways: what they fill in, when the stream speaks, and when it ends."""

import asyncio
import time
from typing import Any

import grpc
import pytest

from federation.client.peers.watch_handle import WatchState
from federation.v1 import admin_pb2 as pb
from federation.v1 import federation_pb2
from mosaic_cli.main import main
from mosaic_cli.status.command import healthy
from mosaic_cli.status.health import assess_health
from tests.support.gateway_pair import Running, Start, enroll, fill
from tests.support.scripted import eventually

LONG_MS = 60_000


async def following(stream: Any, timeout_s: float = 10.0) -> pb.StatusResponse:
    """The next message."""
    async with asyncio.timeout(timeout_s):
        message: pb.WatchStatusResponse = await stream.read()
    assert message is not grpc.aio.EOF
    return message.status


async def until(stream: Any, ready: Any) -> pb.StatusResponse:
    """Return the first message that meets the condition."""
    while not ready(status := await following(stream)):
        pass
    return status


async def ask(home: Running, resource: str) -> None:
    """List a resource at work as ada; ignore the result."""
    stub = home.gateway.federation.stub("work.example", "ada")
    try:
        await stub.List(federation_pb2.ListRequest(resource=resource))
    except grpc.RpcError:
        return


async def test_the_serving_side_tells_what_it_answered(home_gateway: Running, work_gateway: Running) -> None:
    """The status has totals, the grant's own counts, its last denial, and the present watchers and leases."""
    grant_id = await enroll(home_gateway, work_gateway)
    await ask(home_gateway, "tasks")
    await ask(home_gateway, "credentials")

    status = await work_gateway.admin.Status(pb.StatusRequest())
    counted = {(one.verb, one.outcome): one.count for one in status.serving.requests}
    assert counted == {("watch", "ok"): 1, ("list", "ok"): 1, ("list", "denied"): 1}
    assert (status.serving.watches, status.serving.leases) == (1, 1)
    assert 0 <= status.gateway.now.seconds - status.serving.last_request_at.seconds < 10
    (grant,) = status.grants
    assert (grant.id, grant.requests, grant.denials, grant.watches) == (grant_id, 3, 1, 1)
    assert grant.last_denied_reason == "SCOPE_VIOLATION"
    assert grant.HasField("last_denied_at")
    shown = await work_gateway.admin.GetGrant(pb.GetGrantRequest(id=grant_id))
    assert (shown.grant.requests, shown.grant.denials) == (3, 1)


async def test_a_watch_that_is_refused_is_a_denial_of_its_grant(start: Start, work_gateway: Running) -> None:
    """A watch that is refused after the revocation counts as a denial of its grant."""
    home = await start("home.example")
    await fill(home)
    grant_id = await enroll(home, work_gateway)
    await home.stop()
    async for _ in work_gateway.admin.RevokeGrant(pb.RevokeGrantRequest(id=grant_id, no_wait=True)):
        pass
    stream = work_gateway.admin.WatchStatus(pb.WatchStatusRequest(interval_ms=100))
    assert not (await following(stream)).grants[0].denials
    await start("home.example")
    (grant,) = (await until(stream, lambda status: status.grants[0].denials)).grants
    stream.cancel()

    assert grant.last_denied_reason.startswith("GRANT_REVOKED")


async def test_an_answer_and_a_watch_message_are_signs_of_life(start: Start, work_gateway: Running) -> None:
    """A watch message sets `seen_at`, and so does a refusal; before both it is unset."""
    home = await start("home.example")
    await fill(home)
    await enroll(home, work_gateway)
    watch = home.gateway.federation.peer("work.example").watch
    assert watch is not None
    await eventually(lambda: watch.status.state is WatchState.ARMED)
    armed = (await home.admin.Status(pb.StatusRequest())).peers[0]
    assert armed.HasField("seen_at")
    assert not armed.HasField("last_success")
    await ask(home, "credentials")
    refused = (await home.admin.Status(pb.StatusRequest())).peers[0]
    assert not refused.HasField("last_success")
    assert refused.seen_at.ToNanoseconds() > armed.seen_at.ToNanoseconds()
    await work_gateway.stop()
    await home.stop()
    again = await start("home.example")
    assert not (await again.admin.Status(pb.StatusRequest())).peers[0].HasField("seen_at")


async def test_the_filters_narrow_both_sides(home_gateway: Running, work_gateway: Running) -> None:
    """A status can be filtered by user and by gateway; filtered by gateway it has no totals."""
    await enroll(home_gateway, work_gateway)
    await enroll(home_gateway, work_gateway, user="bob", subject="bob")

    async def names(running: Running, **wanted: str) -> tuple[list[str], list[str], bool]:
        status = await running.admin.Status(pb.StatusRequest(**wanted))
        peers, grants = [peer.user for peer in status.peers], [grant.subject for grant in status.grants]
        return peers, grants, status.HasField("serving")

    assert await names(home_gateway) == (["ada", "bob"], [], True)
    assert await names(home_gateway, user="bob") == (["bob"], [], True)
    assert await names(home_gateway, peer="work.example", user="ada") == (["ada"], [], False)
    assert await names(work_gateway, peer="home.example") == ([], ["ada", "bob"], False)
    assert await names(work_gateway, user="ada") == ([], ["ada"], True)
    for wanted in ({"peer": "hme.example"}, {"user": "adda"}):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await names(work_gateway, **wanted)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert "did you mean" in (caught.value.details() or "")


async def test_the_stream_speaks_at_once_and_again_after_each_interval(home_gateway: Running) -> None:
    """A message is sent at once and after each interval, also without a change; at most ten a second."""
    stream = home_gateway.admin.WatchStatus(pb.WatchStatusRequest(interval_ms=1))
    begun = time.monotonic()
    first = await following(stream)
    for _ in range(5):
        last = await following(stream)
    took_s = time.monotonic() - begun
    stream.cancel()

    assert first.gateway.name == "home.example"
    assert last.gateway.now.ToNanoseconds() > first.gateway.now.ToNanoseconds()
    assert took_s >= 0.45


async def test_a_change_is_told_long_before_the_interval_is_over(home_gateway: Running, work_gateway: Running) -> None:
    """Adding, revoking and removing a peer each sends a message long before the 60 s interval ends."""
    stream = home_gateway.admin.WatchStatus(pb.WatchStatusRequest(interval_ms=LONG_MS))
    served = work_gateway.admin.WatchStatus(pb.WatchStatusRequest(interval_ms=LONG_MS))
    assert not (await following(stream)).peers
    assert not (await following(served)).grants
    grant_id = await enroll(home_gateway, work_gateway)
    await until(served, lambda status: any(grant.watches for grant in status.grants))
    await until(stream, lambda status: any(peer.watch.state == "armed" for peer in status.peers))
    async for _ in work_gateway.admin.RevokeGrant(pb.RevokeGrantRequest(id=grant_id)):
        pass
    await until(served, lambda status: status.grants[0].status == pb.GRANT_STATUS_REVOKED)
    await until(stream, lambda status: status.peers[0].state == pb.PEER_STATE_REVOKED)
    await home_gateway.admin.RemovePeer(pb.RemovePeerRequest(name="work.example"))
    await until(stream, lambda status: not status.peers)
    stream.cancel()
    served.cancel()


async def test_a_stream_about_a_peer_ends_with_the_peer(home_gateway: Running, work_gateway: Running) -> None:
    """A stream about a removed peer ends with an error that names the peer."""
    await enroll(home_gateway, work_gateway)
    stream = home_gateway.admin.WatchStatus(pb.WatchStatusRequest(peer="work.example", interval_ms=LONG_MS))
    await following(stream)
    await home_gateway.admin.RemovePeer(pb.RemovePeerRequest(name="work.example"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await until(stream, lambda _: False)

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_stopping_gateway_does_not_wait_for_its_streams(home_gateway: Running) -> None:
    """The streams end at once without an error, whatever their interval."""
    streams = [home_gateway.admin.WatchStatus(pb.WatchStatusRequest(interval_ms=LONG_MS)) for _ in range(3)]
    for stream in streams:
        await following(stream)
    begun = time.monotonic()
    stopping = asyncio.create_task(home_gateway.gateway.stop())
    for stream in streams:
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK
    took_s = time.monotonic() - begun
    await stopping

    assert took_s < home_gateway.gateway.config.server.graceful_stop_s / 2


async def test_a_listener_that_leaves_leaves_nothing_behind(home_gateway: Running) -> None:
    """No task remains for a cancelled stream."""
    await following(stream := home_gateway.admin.WatchStatus(pb.WatchStatusRequest()))
    stream.cancel()
    await asyncio.wait([asyncio.create_task(stream.code())])
    before = len(asyncio.all_tasks())
    streams = [home_gateway.admin.WatchStatus(pb.WatchStatusRequest(interval_ms=LONG_MS)) for _ in range(10)]
    for stream in streams:
        await following(stream)
        stream.cancel()
    del streams, stream
    async with asyncio.timeout(10):
        while len(asyncio.all_tasks()) > before:  # noqa: ASYNC110 - nothing tells when a task is gone
            await asyncio.sleep(0.01)


async def test_a_peer_that_refuses_is_not_healthy_until_it_lets_a_call_in(
    home_gateway: Running, work_gateway: Running
) -> None:
    """A peer that refuses calls is unhealthy until its operator confirms the grant."""
    home, work = home_gateway, work_gateway
    made = await work.admin.CreateGrant(
        pb.CreateGrantRequest(peer="home.example", subject="ada", scope='{"resources": ["tasks"]}')
    )
    issued = await work.admin.CreateEnrollmentToken(
        pb.CreateEnrollmentTokenRequest(grant_id=made.grant.id, confirm=True)
    )
    added = await home.admin.AddPeer(pb.AddPeerRequest(token=issued.token, user="ada"))

    await ask(home, "tasks")
    shut = await home.admin.Status(pb.StatusRequest())
    await work.admin.ConfirmGrant(
        pb.ConfirmGrantRequest(id=made.grant.id, fingerprint=added.peer.certificate.fingerprint)
    )
    await ask(home, "tasks")
    opened = await home.admin.Status(pb.StatusRequest())

    assert shut.peers[0].state == opened.peers[0].state == pb.PEER_STATE_ACTIVE
    assert (shut.peers[0].circuit.consecutive_failures, shut.peers[0].last_failure.reason) == (0, "GRANT_INVALID")
    assert (assess_health(shut.peers[0], shut.gateway).label, healthy(shut)) == ("failing", False)
    assert (assess_health(opened.peers[0], opened.gateway).label, healthy(opened)) == ("active", True)


async def test_an_unhealthy_peer_decides_the_exit_code(home_gateway: Running, work_gateway: Running) -> None:
    """`status`, and `status --explain`, exit with 0 for a peer that answers, and with 3 once it revoked the grant."""
    stream = home_gateway.admin.WatchStatus(pb.WatchStatusRequest(interval_ms=100))
    grant_id = await enroll(home_gateway, work_gateway)
    await until(stream, lambda status: any(peer.watch.state == "armed" for peer in status.peers))
    status = ["federation", "status", "--gateway", str(home_gateway.gateway.config.directory)]
    explain = [*status, "--explain", "work.example"]
    codes = [await asyncio.to_thread(main, status), await asyncio.to_thread(main, explain)]
    async for _ in work_gateway.admin.RevokeGrant(pb.RevokeGrantRequest(id=grant_id)):
        pass
    await until(stream, lambda status: status.peers[0].state == pb.PEER_STATE_REVOKED)
    codes += [await asyncio.to_thread(main, status), await asyncio.to_thread(main, explain)]
    stream.cancel()

    assert codes == [0, 0, 3, 3]
