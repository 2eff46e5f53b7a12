"""Probes of unreachable peers: one probe per peer for all waiting sessions, and none without a waiting session."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol
from weakref import WeakSet

from federation.client.aio.call import FlowCall
from federation.client.peers.peer import Peer
from federation.clock import MICROSECONDS, Clock
from federation.session.classification import classify
from federation.session.results import SourceState
from federation.wire.status import error_detail

LOGGER: Final = logging.getLogger(__name__)


class Waiter(Protocol):
    """A session that waits until a peer answers again."""

    def reached(self, peer: Peer, *, well: bool) -> None:
        """Handle that the peer answers again; `well` is false if the answer is a refusal."""
        ...

    def postponed(self, peer: Peer, retry_at_us: int) -> None:
        """Handle that the peer is still unreachable, and when the next probe is sent (Unix microseconds)."""
        ...


class Probes:
    """The probes of one federation. A probe is a `Capabilities` call through the chain, under the circuit's permit."""

    def __init__(self, call: Callable[[Peer], FlowCall], clock: Clock, cooldown_s: float) -> None:
        self._call, self._clock, self._cooldown_s = call, clock, cooldown_s
        self._probes: dict[tuple[Peer, asyncio.AbstractEventLoop], _Probe] = {}

    def wait(self, peer: Peer, waiter: Waiter) -> int:
        """Call `waiter` when the peer answers again. Returns the time of the next probe in Unix microseconds."""
        loop = asyncio.get_running_loop()
        for key in [key for key in self._probes if key[1].is_closed()]:
            del self._probes[key]
        probe = self._probes.get((peer, loop))
        if probe is None:
            remove = self._probes.pop
            probe = _Probe(peer, self._call, self._clock, self._cooldown_s, lambda: remove((peer, loop), None))
            self._probes[peer, loop] = probe
        probe.waiters.add(waiter)
        return probe.due_us

    def unregister(self, waiter: Waiter) -> None:
        """Remove `waiter` from all probes, and end probes without a waiter."""
        for probe in list(self._probes.values()):
            probe.waiters.discard(waiter)
            if not probe.waiters:
                probe.end()

    def close(self) -> None:
        """End every probe."""
        for probe in list(self._probes.values()):
            probe.end()

    def __len__(self) -> int:
        return len(self._probes)


class _Probe:
    def __init__(
        self,
        peer: Peer,
        call: Callable[[Peer], FlowCall],
        clock: Clock,
        cooldown_s: float,
        remove: Callable[[], object],
    ) -> None:
        self.waiters: WeakSet[Waiter] = WeakSet()
        self.due_us = 0
        self._peer, self._start, self._clock = peer, call, clock
        self._cooldown_s, self._remove = cooldown_s, remove
        self._loop = asyncio.get_running_loop()
        self._since_us = clock.now_us()
        self._call: FlowCall | None = None
        self._schedule()

    def end(self) -> None:
        """Cancel the probe."""
        if not self._loop.is_closed():
            self._handle.cancel()
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        self._remove()

    def _schedule(self) -> None:
        """Send after the cooldown, or when an open circuit lets calls pass again, whichever is later."""
        circuit_s = self._peer.circuit.snapshot(self._clock.monotonic()).retry_in_s
        delay_s = max(self._cooldown_s, circuit_s or 0.0)
        self.due_us = self._clock.now_us() + int(delay_s * MICROSECONDS)
        self._handle = self._loop.call_later(delay_s, self._send)

    def _send(self) -> None:
        if not self.waiters:
            self.end()
        elif self._answered_another_call():
            self._reached(well=True)
        else:
            self._call = self._start(self._peer)
            self._call.add_done_callback(self._on_done)

    def _answered_another_call(self) -> bool:
        return (self._peer.health.last_success_us or 0) > self._since_us

    def _on_done(self, call: FlowCall) -> None:
        if self._call is None:  # ended
            return
        self._call = None
        detail, code = error_detail(call.outcome.trailing), call.outcome.code.name
        state = classify(code, detail.reason, local=detail.local, verb="capabilities", conclusive=True).state
        if state is not SourceState.OFFLINE:
            self._reached(well=state in {SourceState.OK, SourceState.RATE_LIMITED})
            return
        self._schedule()
        for waiter in list(self.waiters):
            waiter.postponed(self._peer, self.due_us)

    def _reached(self, *, well: bool) -> None:
        waiters = list(self.waiters)
        self.end()
        for waiter in waiters:
            try:
                waiter.reached(self._peer, well=well)
            except Exception:
                LOGGER.exception("a callback for the return of %s failed", self._peer.name)
