"""Fills the cache before the first request."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from federation.session.results import SourceReport, SourceState
from federation.v1 import federation_pb2 as pb


@dataclass(frozen=True, slots=True)
class WarmReport:
    """The outcome of each prefetched list, by resource and source."""

    reports: tuple[tuple[str, SourceReport], ...] = ()

    def count(self, state: SourceState) -> int:
        """Return the number of lists with a state: `ok` were fetched, `cached` were in the cache before."""
        return Counter(report.state for _, report in self.reports)[state]


async def warm(
    ask: Callable[[pb.ListRequest, str], Awaitable[SourceReport]],
    requests: Sequence[pb.ListRequest],
    sources: Sequence[str],
    max_concurrency: int,
) -> WarmReport:
    """Send each request to each source, at most `max_concurrency` at a time.

    `ask` must take no signal from the session: signals belong to the results of later requests.
    """
    slots = asyncio.Semaphore(max_concurrency)

    async def fetch(request: pb.ListRequest, source: str) -> tuple[str, SourceReport]:
        async with slots:
            return request.resource, await ask(request, source)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(fetch(request, source)) for request in requests for source in sources]
    return WarmReport(tuple(task.result() for task in tasks))
