"""What one gateway has of its peers in one process: shared by every federation and sync channel on its directory."""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from federation.breaker import CircuitBreaker, CircuitState, Transition
from federation.cache.response_cache import InvalidationReason, ResponseCache
from federation.client import fork
from federation.client.chain.call_stats import PeerHealth
from federation.client.chain.chain import build_chain
from federation.client.chain.flow import Interceptor, refused
from federation.client.interceptors.breaking import BreakingInterceptor
from federation.client.interceptors.caching import CachingInterceptor, cut
from federation.client.interceptors.propagation import PropagationInterceptor
from federation.client.interceptors.rpc_spans import RpcSpansInterceptor
from federation.client.interceptors.tracing import TracingInterceptor
from federation.client.peers.peer import Peer, Revocation
from federation.client.peers.registry import PeerRegistry
from federation.client.renewer import OnRenewal, RenewalStore, Renewer, validity_of
from federation.client.transport.background_loop import BackgroundLoop
from federation.client.transport.connections import Dialer, PeerChannel
from federation.client.transport.credentials import EnrolledDialer
from federation.client.watch.loops import PATIENCE_S, WatchLoop
from federation.client.watch.policy import WatchSettings
from federation.client.watch.watch import PeerWatch
from federation.clock import MICROSECONDS, Clock
from federation.config import GatewayConfig
from federation.errors import FederationError, Reason, Refusal
from federation.sanitize import printable
from federation.store.peers import PeerRecord
from federation.telemetry.metrics import CacheReading, Remaining
from federation.telemetry.telemetry import Telemetry

if TYPE_CHECKING:
    from concurrent.futures import Future

    from federation.client.chain.flow import Flight

__all__ = ["ClientRuntime"]

LOGGER: Final = logging.getLogger(__name__)
DIALS: Final = 16
"""Watches that dial at the same time."""


class ClientRuntime:
    """Peers, response cache, circuits, connections and the background thread of one gateway's directory.

    `share` returns the one that the process has, so that a federation and a sync channel, or two of either, hit the
    same cache under the same instance id. The last `release` ends it.
    """

    def __init__(self, config: GatewayConfig, clock: Clock, telemetry: Telemetry | None) -> None:
        self.config, self.clock = config, clock
        self.cache: ResponseCache[Flight] = ResponseCache(
            clock, ttl_s=config.cache.ttl_s, max_bytes=config.cache.max_bytes
        )
        self.background = BackgroundLoop()
        self.peers = PeerRegistry(self, lambda dialer: PeerChannel(dialer, self.background))
        self.watches = WatchLoop(self.background, self.peers.all)
        self._gate = asyncio.Semaphore(DIALS)
        self.watch_settings = WatchSettings()
        """In force for peers that come after; whoever changes it does so first."""
        self.loaded = False
        self._telemetry = telemetry if config.telemetry.enabled else None
        metrics = self._telemetry.metrics if self._telemetry else None
        self._unregister_metrics = (
            (
                metrics.read_cache(self._cache_readings),
                metrics.read_circuits(self._circuit_states),
                metrics.read_watches(self._watch_states),
                metrics.read_certificates(self._certificates),
                metrics.read_renewals(self._renewals),
            )
            if metrics
            else ()
        )
        self._users = 0
        self.renewer: Renewer | None = None
        """Renews certificates on the background loop, once `renew` was called."""
        self._ending: Future[None] | None = None
        self._renewal_listeners: list[tuple[asyncio.AbstractEventLoop, OnRenewal]] = []
        fork.register(self)

    @classmethod
    def share(cls, config: GatewayConfig, clock: Clock, telemetry: Telemetry | None) -> "ClientRuntime":
        """Return the home of a directory, made at the first asking; its settings and clock are the first one's."""
        key = config.directory.resolve()
        with _LOCK:
            home = _HOMES.get(key)
            if home is None:
                home = _HOMES[key] = cls(config, clock, telemetry)
            home._users += 1
            return home

    def release(self) -> bool:
        """Count one user less. `True` for the last one, who must `end` the home."""
        key = self.config.directory.resolve()
        with _LOCK:
            self._users -= 1
            if self._users == 0 and _HOMES.get(key) is self:
                del _HOMES[key]
                return True
        return False

    def end(self) -> None:
        """Close every connection at once and end the background thread."""
        for unread in self._unregister_metrics:
            unread()
        ending = self._end_background()
        if ending is not None:
            with suppress(TimeoutError):
                ending.result(PATIENCE_S)
        for peer in self.peers.all():
            peer.end(refused(Refusal(Reason.PEER_UNREACHABLE, "the federation is closed")))
            peer.channel.kill()
        self.background.stop()

    async def ended(self) -> None:
        """Stop watches and renewals without blocking the running loop; `end` does the rest."""
        ending = self._end_background()
        if ending is not None:
            await asyncio.wait({asyncio.wrap_future(ending)}, timeout=PATIENCE_S)

    def renew(self, store: RenewalStore) -> None:
        """Keep certificates fresh on the background loop until the end; nothing where that is done already."""
        with _LOCK:
            if self.renewer is None:
                self.renewer = Renewer(
                    self.peers,
                    store,
                    directory=self.config.directory.absolute(),
                    gateway_name=self.config.name,
                    clock=self.clock,
                    on_renewal=self._tell_renewal,
                )
                self.background.post(self.renewer.start)

    def listen_to_renewals(self, loop: asyncio.AbstractEventLoop, listener: OnRenewal) -> Callable[[], None]:
        """Call `listener` on `loop` with each renewal that was due; return how to end that."""
        entry = (loop, listener)
        self._renewal_listeners.append(entry)
        return lambda: self._renewal_listeners.remove(entry)

    def before_fork(self) -> None:
        """Stop the watches for a moment."""
        self.watches.suspend()

    def after_fork_in_parent(self) -> None:
        """Start the watches again."""
        self.watches.resume()

    def after_fork_in_child(self) -> None:
        """Answer every call with an error that says so, and touch nothing of gRPC's."""
        text = "this process was forked from the one that opened the federation; open it again in this one"
        outcome = refused(Refusal(Reason.PEER_UNREACHABLE, text))
        for peer in self.peers.all():
            peer.abandon_after_fork(outcome)
            if peer.watch is not None:
                peer.watch.abandon_after_fork()
        self.renewer = None
        self.background = BackgroundLoop()
        self.watches.abandon_after_fork(self.background)

    def dialer(self, record: PeerRecord) -> Dialer:
        """Return how to dial with these credentials."""
        return EnrolledDialer(record, self.clock)

    def build_peer(self, peer: Peer) -> tuple[Interceptor, ...]:
        """Return the chain of a new peer, and set its circuit, cache, health and watch."""
        telemetry, settings = self._telemetry, self.config.telemetry
        metrics = telemetry.metrics if telemetry else None
        peer.circuit = CircuitBreaker(self.config.circuit)
        peer.cache = self.cache.partition(peer.record.id)
        peer.health = PeerHealth(self.clock)
        if self.config.client.watch:
            peer.watch = PeerWatch(
                peer,
                self.clock,
                self.watch_settings,
                lambda: self.cache.instance_id,
                post=self.background.post,
                gate=self._gate,
                heard=partial(metrics.watch_event, peer.name) if metrics else lambda _: None,
            )
        on_transition = partial(_rest_when_open, peer)
        return build_chain(
            tracing=TracingInterceptor(telemetry.spans, self.clock, metrics, hit_spans=settings.hit_spans)
            if telemetry
            else None,
            tagging=peer.tagging,
            caching=CachingInterceptor(peer.cache, self.clock, peer),
            breaking=BreakingInterceptor(peer.circuit, peer.health, self.clock, on_transition, metrics),
            propagation=PropagationInterceptor(lambda: self.cache.instance_id),
            rpc_spans=RpcSpansInterceptor(telemetry.tracer_provider) if telemetry and settings.rpc_spans else None,
        )

    def added(self, peer: Peer) -> None:
        """Watch a new peer."""
        self.watches.added(peer)

    def revoked(self, peer: Peer, reason: str) -> None:
        """Refuse every call to a peer that says it has revoked the grant, from here on and after a restart."""
        revocation = Revocation(self.clock.now_us(), printable(reason))
        if peer.settle(revocation):
            LOGGER.warning(
                "%s revoked the grant of %s: %s", peer.name, peer.user, revocation.reason or "no reason given"
            )
            self.watches.remember(peer)
            if peer.watch is not None:
                peer.watch.wake()

    def settled(self, peer: Peer) -> None:
        """Do what remains for a peer whose revocation neither its watch nor a call has brought."""
        if peer.cache is not None:
            cut(peer.cache.flush(InvalidationReason.GRANT_REVOKED, peer.grant_id))
        if peer.refusal is not None:
            peer.cut(peer.refusal)
        if peer.watch is not None:
            peer.watch.wake()

    def renewed(self, peer: Peer) -> None:
        """Keep nothing that was asked for with the old credentials, and move the watch to the new ones."""
        if peer.cache is not None:
            cut(peer.cache.flush(InvalidationReason.ROTATION))
        if peer.watch is not None:
            peer.watch.move()

    def drop(self, peer: Peer) -> None:
        """Let go of what `equip` made; the peer was removed."""
        self.watches.removed(peer)
        cut(self.cache.remove(peer.record.id))

    def _end_background(self) -> "Future[None] | None":
        if self._ending is None and self.background.running:
            self._ending = self.background.submit(self._stop())
        return self._ending

    async def _stop(self) -> None:
        if self.renewer is not None:
            await self.renewer.stop()
        await self.watches.end()

    def _tell_renewal(self, peer: Peer, fault: FederationError | None) -> None:
        for loop, listener in self._renewal_listeners.copy():
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(listener, peer, fault)

    def _cache_readings(self) -> Iterable[tuple[str, CacheReading]]:
        for peer in self.peers.all():
            if peer.cache is not None:
                stats = peer.cache.stats()
                flushes = {cause.value: count for cause, count in peer.cache.flushes().items()}
                yield peer.name, CacheReading(stats.hits, stats.misses, stats.bytes, flushes)

    def _circuit_states(self) -> Iterable[tuple[str, str]]:
        now = self.clock.monotonic()
        for peer in self.peers.all():
            if peer.circuit is not None:
                yield peer.name, peer.circuit.snapshot(now).state.value

    def _watch_states(self) -> Iterable[tuple[str, str]]:
        for peer in self.peers.all():
            if peer.watch is not None:
                yield peer.name, peer.watch.standing.state.value

    def _certificates(self) -> Iterable[tuple[str, Remaining]]:
        now_us = self.clock.now_us()
        for peer in self.peers.all():
            if peer.revocation is None:
                left_us = validity_of(peer.record.certificate_pem).not_after_us - now_us
                yield peer.name, Remaining("client", left_us / MICROSECONDS)

    def _renewals(self) -> Iterable[tuple[str, Mapping[str, int]]]:
        for peer in self.peers.all():
            if peer.renewal is not None:
                yield peer.name, peer.renewal.attempts.copy()


def _rest_when_open(peer: Peer, transition: Transition) -> None:
    """Give up the connections of a peer whose circuit opened: an idle channel would redial by itself."""
    if transition.after is CircuitState.OPEN:
        peer.channel.rest()
    if peer.watch is not None:
        peer.watch.wake()


_LOCK: Final = threading.Lock()
_HOMES: Final[dict[Path, ClientRuntime]] = {}


def _after_fork_in_child() -> None:
    _HOMES.clear()
    _LOCK.release()


os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_after_fork_in_child)
