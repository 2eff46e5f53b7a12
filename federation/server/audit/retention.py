"""Moves what is old out of the audit table into files: whole days, in small batches, off the request path.

A crash at any point loses nothing and doubles nothing. A day's file is complete on the disk before the database forgets
the first of its rows; where only some were forgotten, the next attempt writes the file anew from the file and the rest,
and forgets the rest. Until then a reader of both sees such rows once.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from federation.aio import run_to_completion
from federation.clock import Clock
from federation.errors import FederationError
from federation.store.audit.archive import DAY_US, AuditFiles, DayWriter, day_of, day_window
from federation.store.audit.table import AuditStore

if TYPE_CHECKING:
    from federation.store.audit.model import Position

__all__ = ["AuditRetention"]

LOGGER: Final = logging.getLogger(__name__)
EVERY_S: Final = 900.0
BATCH: Final = 500
PAUSE_S: Final = 0.01
"""Between two batches: whoever serves goes first."""


class AuditRetention:
    """The chore of the one process that serves.

    `retention_days` is how many whole days stay in the database; 0: everything does, and nothing is moved.
    """

    def __init__(self, store: AuditStore, files: AuditFiles, clock: Clock, *, retention_days: int) -> None:
        self._store, self._files, self._clock, self._days = store, files, clock, retention_days
        self._fault = ""

    async def run(self) -> None:
        """Move what is due, again and again. A fault is told once, and tried again."""
        while self._days:
            try:
                await self.step()
            except FederationError as e:
                if str(e) != self._fault:
                    LOGGER.warning("old audit events stay in the database: %s; it is tried again", e)
                self._fault = str(e)
            except Exception:
                LOGGER.exception("moving old audit events broke; it is tried again")
            else:
                self._fault = ""
            await asyncio.sleep(EVERY_S)

    async def step(self) -> int:
        """Move every day that has ended long enough ago; return how many events that took out of the database.

        Raises `StoreError`.
        """
        first_kept, moved = day_of(self._clock.now_us() - self._days * DAY_US), 0
        while (oldest_us := await self._store.oldest_us()) is not None and day_of(oldest_us) < first_kept:
            moved += await self._move(day_of(oldest_us))
        return moved

    async def _move(self, day: int) -> int:
        last_id = await self._store.last_id()
        await run_to_completion(asyncio.to_thread(self._files.prepare))
        await self._write(day, last_id)
        forgotten = 0
        while count := await self._store.remove(last_id, day_window(day), BATCH):
            forgotten += count
            await asyncio.sleep(PAUSE_S)
        LOGGER.info("%d audit events of one day were moved to %s", forgotten, self._files.directory)
        return forgotten

    async def _write(self, day: int, last_id: int) -> None:
        """Bring everything of a day that has been written so far into its file."""
        file, exists = await run_to_completion(asyncio.to_thread(lambda: self._files.target(day)))
        writer = await run_to_completion(asyncio.to_thread(lambda: DayWriter(file, exists=exists)))
        position: Position | None = None
        try:
            while batch := await self._store.written_by(last_id, day_window(day), BATCH, position):
                position = batch[-1].position
                await run_to_completion(asyncio.to_thread(lambda batch=batch: writer.add(batch)))  # type: ignore[misc]
                await asyncio.sleep(PAUSE_S)
            await run_to_completion(asyncio.to_thread(writer.finish))
        finally:
            await run_to_completion(asyncio.to_thread(writer.cancel))
