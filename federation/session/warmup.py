"""Filling the cache ahead of the first question."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from federation.session.results import SourceReport, SourceState
from federation.v1 import federation_pb2 as pb

__all__ = ["WarmReport", "warm"]


@dataclass(frozen=True, slots=True)
class WarmReport:
    """What became of each list that was asked for ahead of time, by resource and source."""

    reports: tuple[tuple[str, SourceReport], ...] = ()

    def count(self, state: SourceState) -> int:
        """Return how many lists ended in a state: `ok` were fetched, `cached` were there already."""
        return Counter(report.state for _, report in self.reports)[state]


async def warm(
    ask: Callable[[pb.ListRequest, str], Awaitable[SourceReport]],
    requests: Sequence[pb.ListRequest],
    sources: Sequence[str],
    at_once: int,
) -> WarmReport:
    """Ask each source each request, so many at a time. `ask` takes no signal: those are for who asks a question."""
    gate = asyncio.Semaphore(at_once)

    async def fetch(request: pb.ListRequest, source: str) -> tuple[str, SourceReport]:
        async with gate:
            return request.resource, await ask(request, source)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(fetch(request, source)) for request in requests for source in sources]
    return WarmReport(tuple(task.result() for task in tasks))
