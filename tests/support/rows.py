"""Rows with users and teams, and reads through the SQL provider."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from federation.resources.batch import Batch, Member, NewRow
from federation.resources.documents import Document
from federation.resources.importing.importer import Importer
from federation.resources.provider import ListQuery, Position, Row, SearchQuery
from federation.resources.sql.provider import SqlProvider
from federation.scope.model import RowFilter
from federation.store.database import Database

EVERYTHING = RowFilter()
NOON_US = 1_790_000_000_000_000


def new_row(
    row_id: str, owner: str, team: str = "", /, *, resource: str = "tasks", at_us: int = NOON_US, **data: Any
) -> NewRow:
    """A new row whose data are the keyword arguments."""
    document = Document.parse(json.dumps(data, ensure_ascii=False))
    return NewRow(resource, row_id, owner, document, team, created_at_us=at_us, updated_at_us=at_us)


def batch_with(*rows: NewRow) -> Batch:
    """A batch with these rows; ada is in team T1, grace in T1 and T2, linus in none."""
    members = (Member("ada", "T1"), Member("grace", "T1"), Member("grace", "T2"))
    return Batch(("ada", "grace", "linus"), ("T1", "T2"), members, rows)


def parse(lines: Iterable[bytes]) -> Batch:
    """The batch of a file's lines, or `ImportFailedError`."""
    importer = Importer()
    for line in lines:
        importer.feed(line)
    return importer.finish()


async def list_ids(provider: SqlProvider, subject: str, row_filter: RowFilter = EVERYTHING, **where: str) -> list[str]:
    """The ids of the first thousand tasks that a subject sees."""
    page = await provider.list(subject, ListQuery("tasks", row_filter, 1_000, where))
    assert not page.more
    return [row.id for row in page.items]


async def search_ids(provider: SqlProvider, subject: str, text: str, row_filter: RowFilter = EVERYTHING) -> list[str]:
    """The ids of the tasks that a search finds, best first."""
    page = await provider.search(subject, SearchQuery(text, {"tasks": row_filter}, 1_000))
    return [hit.row.id for hit in page.items]


async def list_all(provider: SqlProvider, subject: str, limit: int) -> list[Row]:
    """Every task that a subject sees, page by page."""
    rows: list[Row] = []
    after: Position | None = None
    while True:
        page = await provider.list(subject, ListQuery("tasks", EVERYTHING, limit, after=after))
        rows.extend(page.items)
        if not page.more:
            return rows
        assert len(page.items) == limit
        after = page.items[-1].position


@contextmanager
def recorded_sql(database: Database) -> Iterator[list[str]]:
    """The text of every SQL statement, without the statements that control transactions and locks."""
    statements: list[str] = []

    def record(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith(("BEGIN", "SELECT pg_advisory")):
            statements.append(statement)

    event.listen(database.engine.sync_engine, "before_cursor_execute", record)
    try:
        yield statements
    finally:
        event.remove(database.engine.sync_engine, "before_cursor_execute", record)
