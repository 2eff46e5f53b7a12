"""The peer repository: the enrollments in a gateway's database, opened for each call, on any loop."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from federation.aio import run_to_completion
from federation.clock import SYSTEM_CLOCK, Clock
from federation.config import GatewayConfig
from federation.pki.sealing import Sealer
from federation.store.database import Database
from federation.store.peers import PeerRecord, PeerStore, PendingRenewal, Versions

T = TypeVar("T")


class PeerRepository:
    """A `PeerStore` that opens the database for each call. Every method raises `StoreError` or `SealError`.

    A cancelled call first runs to its end: a loop that ends next must not leave the database's thread behind.
    """

    def __init__(self, config: GatewayConfig, clock: Clock = SYSTEM_CLOCK) -> None:
        self._config, self._clock = config, clock
        self._migrated = False

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
        await self._do(lambda store: store.revoke(peer_id, at_us, reason))

    async def pending_renewal(self, peer_id: str, make: Callable[[], PendingRenewal]) -> PendingRenewal:
        """Return the key and request of a renewal in progress; create and store them if there are none."""
        return await self._do(lambda store: store.pending_renewal(peer_id, make))

    async def renew(self, record: PeerRecord, *, replaces: str) -> None:
        """Store a peer's new certificate and key."""
        await self._do(lambda store: store.renew(record, replaces=replaces))

    async def _do(self, work: Callable[[PeerStore], Awaitable[T]]) -> T:
        return await run_to_completion(self._within(work))

    async def _within(self, work: Callable[[PeerStore], Awaitable[T]]) -> T:
        async with self._opened() as store:
            return await work(store)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[PeerStore]:
        sealer = Sealer.load(self._config.directory)
        url = self._config.database_url
        database = Database.attach(url) if self._migrated else await Database.open(url, new=False)
        self._migrated = True
        try:
            yield PeerStore(database, sealer, self._clock)
        finally:
            await database.close()
