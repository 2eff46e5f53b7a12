"""The circuit over real sockets: each kind of outage, what is sent meanwhile, and the recovery."""

import asyncio
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.breaker import CircuitState
from federation.client.aio.channel import AioChannel
from federation.client.chain.flow import Call, Flow
from federation.client.chain.methods import new_call
from federation.client.chain.runner import FlowRunner
from federation.client.peers.peer import Peer
from federation.client.runtime import ClientRuntime
from federation.config import CircuitConfig, GatewayConfig
from federation.errors import Reason, Refusal
from federation.v1 import federation_pb2 as pb
from federation.v1.federation_pb2_grpc import FederationServiceStub
from federation.wire.status import error_detail_of
from federation.wire.verbs import VERB_BY_NAME
from tests.support.clock import ManualClock
from tests.support.network_faults import Relay, closed_port
from tests.support.scripted import Reply, ScriptedPeer

SEARCH = pb.SearchRequest(query="report")
LIST = pb.ListRequest(resource="tasks")
SILENCE_S = 3.0
"""An idle channel that was not closed redials in this time."""
LONG_SILENCE_S = 12.0
"""An idle channel that was not closed redials seven times in this time."""


@dataclass
class Caller:
    """One gateway with peers behind relays, on a clock of the test."""

    runtime: ClientRuntime
    clock: ManualClock
    scripted: ScriptedPeer
    relays: list[Relay] = field(default_factory=list)

    def peer(self, name: str, endpoint: str) -> "Called":
        """A peer under that name at an address."""
        grant_id = f"7f6c1f52-6e0e-4a27-9f8d-{len(self.runtime.peers.all()):012d}"
        record = replace(self.scripted.record(name=name, grant_id=grant_id), endpoint=endpoint)
        return Called(self.runtime.peers.add(record), self.clock)  # type: ignore[arg-type]

    def relayed(self, name: str, *, silent: bool = False) -> tuple["Called", Relay]:
        """A peer behind a relay of its own; a silent one accepts and never answers."""
        relay = Relay(None if silent else self.scripted.port)
        self.relays.append(relay)
        return self.peer(name, relay.endpoint), relay


class Called:
    """A peer as its callers see it."""

    def __init__(self, peer: Peer, clock: ManualClock) -> None:
        self.peer, self.clock = peer, clock
        self.stub: Any = FederationServiceStub(AioChannel(peer, clock=clock.clock, deadline_s=2.0))

    async def search(self, timeout: float = 1.0) -> str:
        """Make a call that is never cached; return its code, or its reason where it has one."""
        try:
            await self.stub.Search(SEARCH, timeout=timeout)
        except grpc.RpcError as e:
            return error_detail_of(e).reason or e.code().name
        return "OK"

    async def searches(self, count: int, timeout: float = 1.0) -> list[str]:
        """Make so many at once."""
        return await asyncio.gather(*(self.search(timeout) for _ in range(count)))

    @property
    def state(self) -> CircuitState:
        state: CircuitState = self.peer.circuit.snapshot(self.clock.monotonic_s).state
        return state


@pytest.fixture
def caller(tmp_path: Path, scripted: ScriptedPeer) -> Iterator[Caller]:
    """A gateway whose circuits have no jitter."""
    clock = ManualClock(time.time())
    config = GatewayConfig(directory=tmp_path, name="home.example", circuit=CircuitConfig(jitter=0.0))
    runtime = ClientRuntime(config, clock.clock, None)
    made = Caller(runtime, clock, scripted)
    yield made
    runtime.close()
    for relay in made.relays:
        relay.close()


def waiting_connections(listener: socket.socket) -> int:
    """Return how many connections were made to a listener that accepts none."""
    count = 0
    while select.select([listener], [], [], 0)[0]:
        listener.accept()[0].close()
        count += 1
    return count


@pytest.mark.parametrize("silence_s", [SILENCE_S, pytest.param(LONG_SILENCE_S, marks=pytest.mark.long)])
async def test_each_kind_of_outage_opens_the_circuit_and_then_nothing_is_sent(caller: Caller, silence_s: float) -> None:
    """Refused, silent, frozen, reset during a call: five failures, then 1,000 calls and seconds without a byte sent."""
    port = closed_port()
    refused = caller.peer("refused", f"127.0.0.1:{port}")
    silent, silent_relay = caller.relayed("silent", silent=True)
    frozen, frozen_relay = caller.relayed("frozen")
    reset, reset_relay = caller.relayed("reset")
    assert await frozen.search() == "OK"
    frozen_relay.freeze()
    caller.scripted.service.script("search", Reply(delay_s=30))

    async def reset_connections() -> None:
        while reset.state is CircuitState.CLOSED:
            await asyncio.sleep(0.05)
            reset_relay.reset()

    failures = await asyncio.gather(
        *(called.searches(5, 1.5) for called in (refused, silent, frozen, reset)),
        reset_connections(),
        return_exceptions=False,
    )

    assert {reason for reasons in failures[:4] for reason in reasons or ()} <= {"PEER_UNREACHABLE", "PEER_TIMEOUT"}
    everybody = (refused, silent, frozen, reset)
    assert [called.state for called in everybody] == [CircuitState.OPEN] * 4
    await asyncio.gather(*(called.peer.channel.wait_closed() for called in everybody))
    await asyncio.sleep(0.2)  # what was on its way when the channels closed
    with socket.create_server(("127.0.0.1", port)) as listener:
        relays = (silent_relay, frozen_relay, reset_relay)
        before = [(relay.accepts, relay.bytes_in) for relay in relays]
        for called in everybody:
            assert set(await called.searches(1_000)) == {"CIRCUIT_OPEN"}
        await asyncio.sleep(silence_s)

        assert [(relay.accepts, relay.bytes_in) for relay in relays] == before
        assert waiting_connections(listener) == 0


async def test_a_call_that_dials_after_the_opening_leaves_no_connection(caller: Caller) -> None:
    """A call admitted before the circuit opened, and sent after it, leaves no channel that redials."""
    called = caller.peer("refused", f"127.0.0.1:{closed_port()}")
    channel = AioChannel(called.peer, clock=caller.clock.clock, deadline_s=2.0)
    now, search = caller.clock.monotonic_s, VERB_BY_NAME["search"]
    call = new_call(search, called.peer, SEARCH, None, None, now=now, default_s=2.0)
    flow = called.peer.flow(call)
    let_go = next(flow)
    assert isinstance(let_go, Call)
    await called.searches(5)
    assert called.state is CircuitState.OPEN

    def goes_out() -> Flow:
        outcome = yield let_go
        with pytest.raises(StopIteration) as end:
            flow.send(outcome)
        return end.value.value  # type: ignore[no-any-return]

    ended = asyncio.Event()
    run = FlowRunner(channel._driver(), goes_out())
    run.start()
    run.when_done(ended.set)
    assert called.peer.channel.current(asyncio.get_running_loop()) is not None
    await ended.wait()

    assert run.outcome is not None
    assert run.outcome.code is grpc.StatusCode.UNAVAILABLE
    assert called.peer.channel.current(asyncio.get_running_loop()) is None


@pytest.mark.parametrize("verb", ["Search", "List"])
def test_a_probe_whose_loop_died_blocks_no_later_probe(verb: str) -> None:
    """A loop closed under a probe never returns its permit: a second after its deadline another probe goes."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.dead_loop_program", verb],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["half_open", "CIRCUIT_OPEN", "OK", "closed", "ended"], done.stderr


async def test_one_of_fifty_probes_and_finds_the_peer_at_once(caller: Caller) -> None:
    """After the cooldown one caller dials, once; its success serves every caller, whatever gRPC's own backoff."""
    called, relay = caller.relayed("work")
    assert await called.search() == "OK"
    relay.freeze()
    await called.searches(5)
    assert called.state is CircuitState.OPEN
    relay.reset()
    relay.thaw()
    accepts, calls = relay.accepts, caller.scripted.service.calls("search")
    caller.clock.advance(30)

    started = time.monotonic()
    ends = await called.searches(50)

    assert sorted(ends) == ["CIRCUIT_OPEN"] * 49 + ["OK"]
    assert (relay.accepts, caller.scripted.service.calls("search")) == (accepts + 1, calls + 1)
    assert called.state is CircuitState.CLOSED
    assert await called.searches(20) == ["OK"] * 20
    assert relay.accepts == accepts + 1
    assert time.monotonic() - started < 1.0


async def test_a_failed_probe_dials_once_and_doubles_the_wait(caller: Caller) -> None:
    """While the peer is unreachable each cooldown costs one connection; the next is twice as long."""
    called, relay = caller.relayed("work", silent=True)
    await called.searches(5)
    for cooldown in (30, 60, 120):
        await called.peer.channel.wait_closed()
        accepts = relay.accepts
        caller.clock.advance(cooldown - 0.001)
        assert await called.search() == "CIRCUIT_OPEN"
        assert relay.accepts == accepts
        caller.clock.advance(0.001)
        assert await called.search(1.0) in {"PEER_TIMEOUT", "PEER_UNREACHABLE"}
        assert relay.accepts == accepts + 1
        assert called.state is CircuitState.OPEN


async def test_a_probe_with_an_ignored_result_frees_the_next_one(caller: Caller) -> None:
    """After a cancelled probe, or one with a short budget, half-open stays, and the next probe closes the circuit."""
    called, relay = caller.relayed("work")
    relay.freeze()
    await called.searches(5)
    caller.clock.advance(30)
    for _ in range(3):
        probe = asyncio.create_task(called.search(5.0))
        await asyncio.sleep(0.02)
        assert await called.search() == "CIRCUIT_OPEN"
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        assert await called.search(0.05) == "PEER_TIMEOUT"
        assert called.state is CircuitState.HALF_OPEN
    relay.thaw()

    assert await called.search() == "OK"
    assert called.state is CircuitState.CLOSED


async def test_answers_of_a_living_peer_never_open_it(caller: Caller) -> None:
    """Refusals of every kind, rate limits, and calls with very short deadlines leave the circuit closed."""
    called, _ = caller.relayed("work")
    service = caller.scripted.service
    for reason in (
        Reason.ROW_NOT_FOUND,
        Reason.INVALID_REQUEST,
        Reason.SCOPE_VIOLATION,
        Reason.GRANT_INVALID,
        Reason.RATE_LIMITED,
        Reason.CERTIFICATE_INVALID,
    ):
        service.script("search", Reply(refusal=Refusal(reason, "no", retry_after_s=1.0)))
        assert await called.searches(20) == [reason.value] * 20
    service.script("search", Reply(delay_s=0.5))
    assert await called.searches(20, timeout=0.02) == ["PEER_TIMEOUT"] * 20

    assert called.state is CircuitState.CLOSED


async def test_hits_are_served_while_the_circuit_is_open(caller: Caller) -> None:
    """Cached answers are served until they expire; everything else is CIRCUIT_OPEN."""
    called, relay = caller.relayed("work")
    await called.stub.List(LIST)
    relay.freeze()
    await called.searches(5)
    caller.clock.advance(29.9)

    call = called.stub.List(LIST)
    await call
    assert ("_cached", "true") in tuple(await call.trailing_metadata())
    assert await called.search() == "CIRCUIT_OPEN"
    assert called.state is CircuitState.OPEN
    caller.clock.advance(0.1)
    with pytest.raises(grpc.aio.AioRpcError) as gone:
        await called.stub.List(LIST, timeout=0.2)
    assert error_detail_of(gone.value).reason == "PEER_TIMEOUT"


async def test_circuits_of_two_peers_are_their_own(caller: Caller) -> None:
    """One peer's outage does not affect another peer."""
    away, relay = caller.relayed("away", silent=True)
    near, _ = caller.relayed("near")
    await away.searches(5)

    assert away.state is CircuitState.OPEN
    assert await near.searches(10) == ["OK"] * 10
    assert relay.accepts >= 1
