"""The embedded `ResourceProvider`: rows, users and teams in the gateway's own database."""

import asyncio
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, select

from federation.clock import SYSTEM_CLOCK, Clock
from federation.resources.batch import Batch
from federation.resources.documents import decode, strings
from federation.resources.fulltext import snippet
from federation.resources.provider import Change, ListQuery, Page, Removal, Row, SearchHit, SearchQuery
from federation.resources.sql.access import filter_values, storable_id
from federation.resources.sql.changes import ChangeFeed, ChangeStream
from federation.resources.sql.list_query import get_statement, list_parameters, list_statement
from federation.resources.sql.search_query import search_parameters, search_statement
from federation.resources.sql.writes import delete_user, write_batch
from federation.scope.model import RowFilter
from federation.store.database import Database, translate_db_errors
from federation.store.schema import memberships, teams, users

LEAST_SCORE = 1e-6


class SqlProvider:
    """Rows in SQLite or PostgreSQL.

    A subject sees the rows that it owns and the rows of its teams; a row without a team is visible only to its owner.
    An owner sees its rows also after leaving their team. An unknown subject sees nothing.
    """

    def __init__(self, database: Database, clock: Clock = SYSTEM_CLOCK) -> None:
        self._database, self._clock = database, clock
        self._feed = ChangeFeed()
        self._writing = asyncio.Lock()

    async def list(self, subject: str, query: ListQuery) -> Page[Row]:
        """Return rows in the order `(created_at descending, id ascending)`, ids by code point.

        `where` compares `id`, `owner` and `team` (empty for personal rows), and any other name with that top-level
        field of the data: a string by its characters, an integer by its digits as written, a boolean as `true` or
        `false`. A missing field or another type never matches. Raises `Refusal` INVALID_REQUEST for an invalid field
        name, and for text that no row can contain.
        """
        shape, values = list_parameters(subject, query, self._database.dialect)
        found = await self._read(list_statement(shape), values)
        return Page(tuple(Row(*row) for row in found[: query.limit]), len(found) > query.limit)

    async def get(self, subject: str, resource: str, row_id: str, row_filter: RowFilter) -> Row | None:
        """Return the row; `None`, by the same statement, if it is absent, not visible or filtered out."""
        dialect = self._database.dialect
        values = {"subject": storable_id(subject), "resource": storable_id(resource), "id": storable_id(row_id)}
        found = await self._read(get_statement(dialect), {**values, **filter_values(row_filter, dialect)})
        return Row(*found[0]) if found else None

    async def search(self, subject: str, query: SearchQuery) -> Page[SearchHit]:
        """Return rows that contain every word of the query, by descending score, ties by `(created_at descending, id)`.

        Words are runs of letters and digits, compared without case and accents; other characters separate words. The
        best hit has score 1, the others are relative to it. Raises `Refusal` INVALID_REQUEST for a query without words
        or with too many.
        """
        terms, values = search_parameters(subject, query, self._database.dialect)
        if not query.filters:
            return Page((), more=False)
        found = await self._read(search_statement(self._database.dialect, len(query.filters)), values)
        wanted = frozenset(terms)
        return Page(tuple(_hit(row, wanted) for row in found[: query.limit]), len(found) > query.limit)

    async def has_user(self, subject: str) -> bool:
        """Tell whether the user exists."""
        return bool(await self._read(select(users.c.id).where(users.c.id == storable_id(subject)), {}))

    async def teams_of(self, subject: str) -> frozenset[str]:
        """Return the teams of the user."""
        mine = select(memberships.c.team_id).where(memberships.c.user_id == storable_id(subject))
        return frozenset(row.team_id for row in await self._read(mine, {}))

    async def remove_user(self, subject: str) -> Removal:
        """Remove the user from every team, and delete it if it owns no row. Publishes the change.

        Raises `StoreError` if the database fails.
        """
        changes: tuple[Change, ...] = ()
        async with self._writing:
            try:
                with translate_db_errors(f"the user {subject} cannot be removed"):
                    async with self._database.write() as connection:
                        removal, changes = await delete_user(connection, storable_id(subject))
            finally:
                self._feed.publish(changes)
        return removal

    async def names(self, most: int = 1_000) -> tuple[Sequence[str], Sequence[str]]:
        """Return existing users and teams, at most `most` of each, for suggestions of similar names."""
        async with self._database.read() as connection:
            known = [(await connection.scalars(select(table.c.id).limit(most))).all() for table in (users, teams)]
        return known[0], known[1]

    def changes(self) -> ChangeStream:
        """Return the stream of committed writes of this provider from now on.

        A reader that falls too far behind gets `ChangesLostError`, and must treat all data as changed.
        """
        return self._feed.open()

    async def apply(self, batch: Batch) -> None:
        """Write a batch in one transaction and publish its changes.

        Unchanged rows are not written and publish no change. Raises `UnknownReferencesError` if a row or membership
        names a user or team that neither the batch nor the database has, `StoreError` if the database fails; nothing is
        written then.
        """
        changes: tuple[Change, ...] = ()
        async with self._writing:
            try:
                with translate_db_errors("the rows cannot be stored"):
                    async with self._database.write() as connection:
                        changes = await write_batch(connection, batch, self._clock.now_us())
            finally:
                # Also if the commit was interrupted and its outcome is unknown: an extra change is harmless.
                self._feed.publish(changes)

    async def _read(self, statement: Select[Any], values: dict[str, Any]) -> Sequence[Any]:
        async with self._database.read() as connection:
            found: Sequence[Any] = (await connection.execute(statement, values)).all()
            return found


def _hit(found: Any, wanted: frozenset[str]) -> SearchHit:
    *columns, rank, best = found
    row = Row(*columns)
    score = max(rank / best, LEAST_SCORE) if best > 0 else 1.0
    return SearchHit(row, score, snippet(strings(decode(row.data, "data")), wanted))
