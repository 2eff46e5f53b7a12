"""Handler of `ImportRows`: imports rows in the running gateway, so that its watches report the changes."""

from collections.abc import AsyncIterator

from federation.admin.context import AdminContext
from federation.errors import ConflictError
from federation.resources.importing.importer import Importer, ImportSummary
from federation.resources.sql.provider import SqlProvider
from federation.v1 import admin_pb2 as pb

IMPORT_ACT = "rows.import"


async def import_rows(
    context: AdminContext, requests: AsyncIterator[pb.ImportRowsRequest]
) -> AsyncIterator[pb.ImportRowsResponse]:
    """Read every chunk, then load all rows. Yields the number of lines read after each chunk, and a final summary.

    Raises `ImportFailedError` with the faulty lines, `ConflictError` if the gateway has another provider than the
    embedded one.
    """
    provider = context.provider
    if not isinstance(provider, SqlProvider):
        raise ConflictError("this gateway's rows come from a provider of its own, which cannot import rows")
    importer = Importer()
    async for request in requests:
        importer.feed(request.lines)
        yield pb.ImportRowsResponse(lines_read=importer.lines_read)
    summary = await importer.commit(provider)
    context.audit.record_act(IMPORT_ACT, source="admin")
    yield pb.ImportRowsResponse(lines_read=importer.lines_read, summary=_message(summary))


def _message(summary: ImportSummary) -> pb.ImportSummary:
    return pb.ImportSummary(users=summary.users, teams=summary.teams, members=summary.members, rows=summary.rows)
