"""What is compared. Every variant asks the same server for the same rows; one block is some calls, each timed."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import grpc

from federation.v1 import federation_pb2 as pb
from tests.bench.samples import Samples
from tests.bench.server import ROWS
from tests.bench.world import DEADLINE_S, Client, World

BARE: Final = "aio bare"
BARE_OTEL: Final = "aio bare + OTel"
BARE_SYNC: Final = "sync bare"
_NUMBERS: Final = count()


class VoidError(Exception):
    """A block did not measure what its name says."""


@dataclass(frozen=True)
class Calls:
    """How many calls make a block: over the wire, and answered without it."""

    live: int
    quick: int


Block = Callable[[], list[int]]
Prepare = Callable[[World], Block]
Pick = Callable[[World], Any]


@dataclass(frozen=True)
class Variant:
    """One row of the table. `base` names the bare variant that it is compared with."""

    name: str
    base: str
    prepare: Prepare

    def measure(self, world: World, samples: Samples) -> None:
        """Run one block and note it; the spans that it left are exported at its expense."""
        block = self.prepare(world)
        cpu = time.process_time()
        took = block()
        world.flush()
        samples.add(took, time.process_time() - cpu)


def variants(calls: Calls) -> list[Variant]:
    """Return every variant, the bare ones first."""
    made = [
        Variant(BARE, BARE, _aio(lambda world: world.bare.List, calls.live, timeout=DEADLINE_S)),
        Variant(BARE_OTEL, BARE, _aio(lambda world: world.otel.List, calls.live, timeout=DEADLINE_S)),
        Variant(BARE_SYNC, BARE_SYNC, _sync(lambda world: world.bare_sync.List, calls.live, timeout=DEADLINE_S)),
    ]
    for span in ("on", "off"):
        label = f"span {span}"
        made += [
            Variant(f"aio chain, {label}", BARE, _live(span, _aio(_stub(span, "aio"), calls.live))),
            Variant(f"aio hit, {label}", BARE, _hit(span, calls.quick, aio=True)),
            Variant(f"aio open, {label}", BARE, _open(span, calls.quick, aio=True)),
            Variant(f"sync chain, {label}", BARE_SYNC, _live(span, _sync(_stub(span, "sync"), calls.live))),
            Variant(f"sync hit, {label}", BARE_SYNC, _hit(span, calls.quick, aio=False)),
            Variant(f"sync open, {label}", BARE_SYNC, _open(span, calls.quick, aio=False)),
        ]
    return made


def new_request() -> pb.ListRequest:
    """Return a question that nobody has asked yet."""
    return pb.ListRequest(resource="tasks", where={"number": str(next(_NUMBERS))}, page_size=ROWS)


def _client(world: World, span: str) -> Client:
    return world.on if span == "on" else world.off


def _stub(span: str, face: str) -> Pick:
    return lambda world: getattr(_client(world, span), face).List


def _aio(pick: Pick, number: int, **options: Any) -> Prepare:
    def prepare(world: World) -> Block:
        call, requests = pick(world), _new_requests(number)
        return lambda: world.runner.run(_timed_aio(call, requests, options))

    return prepare


def _sync(pick: Pick, number: int, **options: Any) -> Prepare:
    def prepare(world: World) -> Block:
        call, requests = pick(world), _new_requests(number)
        return lambda: _timed_sync(call, requests, options)

    return prepare


def _live(span: str, prepare: Prepare) -> Prepare:
    """Check that every call of the block missed the cache."""

    def checked(world: World) -> Block:
        client, block = _client(world, span), prepare(world)
        return _checked(client, block, hits=False)

    return checked


def _hit(span: str, number: int, *, aio: bool) -> Prepare:
    """Ask once, unmeasured; then ask the same, and check that every call hit the cache."""

    def prepare(world: World) -> Block:
        client, request = _client(world, span), new_request()
        client.sync.List(request)
        requests = [request] * number
        if aio:
            return _checked(client, lambda: world.runner.run(_timed_aio(client.aio.List, requests, {})), hits=True)
        return _checked(client, lambda: _timed_sync(client.sync.List, requests, {}), hits=True)

    return prepare


def _open(span: str, number: int, *, aio: bool) -> Prepare:
    """Ask a peer whose circuit is open."""

    def prepare(world: World) -> Block:
        client, requests = _client(world, span), [new_request()] * number
        client.open_circuit()
        if aio:
            return lambda: world.runner.run(_refused_aio(client.open_aio.List, requests))
        return lambda: _refused_sync(client.open_sync.List, requests)

    return prepare


def _new_requests(number: int) -> list[pb.ListRequest]:
    return [new_request() for _ in range(number)]


def _checked(client: Client, block: Block, *, hits: bool) -> Block:
    before = client.look_ups()

    def run() -> list[int]:
        took, after = block(), client.look_ups()
        seen = (after[0] - before[0], after[1] - before[1])
        wanted = (len(took), 0) if hits else (0, len(took))
        if seen != wanted:
            raise VoidError(f"{seen[0]} hits and {seen[1]} misses instead of {wanted[0]} and {wanted[1]}")
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
            raise VoidError("an open circuit let a call through")
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
            raise VoidError("an open circuit let a call through")
    return took
