"""What a scope opens of its subject's rows at this moment: counted through the provider, as a peer would read them."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from federation.resources.provider import ListQuery, ResourceProvider
from federation.scope.model import RowFilter, Scope
from federation.v1 import admin_pb2 as pb

__all__ = ["has_rows", "preview"]

LOGGER: Final = logging.getLogger(__name__)
COUNTED: Final = 1_000
"""Rows of a resource that are counted."""
CHUNK: Final = 200
"""Rows that are held at once."""
NEWEST: Final = 5
PATIENCE_S: Final = 2.0
"""For all resources together: the operator waits for this."""


async def preview(provider: ResourceProvider, subject: str, scope: Scope) -> Sequence[pb.ResourcePreview]:
    """Count the rows of each open resource. One that the provider fails to tell is left out; the log has why."""
    shown: list[pb.ResourcePreview] = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            for resource in scope.open_resources:
                one = pb.ResourcePreview(resource=resource, more=True)
                shown.append(one)
                try:
                    await _count(provider, subject, scope.check(resource), one)
                except Exception:
                    LOGGER.exception("the rows of %s that a grant opens could not be counted", resource)
                    shown.remove(one)
    except TimeoutError:
        LOGGER.warning("counting what a grant opens took longer than %s s; it was left at that", PATIENCE_S)
    return shown


async def has_rows(provider: ResourceProvider, subject: str, resource: str, row_filter: RowFilter) -> bool:
    """Tell whether a filter lets any row of a resource through."""
    return bool((await provider.list(subject, ListQuery(resource, row_filter, 1))).items)


async def _count(provider: ResourceProvider, subject: str, row_filter: RowFilter, shown: pb.ResourcePreview) -> None:
    after = None
    while shown.more and shown.rows < COUNTED:
        page = await provider.list(subject, ListQuery(shown.resource, row_filter, CHUNK, after=after))
        rows = page.items[:CHUNK]
        shown.newest_ids.extend(row.id for row in rows[: NEWEST - len(shown.newest_ids)])
        shown.rows += len(rows)
        shown.more = page.more and bool(rows)
        after = rows[-1].position if rows else None
