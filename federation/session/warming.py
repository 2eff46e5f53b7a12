"""Filling the cache ahead of the first question."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from federation.session.results import Result, SourceReport, SourceState

__all__ = ["WarmReport", "warm"]


@dataclass(frozen=True, slots=True)
class WarmReport:
    """What became of each list that was asked for ahead of time, by resource and source."""

    reports: tuple[tuple[str, SourceReport], ...] = ()

    def count(self, state: SourceState) -> int:
        """Return how many lists ended in a state: `ok` were fetched, `cached` were there already."""
        return Counter(report.state for _, report in self.reports)[state]


async def warm(
    ask: Callable[[str, str], Awaitable[Result]], resources: Iterable[str], sources: Iterable[str], at_once: int
) -> WarmReport:
    """Ask each source for the first page of each resource, so many at a time."""
    gate = asyncio.Semaphore(at_once)
    sources = tuple(sources)

    async def fetch(resource: str, source: str) -> list[tuple[str, SourceReport]]:
        async with gate:
            return [(resource, report) for report in (await ask(resource, source)).sources]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(fetch(resource, source)) for resource in resources for source in sources]
    return WarmReport(tuple(entry for task in tasks for entry in task.result()))
