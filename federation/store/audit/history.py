"""The audit trail of database and archive files as one list."""

import asyncio
import heapq
import threading
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

from federation.store.audit.archive import DAY_US, AuditFiles, DayFile, DayReader
from federation.store.audit.model import AuditEvent, AuditFilter, AuditPage, Position, position_of, position_token
from federation.store.audit.table import AuditStore, check_page_size

MAX_LINES: Final = 100_000
"""Maximum archive lines read for one page, so that a search for rare events can be cancelled between pages."""
MAX_SCANS: Final = 2
"""Maximum number of concurrent scans."""


class AuditHistory:
    """Pages over database and files in time order. `max_lines` bounds the archive lines read for one page."""

    def __init__(self, store: AuditStore, files: AuditFiles, *, max_lines: int = MAX_LINES) -> None:
        self._store, self._files, self._max_lines = store, files, max_lines
        self._slots = asyncio.Semaphore(MAX_SCANS)

    async def page(self, wanted: AuditFilter, page_size: int, page_token: str = "") -> AuditPage:
        """Return events, newest first. Raises `InputError` as `AuditStore.page` does, and `StoreError`.

        Reads the database first: an event that is archived meanwhile is then found twice, and returned once.
        """
        check_page_size(page_size)
        before = position_of(wanted, page_token) if page_token else None
        recent = await self._store.newest(wanted, page_size + 1, before)
        floor = recent[-1].position if len(recent) > page_size else None
        scan = _HistoryScan(self._files, wanted, before, floor, page_size + 1, self._max_lines)
        async with self._slots:
            try:
                await asyncio.to_thread(scan.run)
            except asyncio.CancelledError:
                scan.cancelled.set()
                raise
        merged = [next(like) for _, like in groupby(_newest_first((recent, scan.events)))]
        if scan.stopped_at is not None:
            merged = [event for event in merged if event.position >= scan.stopped_at]
        events = merged[:page_size]
        end = events[-1].position if len(merged) > page_size else scan.stopped_at
        return AuditPage(tuple(events), position_token(wanted, end) if end is not None else "", tuple(scan.warnings))


class _HistoryScan:
    """One scan of the archive. `stopped_at` is the position at which it stopped, `None` if it reached the end."""

    def __init__(
        self,
        files: AuditFiles,
        wanted: AuditFilter,
        before: Position | None,
        floor: Position | None,
        most: int,
        max_lines: int,
    ) -> None:
        self._files, self._wanted, self._before, self._floor = files, wanted, before, floor
        self._most, self._lines_left = most, max_lines
        self.cancelled = threading.Event()
        self.events: list[AuditEvent] = []
        self.warnings: list[str] = []
        self.stopped_at: Position | None = None

    def run(self) -> None:
        """Collect events. Raises `StoreError` if the directory cannot be read."""
        files, unrecognized = self._files.days()
        if self._before is None:
            self.warnings += [f"{self._files.directory / name}: is not an audit file; skipped" for name in unrecognized]
        for _, parts in groupby(filter(self._may_hold, files), key=lambda file: file.day):
            if not self._read([DayReader(file) for file in parts]):
                return

    def _may_hold(self, file: DayFile) -> bool:
        begin, end, wanted = file.day * DAY_US, (file.day + 1) * DAY_US, self._wanted
        return (
            (self._before is None or begin <= self._before.at_us)
            and (self._floor is None or end > self._floor.at_us)
            and (wanted.until_us is None or begin < wanted.until_us)
            and (wanted.since_us is None or end > wanted.since_us)
        )

    def _read(self, readings: list[DayReader]) -> bool:
        """Read the files of one day. Returns whether to continue with the next day."""
        try:
            for event in _newest_first(readings):
                if self.cancelled.is_set():
                    return False
                if self._before is not None and event.position >= self._before:
                    continue
                if self._wanted.admits(event):
                    self.events.append(event)
                self._lines_left -= 1
                if len(self.events) >= self._most or self._lines_left <= 0:
                    self.stopped_at = event.position
                    return False
        finally:
            self.warnings += [f"{reading.file.path}: {reading.fault}" for reading in readings if reading.fault]
        return True


def _newest_first(sorted_alike: Iterable[Iterable[AuditEvent]]) -> Iterator[AuditEvent]:
    return heapq.merge(*sorted_alike, key=lambda event: event.position, reverse=True)
