"""One taking back as those see it who wait for it: durable, its progress, its receipt."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from federation.server.revocation.leases import PendingRevocation, Release
from federation.store.receipts import Receipt

__all__ = ["RevocationHandle"]


class RevocationHandle:
    """Something that is being taken back, or was. Whoever waits may go away; the work goes on."""

    def __init__(self, begun: Receipt, withdrawal: PendingRevocation | None = None) -> None:
        self.begun = begun
        """The receipt as far as it was known at the beginning."""
        self._withdrawal = withdrawal
        if withdrawal is not None:
            withdrawal.changed = self._ring
        self._news = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._durable: asyncio.Future[None] = loop.create_future()
        self._done: asyncio.Future[Receipt] = loop.create_future()
        for future in (self._durable, self._done):
            future.add_done_callback(_looked_at)

    @classmethod
    def over(cls, receipt: Receipt) -> "RevocationHandle":
        """Return what was over before."""
        taking = cls(receipt)
        taking.now_durable()
        taking.finish(receipt)
        return taking

    @property
    def instances(self) -> tuple[Release, ...]:
        """Everyone that was awaited, as they stand now."""
        return self._withdrawal.instances if self._withdrawal else ()

    async def durable(self) -> None:
        """Wait until a restart would remember. Raises `StoreError` where the write failed; the refusal stands."""
        await asyncio.shield(self._durable)

    async def receipt(self) -> Receipt:
        """Wait for the receipt. Raises `StoreError` where a write failed, `ConflictError` where the gateway stops."""
        return await asyncio.shield(self._done)

    async def follow(self) -> AsyncIterator[tuple[Release, ...]]:
        """Yield everyone as they stand, now and whenever somebody was released, until there is no more to tell."""
        while not self._done.done():
            news = self._news
            yield self.instances
            bell = asyncio.create_task(news.wait())
            try:
                await asyncio.wait((bell, self._done), return_when=asyncio.FIRST_COMPLETED)
            finally:
                bell.cancel()

    async def next_news(self, timeout_s: float) -> None:
        """Wait until somebody was released, but no longer than that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()

    def _ring(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def now_durable(self) -> None:
        """Say that a restart would remember."""
        self._durable.set_result(None)

    def finish(self, receipt: Receipt) -> None:
        """Say that it is over."""
        self._done.set_result(receipt)

    def fail(self, fault: Exception) -> None:
        """Say that it goes no further in this process."""
        for future in (self._durable, self._done):
            if not future.done():
                future.set_exception(fault)


def _looked_at(future: asyncio.Future[Any]) -> None:
    """Keep asyncio from complaining where nobody waits any more."""
    if not future.cancelled():
        future.exception()
