"""Federations over listed peers, and stubs through each form of the client chain."""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc

from federation.client.runtime import ClientRuntime
from federation.client.sync.channel import SyncChannel
from federation.clock import SYSTEM_CLOCK, Clock
from federation.config import ClientConfig, GatewayConfig
from federation.federation import Federation
from federation.store.peers import PeerRecord
from federation.v1.federation_pb2_grpc import FederationServiceStub
from tests.support.scripted import ScriptedPeer


class ListedPeers:
    """A peer source with a fixed list of enrollments."""

    def __init__(self, *records: PeerRecord) -> None:
        self.records = records
        self.revoked: list[tuple[str, int, str]] = []

    async def all(self) -> tuple[PeerRecord, ...]:
        return self.records

    async def revoke(self, peer_id: str, at_us: int, reason: str) -> None:
        self.revoked.append((peer_id, at_us, reason))


def config_of(directory: Path, **settings: Any) -> GatewayConfig:
    """Settings of a gateway without watches, and with an admin socket that is never opened (no path is too long)."""
    settings.setdefault("client", ClientConfig(watch=False))
    return GatewayConfig(directory=directory, name="home.example", admin_socket="/nowhere/admin.sock", **settings)


def federation_of(directory: Path, *records: PeerRecord, clock: Clock = SYSTEM_CLOCK, **settings: Any) -> Federation:
    """A federation over these peers, not yet started."""
    return Federation(config_of(directory, **settings), ListedPeers(*records), clock=clock)


@contextmanager
def shared_runtime(
    directory: Path, *records: PeerRecord, clock: Clock = SYSTEM_CLOCK, **settings: Any
) -> Iterator[ClientRuntime]:
    """The client runtime that federations share, for tests with threads only."""
    runtime = ClientRuntime.share(config_of(directory, **settings), clock, None)
    runtime.peers.load(records)
    runtime.loaded = True
    try:
        yield runtime
    finally:
        if runtime.release():
            runtime.close()


def sync_channel_of(runtime: ClientRuntime, name: str = "work.example", user: str = "ada") -> SyncChannel:
    """A sync channel through the chain."""
    peer = runtime.peers.get(name, user)
    return SyncChannel(peer, clock=runtime.clock, deadline_s=runtime.config.client.deadline_s)


@asynccontextmanager
async def aio_stub(form: str, fed: Federation, scripted: ScriptedPeer) -> AsyncIterator[Any]:
    """The generated aio stub, over the project's channel or over a bare channel with the project's interceptors."""
    if form == "channel":
        yield fed.stub("work.example", "ada")
        return
    interceptors = fed.interceptors("work.example", "ada")
    async with scripted.aio_channel(interceptors=interceptors) as channel:
        yield FederationServiceStub(channel)


@contextmanager
def sync_stub(form: str, runtime: ClientRuntime, scripted: ScriptedPeer) -> Iterator[Any]:
    """The generated sync stub, over the project's channel or over a bare channel with the project's interceptors."""
    if form == "channel":
        with sync_channel_of(runtime) as channel:
            yield FederationServiceStub(channel)
        return
    fed = Federation(runtime.config, ListedPeers())
    fed._runtime = runtime
    with scripted.sync_channel() as bare:
        yield FederationServiceStub(grpc.intercept_channel(bare, *fed.sync_interceptors("work.example", "ada")))


def client_threads() -> int:
    """The number of threads, without those of the scripted server."""
    return sum(1 for thread in threading.enumerate() if "ThreadPoolExecutor" not in thread.name)


def in_threads(count: int, work: Any) -> list[Any]:
    """Run `work(index)` in `count` threads at once; return what each returned or raised."""
    results: list[Any] = [None] * count
    ready = threading.Barrier(count)

    def run(index: int) -> None:
        ready.wait()
        try:
            results[index] = work(index)
        except Exception as e:  # noqa: BLE001 - the test looks at it
            results[index] = e

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
