"""The compared variants. Every variant lists the same rows at the same server; a block is a number of timed calls."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import grpc

from federation.v1 import federation_pb2 as pb
from tests.bench.clients import DEADLINE_S, Client, Clients
from tests.bench.samples import Samples
from tests.bench.server import ROWS

BARE: Final = "aio bare"
BARE_OTEL: Final = "aio bare + OTel"
BARE_SYNC: Final = "sync bare"
_NUMBERS: Final = count()


class InvalidBlockError(Exception):
    """A block did not measure what its label says."""


@dataclass(frozen=True)
class BlockSizes:
    """Calls per block: `live` over the network, `quick` without it."""

    live: int
    quick: int


Block = Callable[[], list[int]]
Prepare = Callable[[Clients], Block]
Pick = Callable[[Clients], Any]


@dataclass(frozen=True)
class Variant:
    """A row of the table. `base` is the bare variant that it is compared with."""

    name: str
    base: str
    prepare: Prepare

    def measure(self, clients: Clients, samples: Samples) -> None:
        """Measure one block, including the export of its spans."""
        block = self.prepare(clients)
        cpu = time.process_time()
        took = block()
        clients.flush()
        samples.add(took, time.process_time() - cpu)


def variants(calls: BlockSizes) -> list[Variant]:
    """Return every variant, the bare ones first."""
    made = [
        Variant(BARE, BARE, _aio(lambda clients: clients.bare.List, calls.live, timeout=DEADLINE_S)),
        Variant(BARE_OTEL, BARE, _aio(lambda clients: clients.otel.List, calls.live, timeout=DEADLINE_S)),
        Variant(BARE_SYNC, BARE_SYNC, _sync(lambda clients: clients.bare_sync.List, calls.live, timeout=DEADLINE_S)),
    ]
    for span in ("on", "off"):
        label = f"span {span}"
        made += [
            Variant(f"aio chain, {label}", BARE, _live(span, _aio(_stub(span, "aio"), calls.live))),
            Variant(f"aio hit, {label}", BARE, _hit(span, calls.quick, aio=True)),
            Variant(f"aio open circuit, {label}", BARE, _open(span, calls.quick, aio=True)),
            Variant(f"sync chain, {label}", BARE_SYNC, _live(span, _sync(_stub(span, "sync"), calls.live))),
            Variant(f"sync hit, {label}", BARE_SYNC, _hit(span, calls.quick, aio=False)),
            Variant(f"sync open circuit, {label}", BARE_SYNC, _open(span, calls.quick, aio=False)),
        ]
    return made


def new_request() -> pb.ListRequest:
    """Return a request that was not sent before."""
    return pb.ListRequest(resource="tasks", where={"number": str(next(_NUMBERS))}, page_size=ROWS)


def _client(clients: Clients, span: str) -> Client:
    return clients.on if span == "on" else clients.off


def _stub(span: str, face: str) -> Pick:
    return lambda clients: getattr(_client(clients, span), face).List


def _aio(pick: Pick, number: int, **options: Any) -> Prepare:
    def prepare(clients: Clients) -> Block:
        call, requests = pick(clients), _new_requests(number)
        return lambda: clients.runner.run(_timed_aio(call, requests, options))

    return prepare


def _sync(pick: Pick, number: int, **options: Any) -> Prepare:
    def prepare(clients: Clients) -> Block:
        call, requests = pick(clients), _new_requests(number)
        return lambda: _timed_sync(call, requests, options)

    return prepare


def _live(span: str, prepare: Prepare) -> Prepare:
    """Check that every call of the block misses the cache."""

    def checked(clients: Clients) -> Block:
        client, block = _client(clients, span), prepare(clients)
        return _checked(client, block, hits=False)

    return checked


def _hit(span: str, number: int, *, aio: bool) -> Prepare:
    """Call once, unmeasured; then repeat the call and check that every call hits the cache."""

    def prepare(clients: Clients) -> Block:
        client, request = _client(clients, span), new_request()
        client.sync.List(request)
        requests = [request] * number
        if aio:
            return _checked(client, lambda: clients.runner.run(_timed_aio(client.aio.List, requests, {})), hits=True)
        return _checked(client, lambda: _timed_sync(client.sync.List, requests, {}), hits=True)

    return prepare


def _open(span: str, number: int, *, aio: bool) -> Prepare:
    """Call a peer whose circuit is open."""

    def prepare(clients: Clients) -> Block:
        client, requests = _client(clients, span), [new_request()] * number
        client.open_circuit()
        if aio:
            return lambda: clients.runner.run(_refused_aio(client.open_aio.List, requests))
        return lambda: _refused_sync(client.open_sync.List, requests)

    return prepare


def _new_requests(number: int) -> list[pb.ListRequest]:
    return [new_request() for _ in range(number)]


def _checked(client: Client, block: Block, *, hits: bool) -> Block:
    before = client.lookups()

    def run() -> list[int]:
        took, after = block(), client.lookups()
        seen = (after[0] - before[0], after[1] - before[1])
        wanted = (len(took), 0) if hits else (0, len(took))
        if seen != wanted:
            raise InvalidBlockError(f"{seen[0]} hits and {seen[1]} misses instead of {wanted[0]} and {wanted[1]}")
        return took

    return run


async def _timed_aio(call: Any, requests: Iterable[Any], options: dict[str, Any]) -> list[int]:
    now, took = time.perf_counter_ns, []
    for request in requests:
        begun = now()
        await call(request, **options)
        took.append(now() - begun)
    return took


def _timed_sync(call: Any, requests: Iterable[Any], options: dict[str, Any]) -> list[int]:
    now, took = time.perf_counter_ns, []
    for request in requests:
        begun = now()
        call(request, **options)
        took.append(now() - begun)
    return took


async def _refused_aio(call: Any, requests: Iterable[Any]) -> list[int]:
    now, took = time.perf_counter_ns, []
    for request in requests:
        begun = now()
        try:
            await call(request)
        except grpc.aio.AioRpcError:
            took.append(now() - begun)
        else:
            raise InvalidBlockError("an open circuit let a call through")
    return took


def _refused_sync(call: Any, requests: Iterable[Any]) -> list[int]:
    now, took = time.perf_counter_ns, []
    for request in requests:
        begun = now()
        try:
            call(request)
        except grpc.RpcError:
            took.append(now() - begun)
        else:
            raise InvalidBlockError("an open circuit let a call through")
    return took
