"""The watches of one gateway directory, on the background loop of its runtime, and the stores of revocations."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from federation.client.peers.peer import Peer
from federation.client.transport.background_loop import BackgroundLoop
from federation.errors import FederationError

if TYPE_CHECKING:
    from concurrent.futures import Future

LOGGER: Final = logging.getLogger(__name__)
SUSPEND_TIMEOUT_S: Final = 1.0
"""Seconds that a fork waits for the streams to end."""
STOP_TIMEOUT_S: Final = 5.0
"""Seconds to wait for the end of the watches, and for revocations that are being stored."""


class RevocationStore(Protocol):
    """The store of received revocations; a `PeerStore` is one."""

    async def revoke(self, peer_id: str, at_us: int, reason: str) -> None:
        """Store that the peer has revoked the grant. Raises `FederationError`."""
        ...


class WatchLoop:
    """Starts and stops the watches of a directory's peers. Thread-safe.

    From the first `watch_all` until `stop`, the watches of all peers run; otherwise only those of `watch_peer`.
    """

    def __init__(self, background: BackgroundLoop, peers: Callable[[], Iterable[Peer]]) -> None:
        self._background, self._peers = background, peers
        self._all = False
        self._watched: set[Peer] = set()
        self._stores: list[tuple[asyncio.AbstractEventLoop, RevocationStore]] = []
        self._saves: set[Future[None]] = set()

    def watch_all(self, loop: asyncio.AbstractEventLoop, store: RevocationStore) -> None:
        """Watch every peer, also those added later. `store` stores revocations, and runs on `loop`."""
        self._all = True
        self._stores.insert(0, (loop, store))
        self._start()

    async def remove_store(self, loop: asyncio.AbstractEventLoop, store: RevocationStore) -> None:
        """Remove a store of `watch_all`, and wait for revocations that are being stored."""
        self._stores.remove((loop, store))
        await self._saved()

    def watch_peer(self, peer: Peer, store: RevocationStore | None) -> None:
        """Watch one peer. `store` stores revocations, and runs on the background loop."""
        self._watched.add(peer)
        loop = self._background.loop()
        if loop is not None and store is not None:
            self._stores.append((loop, store))
        self._start()

    def on_added(self, peer: Peer) -> None:
        """Watch a new peer if all are watched."""
        if self._all and peer.watch is not None:
            peer.watch.start()

    def on_removed(self, peer: Peer) -> None:
        """Stop watching a removed peer."""
        self._watched.discard(peer)
        if peer.watch is not None:
            peer.watch.cancel()

    def save_revocation(self, peer: Peer) -> None:
        """Store the peer's revocation in the background, in the first store whose loop has not ended."""
        for loop, store in self._stores.copy():
            saving = _save(store, peer)
            try:
                future = asyncio.run_coroutine_threadsafe(saving, loop)
            except RuntimeError:  # the loop has ended
                saving.close()
                continue
            self._saves.add(future)
            future.add_done_callback(self._saves.discard)
            return

    async def stop(self) -> None:
        """Stop every watch, and wait for revocations that are being stored. Call this on the background loop."""
        self._all = False
        self._watched.clear()
        await self._stop()
        await self._saved()

    def suspend(self) -> None:
        """Stop every watch before a fork, until `resume`.

        gRPC's fork handlers restart its threads in the child, where they fail on an asyncio stream that is open. A
        fork in the background thread itself cannot wait for the streams.
        """
        if self._background.running and not self._background.is_current():
            with suppress(TimeoutError):
                self._background.submit(self._stop()).result(SUSPEND_TIMEOUT_S)

    def resume(self) -> None:
        """Start the watches that `suspend` stopped, in the parent after a fork."""
        self._start()

    def abandon_after_fork(self, background: BackgroundLoop) -> None:
        """Drop all state in a forked child: loops, watches and stores are the parent's."""
        self._background = background
        self._all = False
        self._watched, self._stores, self._saves = set(), [], set()

    def _start(self) -> None:
        for peer in self._peers():
            if peer.watch is not None and (self._all or peer in self._watched):
                peer.watch.start()

    async def _stop(self) -> None:
        peers = list(self._peers())
        await asyncio.gather(*(peer.watch.stop() for peer in peers if peer.watch is not None))
        await asyncio.gather(*(peer.channel.wait_closed() for peer in peers))

    async def _saved(self) -> None:
        saves = [asyncio.wrap_future(save) for save in self._saves.copy()]
        if saves:
            await asyncio.wait(saves, timeout=STOP_TIMEOUT_S)


async def _save(store: RevocationStore, peer: Peer) -> None:
    revocation = peer.revocation
    if revocation is None:
        return
    try:
        await store.revoke(peer.record.id, revocation.at_us, revocation.reason)
    except FederationError as e:
        LOGGER.warning("the revocation by %s is in force, but could not be stored: %s", peer.name, e)
