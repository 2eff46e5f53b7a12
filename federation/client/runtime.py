"""Process-wide client runtime of one gateway directory: peers, cache, metrics, watches, renewer.

All `Federation`s and sync channels of the directory share it.
"""

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
from federation.cache.response_cache import ResponseCache
from federation.client import fork
from federation.client.chain.call_stats import PeerHealth
from federation.client.chain.chain import build_chain
from federation.client.chain.flow import Interceptor, refused
from federation.client.interceptors.breaking import BreakingInterceptor
from federation.client.interceptors.caching import CachingInterceptor, fail_in_flight
from federation.client.interceptors.propagation import PropagationInterceptor
from federation.client.interceptors.rpc_spans import RpcSpansInterceptor
from federation.client.interceptors.tracing import TracingInterceptor
from federation.client.peers.peer import Peer, Revocation
from federation.client.peers.registry import PeerRegistry
from federation.client.peers.store import PeerRepository
from federation.client.renewer import OnRenewal, Renewer, validity_of
from federation.client.transport.background_loop import BackgroundLoop
from federation.client.transport.connections import Dialer, PeerChannel
from federation.client.transport.credentials import EnrolledDialer
from federation.client.watch.loops import STOP_TIMEOUT_S, WatchLoop
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

LOGGER: Final = logging.getLogger(__name__)
DIALS: Final = 16
"""Number of watches that dial at the same time."""


class ClientRuntime:
    """Peers, response cache, circuits, connections and the background thread of one gateway's directory.

    `share` returns the one runtime of the process, so that a federation and a sync channel, or two of either, hit the
    same cache under the same instance id. The last `release` requires a `close`.
    """

    def __init__(self, config: GatewayConfig, clock: Clock, telemetry: Telemetry | None) -> None:
        self.config, self.clock = config, clock
        self._directory = config.directory.resolve()  # now: a program may change its working directory
        self.cache: ResponseCache[Flight] = ResponseCache(
            clock, ttl_s=config.cache.ttl_s, max_bytes=config.cache.max_bytes
        )
        self.background = BackgroundLoop()
        self.peers = PeerRegistry(self, lambda dialer: PeerChannel(dialer, self.background))
        self.store = PeerRepository(config, clock)
        """Used on the background loop."""
        self.watches = WatchLoop(self.background, self.peers.all, self.store)
        self._gate = asyncio.Semaphore(DIALS)
        self.watch_settings = WatchSettings()
        """Used for peers that are added later; set it before adding peers."""
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
        """Renews certificates on the background loop, once `start_renewer` was called."""
        self._ending: Future[None] | None = None
        self._renewal_listeners: list[tuple[asyncio.AbstractEventLoop, OnRenewal]] = []
        fork.register(self)

    @classmethod
    def share(cls, config: GatewayConfig, clock: Clock, telemetry: Telemetry | None) -> "ClientRuntime":
        """Return the runtime of a directory, created by the first call with that call's settings and clock."""
        directory = config.directory.resolve()
        with _LOCK:
            runtime = _RUNTIMES.get(directory)
            if runtime is None:
                runtime = _RUNTIMES[directory] = cls(config, clock, telemetry)
            runtime._users += 1
            return runtime

    def release(self) -> bool:
        """Remove a user of the runtime. `True` for the last one, which must `close` it."""
        with _LOCK:
            self._users -= 1
            if self._users == 0 and _RUNTIMES.get(self._directory) is self:
                del _RUNTIMES[self._directory]
                return True
        return False

    def close(self) -> None:
        """Close every connection at once and end the background thread."""
        for unregister in self._unregister_metrics:
            unregister()
        ending = self._end_background()
        if ending is not None:
            with suppress(TimeoutError):
                ending.result(STOP_TIMEOUT_S)
        for peer in self.peers.all():
            peer.close(refused(Refusal(Reason.PEER_UNREACHABLE, "the federation is closed")))
            peer.channel.close()
        self.background.stop()

    async def stop_background(self) -> None:
        """Stop watches and renewals without blocking the running loop; `close` does the rest."""
        ending = self._end_background()
        if ending is not None:
            await asyncio.wait({asyncio.wrap_future(ending)}, timeout=STOP_TIMEOUT_S)

    def start_renewer(self) -> None:
        """Renew certificates on the background loop until the end; do nothing if a renewer runs already."""
        with _LOCK:
            if self.renewer is None:
                self.renewer = Renewer(
                    self.peers,
                    self.store,
                    directory=self._directory,
                    gateway_name=self.config.name,
                    clock=self.clock,
                    on_renewal=self._notify_renewal,
                )
                self.background.post(self.renewer.start)

    def listen_to_renewals(self, loop: asyncio.AbstractEventLoop, listener: OnRenewal) -> Callable[[], None]:
        """Call `listener` on `loop` for each renewal that was due; return how to remove it."""
        entry = (loop, listener)
        self._renewal_listeners.append(entry)
        return lambda: self._renewal_listeners.remove(entry)

    def before_fork(self) -> None:
        """Suspend the watches."""
        self.watches.suspend()

    def after_fork_in_parent(self) -> None:
        """Resume the watches."""
        self.watches.resume()

    def after_fork_in_child(self) -> None:
        """Answer every call with an error that names the fork, without touching gRPC's objects."""
        text = "this process was forked after the federation was opened; open the federation again in this process"
        outcome = refused(Refusal(Reason.PEER_UNREACHABLE, text))
        for peer in self.peers.all():
            peer.abandon_after_fork(outcome)
            if peer.watch is not None:
                peer.watch.abandon_after_fork()
        self.renewer = None
        self.background, self.store = BackgroundLoop(), PeerRepository(self.config, self.clock)
        self.watches = WatchLoop(self.background, self.peers.all, self.store)

    def dialer(self, record: PeerRecord) -> Dialer:
        """Return the dialer for these credentials."""
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
                on_event=partial(metrics.watch_event, peer.name) if metrics else lambda _: None,
            )
        on_transition = partial(_disconnect_when_open, peer)
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

    def on_added(self, peer: Peer) -> None:
        """Watch a new peer."""
        self.watches.on_added(peer)

    def on_revoked(self, peer: Peer, reason: str) -> None:
        """Refuse every call to a peer that revoked the grant, from now on and after a restart."""
        revocation = Revocation(self.clock.now_us(), printable(reason))
        if peer.mark_revoked(revocation):
            LOGGER.warning(
                "%s revoked the grant of %s: %s", peer.name, peer.user, revocation.reason or "no reason given"
            )
            self.watches.save_revocation(peer, revocation)
            if peer.watch is not None:
                peer.watch.wake()

    def on_removed(self, peer: Peer) -> None:
        """Release what `build_peer` made; the peer was removed."""
        self.watches.on_removed(peer)
        fail_in_flight(self.cache.remove(peer.record.id))

    def _end_background(self) -> "Future[None] | None":
        if self._ending is None and self.background.running:
            self._ending = self.background.submit(self._stop())
        return self._ending

    async def _stop(self) -> None:
        if self.renewer is not None:
            await self.renewer.stop()
        await self.watches.stop()

    def _notify_renewal(self, peer: Peer, error: FederationError | None) -> None:
        for loop, listener in self._renewal_listeners.copy():
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(listener, peer, error)

    def _cache_readings(self) -> Iterable[tuple[str, CacheReading]]:
        for peer in self.peers.all():
            stats = peer.cache.stats()
            flushes = {reason.value: count for reason, count in peer.cache.flushes().items()}
            yield peer.name, CacheReading(stats.hits, stats.misses, stats.bytes, flushes)

    def _circuit_states(self) -> Iterable[tuple[str, str]]:
        now = self.clock.monotonic()
        for peer in self.peers.all():
            yield peer.name, peer.circuit.snapshot(now).state.value

    def _watch_states(self) -> Iterable[tuple[str, str]]:
        for peer in self.peers.all():
            if peer.watch is not None:
                yield peer.name, peer.watch.status.state.value

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


def _disconnect_when_open(peer: Peer, transition: Transition) -> None:
    """Disconnect a peer whose circuit opened: an idle channel would redial by itself."""
    if transition.after is CircuitState.OPEN:
        peer.channel.disconnect()
    if peer.watch is not None:
        peer.watch.wake()


_LOCK: Final = threading.Lock()
_RUNTIMES: Final[dict[Path, ClientRuntime]] = {}


def _after_fork_in_child() -> None:
    _RUNTIMES.clear()
    _LOCK.release()


os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_after_fork_in_child)
