"""Certificates replaced under load and in the background, between two real gateways."""

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from federation.admin.errors import error_of
from federation.client.peers.store import PeerRepository
from federation.client.renewer import Renewer
from federation.clock import Clock
from federation.enrollment.issuer import EnrollmentRefusal
from federation.enrollment.renew import renew
from federation.errors import Reason, Refusal
from federation.federation import sync_channel
from federation.v1 import admin_pb2 as pb
from federation.v1 import federation_pb2
from federation.v1.federation_pb2_grpc import FederationServiceStub
from tests.support.gateway_pair import SCOPE, Running, Start, enroll, fill

HOURS = 3_600
TASKS = federation_pb2.ListRequest(resource="tasks")
UNLIMITED = SCOPE | {"rate_limit_per_minute": 100_000}


class MovedClock:
    """The machine's clocks, with the wall clock ahead by `ahead_s`: certificates get older without a test waiting."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    @property
    def clock(self) -> Clock:
        """The clock to inject."""
        return Clock(wall=lambda: time.time() + self.ahead_s)


@dataclass
class Load:
    """The results of the calls of a load, and the certificates with which they came."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)
    serials: Counter[str] = field(default_factory=Counter)


MOST_CALLS = 100
"""Calls in flight at which the load waits: a machine that cannot answer so many calls a second must not queue them."""


@asynccontextmanager
async def under_load(home: Running, work: Running, per_second: int = 200) -> AsyncIterator[Load]:
    """Send uncached calls continuously, and record at the serving gateway the certificate of each."""
    load = Load()
    original = work.gateway.grants.record_use

    def record_use(grant_id: str, serial: str = "") -> None:
        load.serials[serial] += 1
        original(grant_id, serial)

    work.gateway.grants.record_use = record_use  # type: ignore[method-assign]
    stub, calls = home.gateway.federation.stub("work.example"), set[asyncio.Task[None]]()

    async def call(number: int) -> None:
        try:
            await stub.Search(federation_pb2.SearchRequest(query=f"number {number}", resources=["tasks"]), timeout=10)
            load.answered += 1
        except grpc.aio.AioRpcError as e:
            load.failures.append(f"{e.code()}: {e.details()}")

    async def drive() -> None:
        begun, number = time.monotonic(), 0
        while True:
            while number < (time.monotonic() - begun) * per_second and len(calls) < MOST_CALLS:
                task = asyncio.create_task(call(number))
                calls.add(task)
                task.add_done_callback(calls.discard)
                number += 1
            await asyncio.sleep(0.002)

    driving = asyncio.create_task(drive())
    try:
        yield load
    finally:
        driving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await driving
        await asyncio.gather(*calls)
        work.gateway.grants.record_use = original  # type: ignore[method-assign]


async def rotate(home: Running) -> str:
    """Replace the certificate by hand; return the new serial."""
    reply = await home.admin.RotatePeer(pb.RotatePeerRequest(name="work.example", user="ada"))
    return reply.peer.certificate.serial


async def renewals(work: Running) -> list[tuple[str, str]]:
    """Outcome and reason of every renewal on record."""
    async with asyncio.timeout(5):
        await asyncio.sleep(0.3)
        reply = await work.admin.ListAuditEvents(pb.ListAuditEventsRequest(verb="renew", page_size=1_000))
    return [(event.outcome, event.reason) for event in reply.events for _ in range(event.count)]


async def eventually(condition: Callable[[], Any], timeout_s: float = 15.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what holds then is other tasks' doing
            await asyncio.sleep(0.02)


def partition(home: Running) -> Any:
    """The cache of the one peer."""
    return home.gateway.federation.peer("work.example").cache


async def rotations_under_load(home: Running, work: Running, seconds: float, times: int) -> tuple[Load, list[str], int]:
    """Rotate `times` times, evenly, during a load; return it, the serials in order, and how often the cache went."""
    await enroll(home, work, scope=UNLIMITED)
    first = home.gateway.federation.peer("work.example")
    serials = [(await home.admin.Status(pb.StatusRequest())).peers[0].certificate.serial]
    await eventually(lambda: first.watch is None or first.watch.status.state == "armed")
    before = partition(home).stats().flushes
    async with under_load(home, work) as load:
        for _ in range(times):
            await asyncio.sleep(seconds / (times + 1))
            serials.append(await rotate(home))
        await asyncio.sleep(seconds / (times + 1))
    return load, serials, partition(home).stats().flushes - before


async def test_rotation_under_load_fails_no_call(home: Running, work: Running) -> None:
    """200 calls a second for 4 s, two rotations among them: no error, every serial seen, one flush each."""
    load, serials, flushes = await rotations_under_load(home, work, 4, 2)

    assert load.failures == []
    assert load.answered > 400
    assert len(set(serials)) == 3
    assert all(load.serials[serial] for serial in serials)
    assert flushes == 2
    assert await renewals(work) == [("ok", "")] * 2


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_ten_minutes_of_rotations_fail_no_call(home: Running, work: Running) -> None:
    """Ten rotations a minute apart, under 200 calls a second: no error, every serial seen, one flush each."""
    load, serials, flushes = await rotations_under_load(home, work, 600, 10)

    assert load.failures == []
    assert load.answered > 60_000
    assert all(load.serials[serial] for serial in serials)
    assert flushes == 10
    assert await renewals(work) == [("ok", "")] * 10


async def test_a_certificate_is_renewed_by_itself_under_load(work: Running, start: Start) -> None:
    """At two thirds of its life the asking gateway renews it in the background: one request, one flush, no error."""
    moved = MovedClock()
    home = await start("home.example", clock=moved.clock)
    await fill(home)
    await enroll(home, work, scope=UNLIMITED)
    peer = home.gateway.federation.peer("work.example")
    old = peer.record
    await eventually(lambda: peer.watch is None or peer.watch.status.state == "armed")
    before = partition(home).stats().flushes

    async with under_load(home, work) as load:
        await asyncio.sleep(0.5)
        moved.ahead_s = 17.5 * HOURS
        await eventually(lambda: peer.record != old)
        moved.ahead_s = 0.0
        await asyncio.sleep(1)

    assert load.failures == []
    assert len(load.serials) == 2
    assert partition(home).stats().flushes - before == 1
    assert await renewals(work) == [("ok", "")]
    status = (await home.admin.Status(pb.StatusRequest())).peers[0]
    assert (status.state, status.renewal.consecutive_failures) == (pb.PEER_STATE_ACTIVE, 0)
    assert status.certificate.renews_at == status.renewal.next_at


async def test_a_peer_that_does_not_renew_is_degraded_and_says_why(work: Running, start: Start) -> None:
    """Calls go on; the status shows the failures and the next attempt, and the rotation by hand tells the reason."""
    moved = MovedClock()
    home = await start("home.example", clock=moved.clock)
    await fill(home)
    await enroll(home, work)
    assert home.gateway.federation._runtime is not None
    renewer = home.gateway.federation._runtime.renewer
    peer = home.gateway.federation.peer("work.example")
    work.gateway._parts.renewal_issuer.renew = _refusing
    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rotate(home)

    status = (await home.admin.Status(pb.StatusRequest())).peers[0]
    reply = await home.gateway.federation.stub("work.example").List(TASKS)

    assert isinstance(renewer, Renewer)
    assert isinstance(error_of(caught.value), Refusal)
    assert error_of(caught.value).reason is Reason.GRANT_INVALID
    assert status.state == pb.PEER_STATE_DEGRADED
    assert status.renewal.consecutive_failures == 3
    assert "not today" in status.renewal.last_failure.message
    assert status.renewal.HasField("next_at")
    assert reply.rows
    assert peer.revocation is None


async def _refusing(*_: Any) -> Any:
    raise EnrollmentRefusal(Reason.GRANT_INVALID, "not today", detail="not today")


async def test_a_gateway_that_was_away_too_long_comes_back_and_the_other_is_warned(start: Start) -> None:
    """An expired certificate is renewed by a proof of its old key; the serving gateway's status warns of it."""
    moved = MovedClock()
    slow = await start("slow.example", clock=moved.clock)
    await fill(slow)
    home = await start("home.example", clock=moved.clock)
    await fill(home)
    await enroll(home, slow)
    peer = home.gateway.federation.peer("slow.example")
    old = peer.record
    moved.ahead_s = 30 * HOURS

    await eventually(lambda: peer.record != old and peer.channel.refusal() is None)

    assert await renewals(slow) == [("ok", "after expiry")]
    warnings = (await slow.admin.Status(pb.StatusRequest())).warnings
    assert len(warnings) == 1
    assert "home.example renewed its certificate" in warnings[0]
    assert (await slow.admin.ListGrants(pb.ListGrantsRequest())).grants[0].certificate.after_expiry


async def test_twenty_peers_that_end_together_renew_apart(work: Running, start: Start) -> None:
    """The renewals of twenty one-day certificates are spread over more than an hour."""
    home = await start("home.example")
    users = [f"user{number}" for number in range(20)]
    await fill(home, b"".join(b'{"kind":"user","id":"%s"}\n' % user.encode() for user in users))
    await asyncio.gather(*(enroll(home, work, user=user) for user in users))
    await asyncio.sleep(0)
    peers = (await home.admin.Status(pb.StatusRequest())).peers

    ends = [peer.certificate.not_after.seconds for peer in peers]
    renewals_at = sorted(peer.certificate.renews_at.seconds for peer in peers)
    assert max(ends) - min(ends) < 60
    assert renewals_at[-1] - renewals_at[0] > 3_600
    assert len({at // 60 for at in renewals_at}) > 12


async def test_a_program_of_threads_alone_follows_a_rotation(home: Running, work: Running) -> None:
    """A sync channel takes a new certificate from the store in the background, and its calls go on."""
    await enroll(home, work)
    config = home.gateway.config
    await home.stop()
    channel = await asyncio.to_thread(sync_channel, config.directory, "work.example", "ada")
    peer, stub = channel.peer, FederationServiceStub(channel)
    old = peer.record

    await renew(old, gateway_name=config.name, peers=PeerRepository(config))
    await eventually(lambda: peer.record != old)
    reply = await asyncio.to_thread(stub.List, TASKS)
    await asyncio.to_thread(channel.close)

    assert reply.rows
    assert peer.record.certificate_pem == work.gateway.grants.all()[0].newest.pem


FOLLOWER = """
import asyncio, sys, time
from federation import Federation
from federation.clock import Clock
from federation.config import GatewayConfig
from pathlib import Path
from federation.v1 import federation_pb2 as pb

async def main():
    ahead = [0.0]
    clock = Clock(wall=lambda: time.time() + ahead[0])
    async with Federation(GatewayConfig.load(Path(sys.argv[1])), clock=clock) as fed:
        stub, peer, errors, calls = fed.stub("work.example"), fed.peer("work.example"), 0, 0
        first = peer.record.certificate_pem
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        ahead[0] = float(sys.argv[2])
        end = time.monotonic() + 25
        while time.monotonic() < end and peer.record.certificate_pem == first:
            calls += 1
            try:
                await stub.Search(pb.SearchRequest(query=f"number {calls}", resources=["tasks"]))
            except Exception as e:
                errors += 1
                print("error", e, flush=True)
            await asyncio.sleep(0.02)
        ahead[0] = 0.0
        for number in range(20):
            await stub.Search(pb.SearchRequest(query=f"task {number}", resources=["tasks"]))
        print("followed" if peer.record.certificate_pem != first else "stuck", errors, flush=True)

asyncio.run(main())
"""


@pytest.mark.e2e
@pytest.mark.parametrize("by", ["hand", "schedule"])
async def test_processes_on_one_directory_rotate_together(work: Running, start: Start, by: str) -> None:
    """A gateway and two programs on its directory: one renewal, and all go on with the new certificate, no error."""
    moved = MovedClock()
    home = await start("home.example", clock=moved.clock)
    await fill(home)
    await enroll(home, work, scope=UNLIMITED)
    old = home.gateway.federation.peer("work.example").record
    ahead_s = 17.5 * HOURS if by == "schedule" else 0.0
    programs = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", FOLLOWER, str(home.gateway.config.directory), str(ahead_s),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    for program in programs:
        assert await program.stdout.readline() == b"ready\n"

    for program in programs:
        program.stdin.write(b"go\n")
    moved.ahead_s = ahead_s
    if by == "hand":
        await rotate(home)
    await eventually(lambda: home.gateway.federation.peer("work.example").record != old, 25)
    moved.ahead_s = 0.0
    said = [(await program.communicate())[0].decode() for program in programs]

    assert said == ["followed 0\n"] * 2
    assert await renewals(work) == [("ok", "")]
