"""Certificates replaced under load and in the background, between two real gateways."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from federation.client.renewal import Renewer
from federation.clock import Clock
from federation.v1 import admin_pb2 as pb
from federation.v1 import federation_pb2
from tests.support.gateways import SCOPE, Running, Start, enroll, fill

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
    """What became of the calls of a load, and with which certificates they came."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)
    serials: Counter[str] = field(default_factory=Counter)


@asynccontextmanager
async def under_load(home: Running, work: Running, per_second: int = 200) -> AsyncIterator[Load]:
    """Ask without pause for rows that no cache has, and see at the other end which certificate each call shows."""
    load = Load()
    noted = work.gateway.grants.note_use

    def note_use(grant_id: str, serial: str = "") -> None:
        load.serials[serial] += 1
        noted(grant_id, serial)

    work.gateway.grants.note_use = note_use  # type: ignore[method-assign]
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
            while number < (time.monotonic() - begun) * per_second:
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
        work.gateway.grants.note_use = noted  # type: ignore[method-assign]


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
        while not condition():
            await asyncio.sleep(0.02)


def partition(home: Running) -> Any:
    """The cache of the one peer."""
    return home.gateway.federation.peer("work.example").cache


async def rotations_under_load(home: Running, work: Running, seconds: float, times: int) -> tuple[Load, list[str], int]:
    """Rotate `times` times, evenly, during a load; return it, the serials in order, and how often the cache went."""
    await enroll(home, work, scope=UNLIMITED)
    first = home.gateway.federation.peer("work.example")
    serials = [(await home.admin.Status(pb.StatusRequest())).peers[0].certificate.serial]
    await eventually(lambda: first.watch is None or first.watch.standing.state == "armed")
    before = partition(home).stats().flushes
    async with under_load(home, work) as load:
        for _ in range(times):
            await asyncio.sleep(seconds / (times + 1))
            serials.append(await rotate(home))
        await asyncio.sleep(seconds / (times + 1))
    return load, serials, partition(home).stats().flushes - before


@pytest.mark.asyncio
async def test_rotation_under_load_fails_no_call(home: Running, work: Running) -> None:
    """200 calls a second for 10 s, two rotations among them: no error, every serial seen, one flush each."""
    load, serials, flushes = await rotations_under_load(home, work, 10, 2)

    assert load.failures == []
    assert load.answered > 1_000
    assert len(set(serials)) == 3
    assert all(load.serials[serial] for serial in serials)
    assert flushes == 2
    assert await renewals(work) == [("ok", "")] * 2


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.asyncio
async def test_ten_minutes_of_rotations_fail_no_call(home: Running, work: Running) -> None:
    """Ten rotations a minute apart, under 200 calls a second: no error, every serial seen, one flush each."""
    load, serials, flushes = await rotations_under_load(home, work, 600, 10)

    assert load.failures == []
    assert load.answered > 60_000
    assert all(load.serials[serial] for serial in serials)
    assert flushes == 10
    assert await renewals(work) == [("ok", "")] * 10
