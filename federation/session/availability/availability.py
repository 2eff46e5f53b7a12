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
from federation.session.signals import PeerSignal, SignalKind

LOGGER: Final = logging.getLogger(__name__)
Listener = Callable[[PeerSignal], object]


class PeerAvailability:
    """Decides which peers a session asks, from failed calls, successful calls of other sessions, and probes.

    An outage is the reason why the session skips a peer for now, kept as the signal about it.

    A peer is identified by its enrollment: a peer that is enrolled again is a new peer without an outage. A session
    gives each signal at most once per peer. One event loop uses an instance, so it needs no lock.
    """

    def __init__(self, probes: Probes, clock: Clock, on_signal: Listener | None, *, announce_restored: bool) -> None:
        self._probes, self._clock, self._on_signal = probes, clock, on_signal
        self._announce_restored = announce_restored
        self._outages: dict[str, PeerSignal] = {}
        self._returns: dict[str, int] = {}
        self._retry_at: dict[str, float] = {}
        """The monotonic time until which a peer asked for no call, by the peer's id."""
        self._announced: set[tuple[SignalKind, str]] = set()
        self._given: list[PeerSignal] = []
        self._unreported: list[PeerSignal] = []
        self._changed = asyncio.Event()
        self._closed = False

    def returns(self, peer: Peer) -> int:
        """Return how often the peer returned from an outage; a caller reads it before its call, for `failed`."""
        return self._returns.get(peer.record.id, 0)

    def outage(self, peer: Peer, span: Span) -> PeerSignal | None:
        """Return the outage of a peer, if any. A later success of another session's call ends the outage."""
        outage = self._outages.get(peer.record.id)
        if outage is None:
            return None
        if (peer.health.last_success_us or 0) <= outage.since_us:
            return outage
        self._end_outage(peer, span, announce=True)
        return None

    def failed(self, peer: Peer, returns: int, outage: PeerSignal, span: Span) -> None:
        """Record the outage of a peer, start probing it, and give the signal the first time.

        `since_us` and `retry_at_us` of the outage are set here. A failure with an older `returns` says nothing
        about the present, and is ignored.
        """
        if self._closed or returns != self.returns(peer) or peer.record.id in self._outages:
            return
        retry_at_us = self._probes.wait(peer, self)
        outage = replace(outage, since_us=self._clock.now_us(), retry_at_us=retry_at_us)
        self._outages[peer.record.id] = outage
        self._give(peer, outage, span)

    def defer(self, peer: Peer, seconds: float) -> None:
        """Record for how many seconds a rate-limiting peer asked for no call."""
        self._retry_at[peer.record.id] = self._clock.monotonic() + seconds

    def deferred_s(self, peer: Peer) -> float:
        """Return for how many more seconds a rate-limiting peer gets no call; 0 if it may be called."""
        until = self._retry_at.get(peer.record.id)
        left_s = until - self._clock.monotonic() if until is not None else 0.0
        if until is not None and left_s <= 0:
            del self._retry_at[peer.record.id]
        return max(left_s, 0.0)

    def reached(self, peer: Peer, *, well: bool) -> None:
        """End an outage after an answered probe. Gives no signal if the peer answers with a refusal (not `well`)."""
        self._end_outage(peer, get_current_span(), announce=well)

    def postponed(self, peer: Peer, retry_at_us: int) -> None:
        """Set the time of the next probe after a failed one."""
        outage = self._outages.get(peer.record.id)
        if outage is not None:
            self._outages[peer.record.id] = replace(outage, retry_at_us=retry_at_us)

    def unreported(self) -> tuple[PeerSignal, ...]:
        """Return the signals that no result holds yet. The caller adds them to its result."""
        signals, self._unreported = self._unreported, []
        return tuple(signals)

    async def listen(self) -> AsyncIterator[PeerSignal]:
        """Yield every signal, earlier ones first, until the session is closed."""
        sent = 0
        while True:
            while sent < len(self._given):
                sent += 1
                yield self._given[sent - 1]
            if self._closed:
                return
            self._changed.clear()
            await self._changed.wait()

    def close(self) -> None:
        """Give no more signals, and end the iterators of `listen`."""
        self._closed = True
        self._probes.unregister(self)
        self._changed.set()

    def _end_outage(self, peer: Peer, span: Span, *, announce: bool) -> None:
        if self._outages.pop(peer.record.id, None) is None:
            return
        self._returns[peer.record.id] = self.returns(peer) + 1
        if announce and self._announce_restored:
            message, since_us = f"{peer.name} answers again", self._clock.now_us()
            signal = PeerSignal(kind=SignalKind.RESTORED, peer=peer.name, message=message, since_us=since_us)
            self._give(peer, signal, span)

    def _give(self, peer: Peer, signal: PeerSignal, span: Span) -> None:
        """Give a signal to results, log, span and listeners, unless the session gave its kind for the peer before."""
        if (signal.kind, peer.record.id) in self._announced:
            return
        self._announced.add((signal.kind, peer.record.id))
        self._given.append(signal)
        self._unreported.append(signal)
        level = logging.WARNING if signal.kind is SignalKind.OFFLINE else logging.INFO
        LOGGER.log(level, "%s: %s", signal.text, signal.message)
        span.add_event(f"federation.{signal.kind}", {"peer": signal.peer, "reason": signal.reason})
        self._changed.set()
        if self._on_signal is not None:
            try:
                self._on_signal(signal)
            except Exception:
                LOGGER.exception("the listener to the signals of a session broke")
