"""The availability of a session's peers, and the signals about it, each given once to every kind of listener."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Final

from opentelemetry.trace import Span, get_current_span

from federation.client.peers.peer import Peer
from federation.clock import Clock
from federation.session.availability.probes import Probes
from federation.session.signals import AvailabilitySignals, Outage, PeerSignal, SignalKind

__all__ = ["PeerAvailability"]

LOGGER: Final = logging.getLogger(__name__)
Listener = Callable[[PeerSignal], object]


class PeerAvailability:
    """Updates the signals of a session from failed calls, from successful calls of other sessions, and from probes."""

    def __init__(self, probes: Probes, clock: Clock, on_signal: Listener | None, *, announce_restored: bool) -> None:
        self._signals = AvailabilitySignals(announce_restored=announce_restored)
        self._probes, self._clock, self._on_signal = probes, clock, on_signal
        self._given: list[PeerSignal] = []
        self._unreported: list[PeerSignal] = []
        self._listeners: set[asyncio.Future[None]] = set()
        self._patience: dict[str, float] = {}
        self._closed = False

    def returns(self, peer: Peer) -> int:
        """Return how often the peer returned from an outage; a caller reads it before its call, for `failed`."""
        return self._signals.returns(peer.record.id)

    def outage(self, peer: Peer, span: Span) -> Outage | None:
        """Return the outage of a peer, if any. A later success of another session's call ends the outage."""
        outage = self._signals.outage(peer.record.id)
        if outage is None:
            return None
        health = peer.health
        if health is None or (health.last_success_us or 0) <= outage.since_us:
            return outage
        self._give(self._signals.back(peer.record.id, peer.name, self._clock.now_us()), span)
        return None

    def failed(self, peer: Peer, returns: int, outage: Outage, span: Span) -> None:
        """Record the outage of a peer, start probing it, and give the signal the first time.

        `since_us` and `retry_at_us` of the outage are set here.
        """
        if self._closed or returns != self._signals.returns(peer.record.id) or self._signals.outage(peer.record.id):
            return
        retry_at_us = self._probes.wait(peer, self)
        outage = replace(outage, since_us=self._clock.now_us(), retry_at_us=retry_at_us)
        self._give(self._signals.lost(peer.record.id, peer.name, outage, returns), span)

    def defer(self, peer: Peer, seconds: float) -> None:
        """Record for how many seconds a rate-limiting peer asked for no call."""
        self._patience[peer.record.id] = self._clock.monotonic() + seconds

    def deferred_s(self, peer: Peer) -> float:
        """Return for how many more seconds a rate-limiting peer gets no call; 0 if it may be called."""
        until = self._patience.get(peer.record.id)
        left = until - self._clock.monotonic() if until is not None else 0.0
        if until is not None and left <= 0:
            del self._patience[peer.record.id]
        return max(left, 0.0)

    def reached(self, peer: Peer, *, well: bool) -> None:
        """Handle that a probe was answered."""
        back = self._signals.back(peer.record.id, peer.name, self._clock.now_us(), well=well)
        self._give(back, get_current_span())

    def postponed(self, peer: Peer, retry_at_us: int) -> None:
        """Handle that a probe failed."""
        self._signals.postpone(peer.record.id, retry_at_us)

    def unreported(self) -> tuple[PeerSignal, ...]:
        """Return the signals that no result holds yet. The caller adds them to its result."""
        unreported, self._unreported = self._unreported, []
        return tuple(unreported)

    async def listen(self) -> AsyncIterator[PeerSignal]:
        """Yield every signal, earlier ones first, until the session is closed."""
        sent = 0
        while True:
            while sent < len(self._given):
                sent += 1
                yield self._given[sent - 1]
            if self._closed:
                return
            woken = asyncio.get_running_loop().create_future()
            self._listeners.add(woken)
            try:
                await woken
            finally:
                self._listeners.discard(woken)

    def close(self) -> None:
        """Give no more signals, and end the iterators of `listen`."""
        self._closed = True
        self._probes.leave(self)
        self._wake()

    def _give(self, signal: PeerSignal | None, span: Span) -> None:
        if signal is None:
            return
        self._given.append(signal)
        self._unreported.append(signal)
        level = logging.WARNING if signal.kind is SignalKind.OFFLINE else logging.INFO
        LOGGER.log(level, "%s: %s", signal.text, signal.message)
        span.add_event(f"federation.{signal.kind}", {"peer": signal.peer, "reason": signal.reason})
        self._wake()
        if self._on_signal is not None:
            try:
                self._on_signal(signal)
            except Exception:
                LOGGER.exception("the listener to the signals of a session broke")

    def _wake(self) -> None:
        for woken in self._listeners:
            if not woken.done():
                woken.set_result(None)
