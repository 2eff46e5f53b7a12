"""Preview of a grant: counts the rows that a scope currently opens, through the provider, as a peer would read them."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from federation.resources.provider import ListQuery, ResourceProvider
from federation.scope.model import RowFilter, Scope
from federation.v1 import admin_pb2 as pb

LOGGER: Final = logging.getLogger(__name__)
MAX_COUNTED_ROWS: Final = 1_000
"""The count of a resource stops at this number of rows."""
PAGE_ROWS: Final = 200
"""Rows in memory at the same time."""
MAX_NEWEST_IDS: Final = 5
TIMEOUT_S: Final = 2.0
"""Time limit for all resources together, because the operator waits for the preview."""


async def preview(provider: ResourceProvider, subject: str, scope: Scope) -> Sequence[pb.ResourcePreview]:
    """Count the rows of each open resource. A resource that the provider cannot list is omitted and logged.

    After `TIMEOUT_S`, or after `MAX_COUNTED_ROWS` of a resource, the count is a lower bound (`more` is true).
    """
    previews: list[pb.ResourcePreview] = []
    try:
        async with asyncio.timeout(TIMEOUT_S):
            for resource in scope.open_resources:
                counted = pb.ResourcePreview(resource=resource, more=True)
                previews.append(counted)
                try:
                    await _count(provider, subject, scope.check(resource), counted)
                except Exception:
                    LOGGER.exception("could not count the rows of %s that a grant opens", resource)
                    previews.remove(counted)
    except TimeoutError:
        LOGGER.warning("counting the rows that a grant opens took over %s s; the counts are lower bounds", TIMEOUT_S)
    return previews


async def has_rows(provider: ResourceProvider, subject: str, resource: str, row_filter: RowFilter) -> bool:
    """Tell whether a filter matches any row of a resource."""
    return bool((await provider.list(subject, ListQuery(resource, row_filter, 1))).items)


async def _count(provider: ResourceProvider, subject: str, row_filter: RowFilter, counted: pb.ResourcePreview) -> None:
    after = None
    while counted.more and counted.rows < MAX_COUNTED_ROWS:
        page = await provider.list(subject, ListQuery(counted.resource, row_filter, PAGE_ROWS, after=after))
        rows = page.items[:PAGE_ROWS]
        counted.newest_ids.extend(row.id for row in rows[: MAX_NEWEST_IDS - len(counted.newest_ids)])
        counted.rows += len(rows)
        counted.more = page.more and bool(rows)
        after = rows[-1].position if rows else None
