"""The peer repository: the enrollments in a gateway's database, for any loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from federation.aio import run_to_completion
from federation.clock import SYSTEM_CLOCK, Clock
from federation.config import GatewayConfig
from federation.pki.sealing import Sealer
from federation.store.database import Database
from federation.store.peers import PeerRecord, PeerStore, PendingRenewal, Versions

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")
REMOVAL_TIMEOUT_S: Final = 5.0
"""Seconds to wait for the calls of a store that is removed."""


class PeerSource(Protocol):
    """The source of a gateway's peer records; `PeerStore` implements it."""

    async def all(self) -> tuple[PeerRecord, ...]:
        """Return every peer."""
        ...

    async def revoke(self, peer_id: str, at_us: int, reason: str) -> None:
        """Record that a peer has revoked its grant."""
        ...


class PeerRepository:
    """The methods of a `PeerStore`, on any loop. Every method raises `StoreError` or `SealError`.

    A call uses a store that is open already (`add_store`), on that store's loop while the loop runs; without one, it
    opens the database for itself. A cancelled call first runs to its end: a loop that ends next must not leave the
    database's thread behind.
    """

    def __init__(self, config: GatewayConfig, clock: Clock = SYSTEM_CLOCK) -> None:
        # Absolute, because a program may change its working directory.
        self._directory, self._url, self._clock = config.directory.absolute(), config.database_url, clock
        self._migrated = False
        self._open_stores: list[tuple[asyncio.AbstractEventLoop, PeerSource]] = []
        self._running: set[Future[Any]] = set()

    def add_store(self, loop: asyncio.AbstractEventLoop, store: PeerSource) -> None:
        """Use an open store until `remove_store`. A source that is no `PeerStore` is used for revocations only."""
        self._open_stores.insert(0, (loop, store))

    async def remove_store(self, loop: asyncio.AbstractEventLoop, store: PeerSource) -> None:
        """Use a store of `add_store` no longer, and wait for the calls that use it."""
        with suppress(ValueError):  # it was never added
            self._open_stores.remove((loop, store))
        running = [asyncio.wrap_future(call) for call in self._running.copy()]
        if running:
            await asyncio.wait(running, timeout=REMOVAL_TIMEOUT_S)

    async def all(self) -> tuple[PeerRecord, ...]:
        """Return every peer."""
        return await self._do(lambda store: store.all())

    async def get(self, peer_id: str) -> PeerRecord | None:
        """Return one peer by its id."""
        return await self._do(lambda store: store.get(peer_id))

    async def versions(self) -> Versions:
        """Return a value that differs if `all` would return something else than before."""
        return await self._do(lambda store: store.versions())

    async def revoke(self, peer_id: str, at_us: int, reason: str) -> None:
        """Store that a peer has revoked its grant."""
        await self._do(lambda store: store.revoke(peer_id, at_us, reason), object)

    async def pending_renewal(self, peer_id: str, make: Callable[[], PendingRenewal]) -> PendingRenewal:
        """Return the key and request of a renewal in progress; create and store them if there are none."""
        return await self._do(lambda store: store.pending_renewal(peer_id, make))

    async def renew(self, record: PeerRecord, *, replaces: str) -> None:
        """Store a peer's new certificate and key."""
        await self._do(lambda store: store.renew(record, replaces=replaces))

    async def _do(self, work: Callable[[Any], Coroutine[Any, Any, T]], kind: type = PeerStore) -> T:
        return await run_to_completion(self._within(work, kind))

    async def _within(self, work: Callable[[Any], Coroutine[Any, Any, T]], kind: type) -> T:
        call = self._on_open_store(work, kind)
        if call is not None:
            try:
                return await asyncio.wrap_future(call)
            except asyncio.CancelledError:  # this task was cancelled, or the store's loop ended and cancelled the call
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
        async with self._opened() as store:
            return await work(store)

    def _on_open_store(self, work: Callable[[Any], Coroutine[Any, Any, T]], kind: type) -> "Future[T] | None":
        for loop, store in self._open_stores.copy():
            if isinstance(store, kind) and loop.is_running():
                coroutine = work(store)
                try:
                    call = asyncio.run_coroutine_threadsafe(coroutine, loop)
                except RuntimeError:  # the loop has ended
                    coroutine.close()
                    continue
                self._running.add(call)
                call.add_done_callback(self._running.discard)
                return call
        return None

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[PeerStore]:
        sealer = Sealer.load(self._directory)
        database = Database.attach(self._url) if self._migrated else await Database.open(self._url, new=False)
        self._migrated = True
        try:
            yield PeerStore(database, sealer, self._clock)
        finally:
            await database.close()
