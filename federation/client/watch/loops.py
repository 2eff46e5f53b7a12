"""Where watches run: on the loop of a federation that is open, or in the background thread for threads alone."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

from federation.client.transport.background_loop import BackgroundLoop
from federation.errors import FederationError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from federation.client.peers.registry import Peer
    from federation.client.watch.watch import PeerWatch

__all__ = ["Host", "RevocationStore", "WatchHosts"]

LOGGER: Final = logging.getLogger(__name__)
DIALS: Final = 16
"""Watches that one host dials at the same time."""
PARKING_S: Final = 1.0
"""How long a fork may be held up by streams that end."""
PATIENCE_S: Final = 5.0
"""How long an ending host waits for its watches and for what it has to store."""


class RevocationStore(Protocol):
    """Where a revocation that was heard is remembered; a `PeerStore` is one."""

    async def revoke(self, peer_id: str, at_us: int, reason: str) -> None:
        """Remember that the peer has revoked the grant; raise `FederationError`."""
        ...


class Host:
    """One loop with the watches that run on it, and the store that may be used there. Any thread may hold it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, store: RevocationStore | None, lost: "Callable[[Host], None]"
    ) -> None:
        self.loop, self.store, self.lost = loop, store, lost
        self.users = 0
        self.thread = 0
        """The thread in which the loop was last seen to run."""
        self.gate = asyncio.Semaphore(DIALS)
        self.watches: set[PeerWatch] = set()
        self._saves: set[Future[None]] = set()

    @property
    def alive(self) -> bool:
        """Whether the loop can run anything still."""
        return not self.loop.is_closed()

    def post(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a quick function on the loop; a loop that has ended calls nothing."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function, *arguments)

    def remember(self, peer: "Peer") -> None:
        """Store the peer's revocation in the background."""
        revocation = peer.revocation
        if self.store is None or revocation is None:
            return
        saving = self._save(self.store.revoke(peer.record.id, revocation.at_us, revocation.reason), peer.name)
        try:
            future = asyncio.run_coroutine_threadsafe(saving, self.loop)
        except RuntimeError:  # the loop has ended; the peer will say it again
            saving.close()
            return
        self._saves.add(future)
        future.add_done_callback(self._saves.discard)

    async def end(self) -> None:
        """Give up every watch, and wait for what is being stored. Call this on the loop."""
        watches = self.watches.copy()
        await asyncio.gather(*(watch.end() for watch in watches))
        await asyncio.gather(*(watch.disconnected() for watch in watches))
        saves = [asyncio.wrap_future(save) for save in self._saves.copy()]
        if saves:
            await asyncio.wait(saves, timeout=PATIENCE_S)

    async def _save(self, saving: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await saving
        except FederationError as e:
            LOGGER.warning("the revocation by %s stands, but is not stored: %s", name, e)


class WatchHosts:
    """Every host of one gateway's watches in this process. A peer's watch runs on one of them at a time."""

    def __init__(self, background: BackgroundLoop, peers: Callable[[], Iterable["Peer"]]) -> None:
        self._background, self._peers = background, peers
        self._lock = threading.RLock()
        self._hosts: list[Host] = []
        self._threads: Host | None = None
        self._followed: set[Peer] = set()

    def join(self, loop: asyncio.AbstractEventLoop, store: RevocationStore | None) -> Host:
        """Watch every peer, those that come later too, until each that joined has left."""
        with self._lock:
            host = next((host for host in self._hosts if host.loop is loop), None)
            if host is None:
                host = Host(loop, store, self.lost)
                self._hosts.append(host)
            host.users += 1
        for peer in self._peers():
            _begin(peer, host)
        return host

    async def leave(self, host: Host) -> None:
        """Count one user less; the last one's leaving gives the host's watches to another, or up."""
        with self._lock:
            host.users -= 1
            if host.users:
                return
            if host in self._hosts:
                self._hosts.remove(host)
        await _ended(host)
        self._rehost()

    def follow(self, peer: "Peer", store: RevocationStore | None) -> None:
        """Watch one peer for threads, until `end`."""
        with self._lock:
            self._followed.add(peer)
            host = self._aio()
            if host is None:
                host = self._in_background(store)
        if host is not None:
            _begin(peer, host)

    def added(self, peer: "Peer") -> None:
        """Watch a new peer if all are watched."""
        host = self._aio()
        if host is not None:
            _begin(peer, host)

    def removed(self, peer: "Peer") -> None:
        """Watch a peer no longer."""
        with self._lock:
            self._followed.discard(peer)
        if peer.watch is not None:
            peer.watch.dismiss()

    def remember(self, peer: "Peer") -> None:
        """Store that a peer has revoked its grant, wherever that can be done."""
        host = (peer.watch.host if peer.watch is not None else None) or self._aio() or self._threads
        if host is not None:
            host.remember(peer)

    def lost(self, host: Host) -> None:
        """Hear that a host's loop ended without a word: its watches go to another."""
        with self._lock:
            if host in self._hosts:
                self._hosts.remove(host)
        self._rehost()

    def end(self) -> None:
        """Give up what runs in the background thread. Not to be called in that thread."""
        with self._lock:
            host, self._threads = self._threads, None
            self._followed.clear()
        if host is not None and self._background.running:
            with suppress(TimeoutError):
                self._background.submit(host.end()).result(PATIENCE_S)

    def suspend(self) -> None:
        """Give every stream up for a moment, before a fork, where another thread's loop holds it.

        gRPC's handlers bring its threads back to life in the child, where they stumble over a stream of asyncio that is
        under way. A fork in the loop's own thread cannot wait for its streams, and is left to gRPC.
        """
        with self._lock:
            hosts = [host for host in (*self._hosts, self._threads) if host is not None and host.watches]
        for host in hosts:
            if host.alive and host.loop.is_running() and host.thread != threading.get_ident():
                with suppress(TimeoutError, RuntimeError):
                    asyncio.run_coroutine_threadsafe(host.end(), host.loop).result(PARKING_S)

    def resume(self) -> None:
        """Arm again what was parked: the fork is done, and this is the parent."""
        self._rehost()

    def abandon_after_fork(self, background: BackgroundLoop) -> None:
        """Forget every host: this is a forked child, and they are the parent's."""
        self._background = background
        self._lock = threading.RLock()
        self._hosts, self._threads, self._followed = [], None, set()

    def _aio(self) -> Host | None:
        with self._lock:
            self._hosts = [host for host in self._hosts if host.alive]
            return self._hosts[0] if self._hosts else None

    def _in_background(self, store: RevocationStore | None) -> Host | None:
        if self._threads is None:
            loop = self._background.loop()
            self._threads = None if loop is None else Host(loop, store, self.lost)
        return self._threads

    def _rehost(self) -> None:
        host = self._aio()
        if host is not None:
            for peer in self._peers():
                _begin(peer, host)
            return
        for peer in self._followed.copy():
            self.follow(peer, self._threads.store if self._threads else None)


def _begin(peer: "Peer", host: Host) -> None:
    if peer.watch is not None:
        peer.watch.begin(host)


async def _ended(host: Host) -> None:
    if host.loop is asyncio.get_running_loop():
        await host.end()
    elif host.loop.is_running():
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(host.end(), host.loop))
