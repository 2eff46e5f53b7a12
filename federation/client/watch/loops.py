"""The watches of one gateway directory, on the background loop of its runtime."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from federation.client.peers.peer import Peer, Revocation
from federation.client.peers.store import PeerRepository
from federation.client.transport.background_loop import BackgroundLoop
from federation.errors import FederationError

if TYPE_CHECKING:
    from concurrent.futures import Future

LOGGER: Final = logging.getLogger(__name__)
SUSPEND_TIMEOUT_S: Final = 1.0
"""Seconds that a fork waits for the streams to end."""
STOP_TIMEOUT_S: Final = 5.0
"""Seconds to wait for the end of the watches, and for revocations that are being stored."""


class WatchLoop:
    """Starts and stops the watches of a directory's peers, and stores the revocations. Thread-safe.

    From the first `watch_all` until `stop`, the watches of all peers run; otherwise only those of `watch_peer`.
    """

    def __init__(self, background: BackgroundLoop, peers: Callable[[], Iterable[Peer]], store: PeerRepository) -> None:
        self._background, self._peers, self._store = background, peers, store
        self._all = False
        self._watched: set[Peer] = set()
        self._saves: set[Future[None]] = set()

    def watch_all(self) -> None:
        """Watch every peer, also those added later."""
        self._all = True
        self.resume()

    def watch_peer(self, peer: Peer) -> None:
        """Watch one peer."""
        self._watched.add(peer)
        self.resume()

    def on_added(self, peer: Peer) -> None:
        """Watch a new peer if all are watched."""
        if self._all and peer.watch is not None:
            peer.watch.start()

    def on_removed(self, peer: Peer) -> None:
        """Stop watching a removed peer."""
        self._watched.discard(peer)
        if peer.watch is not None:
            peer.watch.cancel()

    def save_revocation(self, peer: Peer, revocation: Revocation) -> None:
        """Store the peer's revocation in the background."""
        with suppress(RuntimeError):  # the background loop has been stopped
            save = self._background.submit(self._save(peer, revocation))
            self._saves.add(save)
            save.add_done_callback(self._saves.discard)

    async def stop(self) -> None:
        """Stop every watch, and wait for revocations that are being stored. Call this on the background loop."""
        self._all = False
        self._watched.clear()
        await self._stop()
        saves = [asyncio.wrap_future(save) for save in self._saves.copy()]
        if saves:
            await asyncio.wait(saves, timeout=STOP_TIMEOUT_S)

    def suspend(self) -> None:
        """Stop every watch before a fork, until `resume`.

        gRPC's fork handlers restart its threads in the child, where they fail on an asyncio stream that is open. A
        fork in the background thread itself cannot wait for the streams.
        """
        if self._background.running and not self._background.is_current():
            with suppress(TimeoutError):
                self._background.submit(self._stop()).result(SUSPEND_TIMEOUT_S)

    def resume(self) -> None:
        """Start the watches that do not run, also after `suspend`."""
        for peer in self._peers():
            if peer.watch is not None and (self._all or peer in self._watched):
                peer.watch.start()

    async def _stop(self) -> None:
        peers = list(self._peers())
        await asyncio.gather(*(peer.watch.stop() for peer in peers if peer.watch is not None))
        await asyncio.gather(*(peer.channel.wait_closed() for peer in peers))

    async def _save(self, peer: Peer, revocation: Revocation) -> None:
        try:
            await self._store.revoke(peer.record.id, revocation.at_us, revocation.reason)
        except FederationError as e:
            LOGGER.warning("the revocation by %s is in force, but could not be stored: %s", peer.name, e)
