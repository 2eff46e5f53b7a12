"""Rows imported through the running gateway, so that its caches hear of them."""

from collections.abc import AsyncIterator

from federation.admin.context import AdminContext
from federation.errors import ConflictError
from federation.resources.importing.importer import Importer, ImportSummary
from federation.resources.sql.provider import SqlProvider
from federation.v1 import admin_pb2 as pb

__all__ = ["IMPORT_ACT", "import_rows"]

IMPORT_ACT = "rows.import"


async def import_rows(
    parts: AdminContext, requests: AsyncIterator[pb.ImportRowsRequest]
) -> AsyncIterator[pb.ImportRowsResponse]:
    """Read every chunk, then load all of it; yield the lines read after each, and the summary at the end.

    Raises `ImportFailedError` with the faults, `ConflictError` where the rows are not the embedded provider's.
    """
    provider = parts.provider
    if not isinstance(provider, SqlProvider):
        raise ConflictError("this gateway's rows come from a program of its own, so there is nothing to import into")
    importer = Importer()
    async for request in requests:
        importer.feed(request.lines)
        yield pb.ImportRowsResponse(lines_read=importer.lines_read)
    summary = await importer.commit(provider)
    parts.audit.record_act(IMPORT_ACT, source="admin")
    yield pb.ImportRowsResponse(lines_read=importer.lines_read, summary=_message(summary))


def _message(summary: ImportSummary) -> pb.ImportSummary:
    return pb.ImportSummary(users=summary.users, teams=summary.teams, members=summary.members, rows=summary.rows)
