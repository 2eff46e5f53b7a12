"""Probes of a session and what a closed session takes from them, with a circuit that a test opens by hand."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from opentelemetry.trace import INVALID_SPAN

from federation.breaker import CallResult, CircuitBreaker
from federation.client.chain.call_stats import PeerHealth
from federation.client.chain.flow import Outcome
from federation.client.chain.outcomes import from_wire
from federation.config import CircuitConfig
from federation.errors import Reason, Refusal
from federation.session.availability.availability import PeerAvailability
from federation.session.availability.probes import Probes
from federation.session.signals import PeerSignal, SignalKind
from federation.wire.status import refusal_status
from tests.support.clock import ManualClock

COOLDOWN_S = 30.0


class Peer:
    """A peer whose circuit `trip` opens. Its health has seen no call."""

    name, user = "work.example", "ada"
    record = SimpleNamespace(id="e1")

    def __init__(self, time: ManualClock) -> None:
        self.health = PeerHealth(time.clock)
        self.circuit = CircuitBreaker(CircuitConfig(cooldown_s=COOLDOWN_S, jitter=0.0))
        self._time = time

    def trip(self) -> None:
        """Open the circuit for `COOLDOWN_S` seconds."""
        for _ in range(5):
            permit: Any = self.circuit.allow(self._time.monotonic_s)
            self.circuit.record(permit, CallResult.FAILURE, self._time.monotonic_s)


class EndedCall:
    """A probe that ends at once."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)

    def cancel(self) -> None:
        raise NotImplementedError


class Waiter:
    """A session that waits for a peer."""

    def __init__(self) -> None:
        self.retry_at_us: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.well: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def reached(self, peer: Any, *, well: bool) -> None:
        self.well.set_result(well)

    def postponed(self, peer: Any, retry_at_us: int) -> None:
        self.retry_at_us.set_result(retry_at_us)


@pytest.fixture
def time() -> ManualClock:
    """Time that stands still."""
    return ManualClock()


async def test_the_first_probe_waits_for_the_end_of_the_circuits_cooldown(time: ManualClock) -> None:
    """A probe before that end would be refused by the circuit, so a shorter cooldown of the probes does not count."""
    peer: Any = Peer(time)
    peer.trip()
    probes = Probes(lambda _: pytest.fail("probed"), time.clock, 1.0)

    due_us = probes.wait(peer, Waiter())
    probes.close()

    assert due_us == int((time.wall_s + COOLDOWN_S) * 1e6)


async def test_the_next_probe_waits_for_the_end_of_the_circuits_cooldown(time: ManualClock) -> None:
    """A probe that fails and opens the circuit is repeated when the circuit lets calls pass again."""
    peer: Any = Peer(time)

    def probe(_: Any) -> Any:
        peer.trip()
        return EndedCall(from_wire(grpc.StatusCode.UNAVAILABLE))

    probes, waiter = Probes(probe, time.clock, 0.0), Waiter()
    probes.wait(peer, waiter)

    async with asyncio.timeout(5):
        retry_at_us = await waiter.retry_at_us
    probes.close()

    assert retry_at_us == int((time.wall_s + COOLDOWN_S) * 1e6)


@pytest.mark.parametrize(("reason", "well"), [(Reason.RATE_LIMITED, True), (Reason.GRANT_INVALID, False)])
async def test_a_peer_that_limits_the_rate_of_calls_is_restored(time: ManualClock, reason: Reason, well: bool) -> None:
    """A probe that was one call too many shows that the peer serves its user again; another refusal does not."""
    code, details, trailing = refusal_status(Refusal(reason, "no"))
    call: Any = EndedCall(from_wire(code, details=details, trailing=trailing))
    probes, waiter = Probes(lambda _: call, time.clock, 0.0), Waiter()
    peer: Any = Peer(time)
    probes.wait(peer, waiter)

    async with asyncio.timeout(5):
        assert await waiter.well is well
    probes.close()


async def test_a_failure_after_closing_changes_nothing(time: ManualClock) -> None:
    """A call that fails after its session was closed gives no signal and starts no probe."""
    heard: list[PeerSignal] = []
    probes = Probes(lambda _: pytest.fail("probed"), time.clock, 1.0)
    availability = PeerAvailability(probes, time.clock, heard.append, announce_restored=True)
    peer: Any = Peer(time)
    availability.close()

    availability.failed(peer, 0, PeerSignal(kind=SignalKind.OFFLINE, peer="work", reason="gone"), INVALID_SPAN)

    assert heard == []
    assert len(probes) == 0
    assert availability.unreported() == ()
