"""The audit table: writing, reading and removing of events."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, String, TextClause, delete, func, insert, select, text, tuple_

from federation.errors import InputError
from federation.sanitize import printable
from federation.store.advisory_keys import AdvisoryKey
from federation.store.audit.model import (
    AuditEvent,
    AuditFilter,
    AuditPage,
    Position,
    TailPage,
    position_of,
    position_token,
)
from federation.store.database import Database
from federation.store.schema import COMMON_OUTCOME, COMMON_VERBS, RARE_OUTCOME, RARE_VERB, audit_events

MAX_PAGE: Final = 1_000
MAX_TEXT: Final = 256
"""Maximum characters of a text column; a longer name sent by a peer is truncated."""
UNREADABLE: Final = "the audit cannot be read"
Condition = ColumnElement[bool] | TextClause


class AuditStore:
    """Writes and reads the audit table. Reading raises `StoreError` if the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert_many(self, events: Sequence[AuditEvent]) -> None:
        """Write events in their order, all or none."""
        if not events:
            return
        async with self._database.write() as connection:
            if self._database.dialect == "postgresql":
                # Event ids must become visible in ascending order, or a reader that follows the trail would skip some.
                await connection.execute(text(f"SELECT pg_advisory_xact_lock({AdvisoryKey.APPEND_AUDIT:d})"))
            await connection.execute(insert(audit_events), [_values(event) for event in events])

    async def page(self, wanted: AuditFilter, page_size: int = 50, page_token: str = "") -> AuditPage:
        """Return events, newest first. Raises `InputError` for an invalid page size or token."""
        check_page_size(page_size)
        before = position_of(wanted, page_token) if page_token else None
        found = await self.newest(wanted, page_size + 1, before)
        events = found[:page_size]
        return AuditPage(events, position_token(wanted, events[-1].position) if len(found) > page_size else "")

    async def newest(
        self, wanted: AuditFilter, most: int, before: Position | None = None, *, last_id: int | None = None
    ) -> tuple[AuditEvent, ...]:
        """Return at most `most` events before a position and with an id up to `last_id`, newest first."""
        columns, conditions = audit_events.c, _conditions(wanted)
        if last_id is not None:
            conditions.append(columns.id <= last_id)
        if before is not None:
            conditions.append(tuple_(columns.at, columns.id) < tuple_(*before))
        query = select(audit_events).where(*conditions).order_by(columns.at.desc(), columns.id.desc()).limit(most)
        return tuple(map(_event, await self._database.fetch(query, UNREADABLE)))

    async def later(self, wanted: AuditFilter, after_id: int, most: int) -> TailPage:
        """Return the matching events among the next `most` rows after a row, in the order of writing."""
        columns = audit_events.c
        query = select(audit_events).where(columns.id > after_id).order_by(columns.id).limit(most)
        events = [_event(row) for row in await self._database.fetch(query, UNREADABLE)]
        last_id = events[-1].id if events else after_id
        return TailPage(tuple(filter(wanted.admits, events)), last_id)

    async def latest(self, wanted: AuditFilter, most: int) -> TailPage:
        """Return the newest events, at most `most`, in the order of writing, with the id of the last row."""
        last_id = await self.last_id()
        events = await self.newest(wanted, most, last_id=last_id)
        return TailPage(tuple(sorted(events, key=lambda event: event.id)), last_id)

    async def oldest_us(self) -> int | None:
        """Return the instant of the oldest event in Unix microseconds, or `None`."""
        found: int | None = await self._scalar(select(func.min(audit_events.c.at)))
        return found

    async def last_id(self) -> int:
        """Return the id of the row written last, 0 if there is none."""
        return await self._scalar(select(func.max(audit_events.c.id))) or 0

    async def remove(self, last_id: int, window: AuditFilter, most: int) -> int:
        """Delete at most `most` events with an id up to `last_id` in one transaction. Returns their number."""
        columns = audit_events.c
        old = select(columns.id).where(*_conditions(window), columns.id <= last_id).limit(most)
        removal = delete(audit_events).where(columns.id.in_(old.scalar_subquery()))
        return await self._database.execute(removal, failing="old audit events cannot be deleted")

    async def _scalar(self, query: Select[Any]) -> Any:
        return (await self._database.fetch(query, UNREADABLE))[0][0]


def check_page_size(page_size: int) -> None:
    """Raise `InputError` if a page size is out of range."""
    if not 1 <= page_size <= MAX_PAGE:
        raise InputError("page_size", f"must be from 1 to {MAX_PAGE}")


def _conditions(wanted: AuditFilter) -> list[Condition]:
    columns = audit_events.c
    conditions: list[Condition] = [columns[name] == value for name, value in wanted.equal.items()]
    # Databases use a partial index only if the query contains its condition verbatim.
    if wanted.outcome not in {"", COMMON_OUTCOME}:
        conditions.append(RARE_OUTCOME)
    if wanted.verb and wanted.verb not in COMMON_VERBS:
        conditions.append(RARE_VERB)
    if wanted.since_us is not None:
        conditions.append(columns.at >= wanted.since_us)
    if wanted.until_us is not None:
        conditions.append(columns.at < wanted.until_us)
    return conditions


def _values(event: AuditEvent) -> dict[str, Any]:
    values = {f.name: getattr(event, f.name) for f in fields(AuditEvent)}
    del values["id"]
    values["at"] = values.pop("at_us")
    return {name: _clean(name, value) if isinstance(value, str) else value for name, value in values.items()}


def _clean(name: str, text: str) -> str:
    """Truncate a text to its column and replace unprintable characters, which could fail a whole batch."""
    kind = audit_events.c[name].type
    most = kind.length if isinstance(kind, String) and kind.length else MAX_TEXT
    return printable(text, most)


def _event(row: Row[Any]) -> AuditEvent:
    values = dict(row._mapping)
    values["at_us"] = values.pop("at")
    return AuditEvent(**values)
