"""The race over real sockets: threads and tasks list in loops while B takes their grants back.

`MOSAIC_RACE_SEEDS` sets how many grants are revoked, each with delays and queries of its own seed.
"""

import asyncio
import json
import os
import random
import signal
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.admin.address import target
from federation.bootstrap import init_gateway
from federation.client.peers.watch_handle import WatchState
from federation.config import ClientConfig, GatewayConfig, StoreConfig
from federation.federation import Federation
from federation.store.grants.model import Grant
from federation.store.peers import PeerRecord
from federation.store.receipts import Receipt
from federation.v1 import admin_pb2
from federation.v1 import federation_pb2 as pb
from federation.v1.admin_pb2_grpc import AdminServiceStub
from federation.v1.federation_pb2_grpc import FederationServiceStub
from tests.interleaving.call_log import CallLog, CallRecord, effective_at
from tests.support.federations import federation_of, sync_channel_of
from tests.support.gateway_pair import NewStore, Start, enroll, fill
from tests.support.gateway_processes import ROOT, GatewayProcesses, environment
from tests.support.network_faults import Relay, closed_port
from tests.support.peer_records import peer_record
from tests.support.scripted import eventually
from tests.support.scripted_watches import watching
from tests.support.server_on_database import DatabaseServer, StartDatabaseServer

SEEDS = int(os.environ.get("MOSAIC_RACE_SEEDS", "200"))
BATCH = 25
"""Grants of one federation at a time."""
AT_ONCE = 5
"""Grants that are listed under and revoked at the same time."""
AFTER_S = 0.01
"""How long callers go on after the receipt."""


def record_of(granting: DatabaseServer, grant: Grant, endpoint: str, user: str) -> PeerRecord:
    """The enrollment of a local user under a grant."""
    leaf, bundle = granting.leaves[grant.id], granting.authority.trust_bundle
    return peer_record(leaf, bundle, endpoint, user=user, subject=grant.subject, grant_id=grant.id)


def queries(chance: random.Random) -> Callable[[], pb.ListRequest]:
    """Mostly the same query, sometimes a new one."""
    return lambda: pb.ListRequest(resource="tasks", page_size=chance.choice((50, 50, 50, chance.randint(1, 9))))


@asynccontextmanager
async def callers(fed: Federation, user: str, chance: random.Random) -> AsyncIterator[CallLog]:
    """Two tasks and a thread that list as `user` until the end."""
    history, home = CallLog(), fed._runtime
    assert home is not None
    with sync_channel_of(home, user=user) as channel:
        thread = asyncio.create_task(
            asyncio.to_thread(history.listing_in_thread, FederationServiceStub(channel), queries(chance))
        )
        stub = fed.stub("work.example", user)
        tasks = [asyncio.create_task(history.listing(stub, queries(chance))) for _ in range(2)]
        try:
            yield history
        finally:
            history.stopped = True
            await asyncio.gather(thread, *tasks)


async def revoked(granting: DatabaseServer, grant_id: str) -> Receipt:
    """Revoke a grant and wait for its receipt."""
    handle = await granting.revocations.revoke(grant_id)
    try:
        async with asyncio.timeout(10):
            return await handle.receipt()
    except TimeoutError:
        watching = granting.coordinator.subscriptions.watching(grant_id)
        raise AssertionError(f"no receipt: {handle.instances}, watching {watching}, {handle.begun}") from None


def holds(history: CallLog, receipt: Receipt, seed: int) -> None:
    """Assert that the race was one, and that nothing is served after the receipt."""
    instant = effective_at(receipt)
    assert not history.served_after(instant), f"seed {seed}: served after {instant}, {receipt}"
    assert history.hits_before(instant), f"seed {seed}: nothing was cached before"


async def race(
    granting: DatabaseServer, fed: Federation, grant_id: str, seed: int, disconnect: Callable[[], None]
) -> Receipt:
    """Revoke a grant at a random instant while its callers list; check their results against the receipt."""
    chance = random.Random(seed)
    async with callers(fed, f"u{seed}", chance) as history:
        await eventually(lambda: history.hits_before(float("inf")) > 0)
        await asyncio.sleep(chance.random() * 0.01)
        handle = asyncio.create_task(revoked(granting, grant_id))
        await asyncio.sleep(chance.random() * 0.002)
        disconnect()
        receipt = await handle
        await asyncio.sleep(AFTER_S)
    holds(history, receipt, seed)
    return receipt


@asynccontextmanager
async def batch(
    granting: DatabaseServer, directory: Path, seeds: range, endpoint: str
) -> AsyncIterator[tuple[Federation, dict[int, str]]]:
    """A federation with one grant a seed, all of them watched."""
    grants = {seed: await granting.grant() for seed in seeds}
    records = [record_of(granting, grant, endpoint, f"u{seed}") for seed, grant in grants.items()]
    async with watching(directory, *records) as fed:
        for seed in seeds:
            await eventually(lambda seed=seed: fed.peer_state("work.example", f"u{seed}").watch is WatchState.ARMED)
        yield fed, {seed: grant.id for seed, grant in grants.items()}


def batches(seeds: int, size: int) -> list[range]:
    """The seeds in batches."""
    return [range(first, min(first + size, seeds)) for first in range(0, seeds, size)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("database_url", "count"),
    [
        ("sqlite", SEEDS // 4),
        pytest.param("sqlite", SEEDS, marks=pytest.mark.long),
        pytest.param("postgres", SEEDS, marks=[pytest.mark.long, pytest.mark.postgres]),
    ],
    indirect=["database_url"],
)
async def test_nothing_is_served_after_a_receipt(tmp_path: Path, granting: DatabaseServer, count: int) -> None:
    """Of all calls of threads and tasks, none that began after the receipt brought rows, cached or not."""
    released = []
    for seeds in batches(count, BATCH):
        async with batch(granting, tmp_path, seeds, granting.server.federation_address) as (fed, grants):
            for few in (seeds[first : first + AT_ONCE] for first in range(0, len(seeds), AT_ONCE)):
                races = (race(granting, fed, grants[seed], seed, lambda: None) for seed in few)
                released += await asyncio.gather(*races)
    assert {one.how for receipt in released for one in receipt.instances} == {"acked"}


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", ["reset", "freeze"])
async def test_nothing_is_served_after_a_receipt_with_the_watch_cut(
    tmp_path: Path, start_granting: StartDatabaseServer, granting: DatabaseServer, fault: str
) -> None:
    """The same while the network between the gateways is reset, or is silent, in the middle of it."""
    granting = await start_granting(max_lease_ms=500)

    async def cut_off(seed: int) -> None:
        relay = Relay(int(granting.server.federation_address.rpartition(":")[2]))
        try:
            async with batch(granting, tmp_path / str(seed), range(seed, seed + 1), relay.endpoint) as (fed, grants):
                await race(granting, fed, grants[seed], seed, getattr(relay, fault))
                relay.thaw()
        finally:
            relay.close()

    for seeds in batches(max(1, SEEDS // 4), AT_ONCE):
        await asyncio.gather(*map(cut_off, seeds))


@pytest.mark.long
async def test_a_cut_off_gateway_is_awaited_until_its_last_lease_has_ended(
    tmp_path: Path, start_granting: StartDatabaseServer, granting: DatabaseServer
) -> None:
    """Silent from before the revocation, A goes on with hits for a lease at most; the receipt comes a tenth later."""
    granting = await start_granting(max_lease_ms=800)
    relay = Relay(int(granting.server.federation_address.rpartition(":")[2]))
    try:
        async with batch(granting, tmp_path, range(1), relay.endpoint) as (fed, grants):
            async with callers(fed, "u0", random.Random(0)) as history:
                await eventually(lambda: history.hits_before(float("inf")) > 0)
                relay.freeze()
                begun = time.monotonic()
                receipt = await revoked(granting, grants[0])
                await asyncio.sleep(0.05)
            relay.thaw()
        holds(history, receipt, 0)
        assert {one.how for one in receipt.instances} == {"lease_ended"}
        assert effective_at(receipt) - begun > 0.7
    finally:
        relay.close()


@pytest.mark.long
async def test_a_gateway_that_was_cut_off_comes_back_and_acknowledges(tmp_path: Path, granting: DatabaseServer) -> None:
    """The connection is silent while B revokes, then reset: A arms again and acknowledges before its lease ends."""
    relay = Relay(int(granting.server.federation_address.rpartition(":")[2]))
    try:
        async with (
            batch(granting, tmp_path, range(1), relay.endpoint) as (fed, grants),
            callers(fed, "u0", random.Random(0)) as history,
        ):
            await eventually(lambda: history.hits_before(float("inf")) > 0)
            relay.freeze()
            revoking = asyncio.create_task(revoked(granting, grants[0]))
            await asyncio.sleep(0.2)
            assert not revoking.done()
            relay.reset()
            relay.thaw()
            receipt = await revoking
            await asyncio.sleep(0.05)
        holds(history, receipt, 0)
        assert {one.how for one in receipt.instances} == {"acked"}
        assert history.seen[-1].reason == "GRANT_REVOKED"
    finally:
        relay.close()


LISTING = textwrap.dedent(
    """
    import sys, threading
    from pathlib import Path
    from federation.client.runtime import ClientRuntime
    from federation.clock import SYSTEM_CLOCK
    from federation.config import ClientConfig
    from federation.store.peers import PeerRecord
    from federation.v1 import federation_pb2 as pb
    from federation.v1.federation_pb2_grpc import FederationServiceStub
    from tests.interleaving.call_log import CallLog
    from tests.support.federations import config_of, sync_channel_of

    home = ClientRuntime.share(config_of(Path(sys.argv[1]), client=ClientConfig(watch=True)), SYSTEM_CLOCK, None)
    home.peers.load([PeerRecord(**eval(sys.stdin.readline()))])
    home.loaded = True
    [peer] = home.peers.all()
    home.watches.watch_peer(peer)
    while peer.watch.status.state != "armed":
        threading.Event().wait(0.01)
    history = CallLog()
    stub = FederationServiceStub(sync_channel_of(home))
    request = pb.ListRequest(resource="tasks")
    loops = [
        threading.Thread(target=history.listing_in_thread, args=(stub, lambda: request), daemon=True) for _ in range(2)
    ]
    for loop in loops:
        loop.start()
    print("listing", flush=True)
    sys.stdin.readline()
    history.stopped = True
    for loop in loops:
        loop.join()
    for seen in history.seen:
        print(list(seen).__repr__().replace("'", '"').replace("True", "true").replace("False", "false"), flush=True)
    home.release()
    home.close()
    """
)


@pytest.mark.long
async def test_a_frozen_process_serves_nothing_after_the_receipt(
    tmp_path: Path, start_granting: StartDatabaseServer, granting: DatabaseServer
) -> None:
    """A process stopped across the revocation is awaited for its lease; continued, it serves nothing it held."""
    granting = await start_granting(max_lease_ms=1_000)
    grant = await granting.grant()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LISTING, str(tmp_path),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=environment(),
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        record = record_of(granting, grant, granting.server.federation_address, "ada")
        process.stdin.write(repr(asdict(record)).encode() + b"\n")
        assert await process.stdout.readline() == b"listing\n"
        await asyncio.sleep(0.3)
        process.send_signal(signal.SIGSTOP)
        receipt = await revoked(granting, grant.id)
        process.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.5)
        printed, _ = await process.communicate(b"\n")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    history = CallLog([CallRecord(*json.loads(line)) for line in printed.splitlines()])
    holds(history, receipt, 0)
    assert {one.how for one in receipt.instances} == {"lease_ended"}
    assert history.seen[-1].reason == "GRANT_REVOKED"


@pytest.mark.long
async def test_nothing_is_served_after_a_receipt_of_a_gateway_that_was_killed(
    tmp_path: Path, short_path: Path, start: Start, store: NewStore
) -> None:
    """After a kill while it awaits leases, B continues its revocation; hits end before the receipt."""
    listen, free = f"127.0.0.1:{closed_port()}", "127.0.0.1:0"
    directory = short_path / "work.example"
    url = StoreConfig(url=await store())
    config = GatewayConfig(directory=directory, name="work.example", listen=listen, enroll=free, store=url)
    await init_gateway(config)
    settings = directory / "gateway.toml"
    settings.write_text(settings.read_text().replace("[server]\n", "[server]\nmax_lease_s = 1.5\n"))
    home, work = await start("home.example"), await start("work.example")
    await fill(home)
    await fill(work)
    grant_id = await enroll(home, work)
    record = home.gateway.federation.peer("work.example", "ada").record
    await home.stop()
    await work.stop()
    served = GatewayProcesses(short_path)
    try:
        await asyncio.to_thread(served.start, "work.example")
        async with (
            federation_of(tmp_path, record, client=ClientConfig(watch=False)) as fed,
            callers(fed, "ada", random.Random(1)) as history,
        ):
            await eventually(lambda: history.hits_before(float("inf")) > 0)
            assert await _begun(config, grant_id)
            await asyncio.to_thread(served.stop, "work.example", signal.SIGKILL)
            killed = time.monotonic()
            await asyncio.to_thread(served.start, "work.example")
            receipt = await _receipt(config, grant_id)
            await asyncio.sleep(0.1)
    finally:
        for name in tuple(served.processes):
            served.stop(name)
    instant = receipt.effective_at.ToNanoseconds() / 1e9 - (time.time() - time.monotonic())
    assert not history.served_after(instant)
    assert history.hits_before(killed)
    assert killed + 1.5 < instant < killed + 15
    assert [(one.instance_id, one.how) for one in receipt.instances] == [("", "lease_ended")]


async def _begun(config: GatewayConfig, grant_id: str) -> bool:
    """Ask B to revoke, and disconnect once the revocation is stored and a cache is awaited."""
    async with grpc.aio.insecure_channel(target(config.socket_path)) as channel:
        stream = AdminServiceStub(channel).RevokeGrant(admin_pb2.RevokeGrantRequest(id=grant_id))
        async for step in stream:
            return step.HasField("progress")
    return False


async def _receipt(config: GatewayConfig, grant_id: str) -> Any:
    async with grpc.aio.insecure_channel(target(config.socket_path)) as channel:
        stream = AdminServiceStub(channel).RevokeGrant(admin_pb2.RevokeGrantRequest(id=grant_id))
        return [step async for step in stream][-1].receipt
