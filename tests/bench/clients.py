"""The server process and its clients: bare stubs, an instrumented stub, and the chain with and without spans."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import grpc
from opentelemetry.instrumentation.grpc import aio_client_interceptors
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from federation.breaker import CallResult, Denied
from federation.client.aio.channel import AioChannel
from federation.client.runtime import ClientRuntime
from federation.client.sync.channel import SyncChannel
from federation.clock import SYSTEM_CLOCK
from federation.config import CircuitConfig, GatewayConfig
from federation.store.peers import PeerRecord
from federation.telemetry.metrics import metrics_for
from federation.telemetry.spans import SpanSource
from federation.telemetry.telemetry import Telemetry
from federation.v1.federation_pb2_grpc import FederationServiceStub
from federation.wire.channel_args import CHANNEL
from tests.support.peer_records import peer_record
from tests.support.pki import GRANT_ID, Pki, channel_credentials

DEADLINE_S: Final = 2.0
"""The deadline of bare calls, as in the chain."""
ROOT: Final = Path(__file__).parents[2]
GATEWAY: Final = "work.example"
OTHER_GRANT_ID: Final = GRANT_ID[:-1] + ("1" if GRANT_ID[-1] != "1" else "2")
DAY_S: Final = 86_400.0


class DiscardingExporter(SpanExporter):
    """Discards spans, so that only their creation is measured."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class Client:
    """Stubs of the chain for a healthy peer and for one whose circuit is open."""

    def __init__(self, home: ClientRuntime) -> None:
        self._home = home
        self._healthy = home.peers.get(GATEWAY, "ada")
        self._broken = home.peers.get(GATEWAY, "eve")
        self.aio = FederationServiceStub(self._aio(self._healthy))
        self.sync = FederationServiceStub(self._sync(self._healthy))
        self.open_aio = FederationServiceStub(self._aio(self._broken))
        self.open_sync = FederationServiceStub(self._sync(self._broken))

    def lookups(self) -> tuple[int, int]:
        """Return the number of hits and misses so far, to verify what a variant measures."""
        stats = self._healthy.cache.stats()
        return stats.hits, stats.misses

    def open_circuit(self) -> None:
        """Open the circuit of the second peer, for longer than any run."""
        circuit, now = self._broken.circuit, time.monotonic()
        assert circuit is not None
        while not isinstance(permit := circuit.allow(now), Denied):
            circuit.record(permit, CallResult.FAILURE, now)

    def _aio(self, peer: Any) -> AioChannel:
        return AioChannel(peer, clock=self._home.clock, deadline_s=DEADLINE_S)

    def _sync(self, peer: Any) -> SyncChannel:
        return SyncChannel(peer, clock=self._home.clock, deadline_s=DEADLINE_S)


class Clients:
    """The clients of every variant, on one loop of this process."""

    def __init__(self, port: int, pki: Pki, directory: Path, runner: asyncio.Runner, stack: ExitStack) -> None:
        self.runner = runner
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(BatchSpanProcessor(DiscardingExporter()))
        stack.callback(self.tracers.shutdown)
        self._pki, self._endpoint = pki, f"127.0.0.1:{port}"
        leaf = pki.client()
        self._credentials = channel_credentials(pki.trust_bundle, leaf)
        self._options = CHANNEL.to_grpc(GATEWAY)
        self.bare: Any = FederationServiceStub(self._bare(stack))
        instrumented = aio_client_interceptors(tracer_provider=self.tracers)
        self.otel: Any = FederationServiceStub(self._bare(stack, instrumented))
        sync = grpc.secure_channel(self._endpoint, self._credentials, self._options)
        stack.callback(sync.close)
        self.bare_sync: Any = FederationServiceStub(sync)
        spans = Telemetry(SpanSource(self.tracers), metrics_for(None), self.tracers)
        silent = Telemetry(SpanSource(), metrics_for(None))
        self.on = stack.enter_context(self._client(directory / "on", spans))
        self.off = stack.enter_context(self._client(directory / "off", silent))

    @classmethod
    @contextmanager
    def open(cls) -> Iterator["Clients"]:
        """Start the server and all clients; stop them at the end of the context."""
        pki = Pki()
        with ExitStack() as stack:
            directory = Path(stack.enter_context(TemporaryDirectory(prefix="m")))
            port = stack.enter_context(peer_process(pki))
            runner = stack.enter_context(asyncio.Runner())
            yield cls(port, pki, directory, runner, stack)

    def flush(self) -> None:
        """Export the spans of a block, so that the block includes the cost."""
        self.tracers.force_flush()

    def _bare(self, stack: ExitStack, interceptors: Any = None) -> grpc.aio.Channel:
        async def dial() -> grpc.aio.Channel:
            return grpc.aio.secure_channel(self._endpoint, self._credentials, self._options, interceptors=interceptors)

        channel = self.runner.run(dial())
        stack.callback(lambda: self.runner.run(channel.close()))
        return channel

    @contextmanager
    def _client(self, directory: Path, telemetry: Telemetry) -> Iterator[Client]:
        config = GatewayConfig(
            directory=directory,
            name="home.example",
            admin_socket="/nowhere/admin.sock",
            circuit=CircuitConfig(cooldown_s=DAY_S, max_cooldown_s=DAY_S),
        )
        home = ClientRuntime.share(config, SYSTEM_CLOCK, telemetry)
        home.peers.load([self._record("ada", GRANT_ID), self._record("eve", OTHER_GRANT_ID)])
        home.loaded = True
        try:
            yield Client(home)
        finally:
            if home.release():
                home.close()
                self.runner.run(_closed(home))

    def _record(self, user: str, grant_id: str) -> PeerRecord:
        leaf, bundle = self._pki.client(grant_id, user), self._pki.trust_bundle
        return peer_record(leaf, bundle, self._endpoint, name=GATEWAY, user=user, grant_id=grant_id)


async def _closed(home: ClientRuntime) -> None:
    for peer in home.peers.all():
        await peer.channel.wait_closed()


@contextmanager
def peer_process(pki: Pki, delay_s: float = 0.0) -> Iterator[int]:
    """Run the server as a process and yield its port. Each list takes `delay_s`."""
    leaf = pki.server(GATEWAY, "127.0.0.1")
    identity = {
        "certificate_pem": leaf.certificate_pem,
        "key_pem": leaf.key_pem,
        "trust_bundle": pki.trust_bundle,
        "delay_s": delay_s,
    }
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.server"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(identity) + "\n")
            process.stdin.flush()
            yield int(process.stdout.readline())
            process.stdin.close()
            process.wait(10)
        finally:
            process.kill()
