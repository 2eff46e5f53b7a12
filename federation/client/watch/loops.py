"""The watches of one gateway directory, all on the background loop of its runtime, and where revocations are stored."""

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

__all__ = ["PATIENCE_S", "RevocationStore", "WatchLoop"]

LOGGER: Final = logging.getLogger(__name__)
PARKING_S: Final = 1.0
"""Seconds that a fork waits for the streams to end."""
PATIENCE_S: Final = 5.0
"""Seconds to wait for the end of the watches, and for revocations that are being stored."""


class RevocationStore(Protocol):
    """Where a revocation that was heard is remembered; a `PeerStore` is one."""

    async def revoke(self, peer_id: str, at_us: int, reason: str) -> None:
        """Remember that the peer has revoked the grant; raise `FederationError`."""
        ...


class WatchLoop:
    """Starts and stops the watches of a directory's peers. Any thread may call it.

    The watches of all peers run while a federation has joined, and until `end`; without one, those of followed peers.
    """

    def __init__(self, background: BackgroundLoop, peers: Callable[[], Iterable[Peer]]) -> None:
        self._background, self._peers = background, peers
        self._all = False
        self._followed: set[Peer] = set()
        self._stores: list[tuple[asyncio.AbstractEventLoop, RevocationStore]] = []
        self._saves: set[Future[None]] = set()

    def join(self, loop: asyncio.AbstractEventLoop, store: RevocationStore) -> None:
        """Watch every peer, those that come later too. `store` remembers revocations, and runs on `loop`."""
        self._all = True
        self._stores.insert(0, (loop, store))
        self._begin()

    async def leave(self, loop: asyncio.AbstractEventLoop, store: RevocationStore) -> None:
        """Use a store of `join` no more, and wait for what is being stored."""
        self._stores.remove((loop, store))
        await self._saved()

    def follow(self, peer: Peer, store: RevocationStore | None) -> None:
        """Watch one peer. `store` remembers revocations, and runs on the background loop."""
        self._followed.add(peer)
        loop = self._background.loop()
        if loop is not None and store is not None:
            self._stores.append((loop, store))
        self._begin()

    def added(self, peer: Peer) -> None:
        """Watch a new peer if all are watched."""
        if self._all and peer.watch is not None:
            peer.watch.begin()

    def removed(self, peer: Peer) -> None:
        """Watch a peer no longer."""
        self._followed.discard(peer)
        if peer.watch is not None:
            peer.watch.dismiss()

    def remember(self, peer: Peer) -> None:
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

    async def end(self) -> None:
        """Stop every watch, and wait for what is being stored. Call this on the background loop."""
        self._all = False
        self._followed.clear()
        await self._stop()
        await self._saved()

    def suspend(self) -> None:
        """Stop every watch for a moment before a fork.

        gRPC's fork handlers restart its threads in the child, where they fail on an asyncio stream that is open. A fork
        in the background thread itself cannot wait for the streams.
        """
        if self._background.running and not self._background.is_current():
            with suppress(TimeoutError):
                self._background.submit(self._stop()).result(PARKING_S)

    def resume(self) -> None:
        """Start again what `park` stopped: the fork is done, and this is the parent."""
        self._begin()

    def abandon_after_fork(self, background: BackgroundLoop) -> None:
        """Forget everything in a forked child: loops, watches and stores are the parent's."""
        self._background = background
        self._all = False
        self._followed, self._stores, self._saves = set(), [], set()

    def _begin(self) -> None:
        for peer in self._peers():
            if peer.watch is not None and (self._all or peer in self._followed):
                peer.watch.begin()

    async def _stop(self) -> None:
        peers = list(self._peers())
        await asyncio.gather(*(peer.watch.end() for peer in peers if peer.watch is not None))
        await asyncio.gather(*(peer.channel.closed() for peer in peers))

    async def _saved(self) -> None:
        saves = [asyncio.wrap_future(save) for save in self._saves.copy()]
        if saves:
            await asyncio.wait(saves, timeout=PATIENCE_S)


async def _save(store: RevocationStore, peer: Peer) -> None:
    revocation = peer.revocation
    if revocation is None:
        return
    try:
        await store.revoke(peer.record.id, revocation.at_us, revocation.reason)
    except FederationError as e:
        LOGGER.warning("the revocation by %s stands, but is not stored: %s", peer.name, e)
