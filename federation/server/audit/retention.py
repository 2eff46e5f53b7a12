"""The retention of audit events: moves old ones from the table into files, by whole days, in small batches.

A crash at any point neither loses nor duplicates an event. A day's file is complete on disk before its first row is
deleted from the database. After an incomplete deletion, the next attempt rewrites the file from the file and the
remaining rows, and deletes those. Until then a reader of both sees such rows once.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from federation.aio import run_periodically, run_to_completion
from federation.clock import Clock
from federation.errors import FederationError
from federation.store.audit.archive import DAY_US, AuditFiles, DayWriter, day_of, day_window
from federation.store.audit.table import AuditStore

if TYPE_CHECKING:
    from federation.store.audit.model import Position

P = ParamSpec("P")
T = TypeVar("T")
LOGGER: Final = logging.getLogger(__name__)
EVERY_S: Final = 900.0
BATCH: Final = 500
PAUSE_S: Final = 0.01
"""Seconds between two batches, so that served calls go first."""


class AuditRetention:
    """Moves old audit events. Only the process that serves runs it.

    `retention_days` is the number of whole days that stay in the database; 0 disables moving.
    """

    def __init__(self, store: AuditStore, files: AuditFiles, clock: Clock, *, retention_days: int) -> None:
        self._store, self._files, self._clock, self._days = store, files, clock, retention_days

    async def run(self) -> None:
        """Move due days periodically, until cancelled. A fault is logged once, and the move is retried."""
        if self._days:
            failing = "old audit events cannot be moved out of the database"
            await run_periodically(EVERY_S, self.step, expected=FederationError, logger=LOGGER, failing=failing)

    async def step(self) -> int:
        """Move every day that is older than the retention time; return the number of events moved.

        Raises `StoreError`.
        """
        first_kept, moved = day_of(self._clock.now_us() - self._days * DAY_US), 0
        while (oldest_us := await self._store.oldest_us()) is not None and day_of(oldest_us) < first_kept:
            moved += await self._move(day_of(oldest_us))
        return moved

    async def _move(self, day: int) -> int:
        last_id = await self._store.last_id()
        await _in_thread(self._files.prepare)
        await self._write(day, last_id)
        forgotten = 0
        while count := await self._store.remove(last_id, day_window(day), BATCH):
            forgotten += count
            await asyncio.sleep(PAUSE_S)
        LOGGER.info("%d audit events of one day were moved to %s", forgotten, self._files.directory)
        return forgotten

    async def _write(self, day: int, last_id: int) -> None:
        """Write the events of a day, up to `last_id`, into the file of the day."""
        file, exists = await _in_thread(self._files.target, day)
        writer = await _in_thread(DayWriter, file, exists=exists)
        position: Position | None = None
        try:
            while batch := await self._store.newest(day_window(day), BATCH, position, last_id=last_id):
                position = batch[-1].position
                await _in_thread(writer.add, batch)
                await asyncio.sleep(PAUSE_S)
            await _in_thread(writer.finish)
        finally:
            await _in_thread(writer.cancel)


async def _in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Work on files in a thread, to the end even if this task is cancelled."""
    return await run_to_completion(asyncio.to_thread(work, *args, **kwargs))
