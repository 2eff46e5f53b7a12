"""The audit table: who read what, and who was refused. Rows are added and read, never changed."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, String, func, insert, select

from federation.errors import InputError
from federation.store.database import Database
from federation.store.schema import audit_events

__all__ = ["AuditEvent", "AuditFilter", "AuditPage", "AuditStore"]

MAX_PAGE: Final = 1_000
MAX_TEXT: Final = 256
"""Characters of a text; what a peer sent as a name may be longer, and is cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One call or act, or `count` like ones. Never a body.

    `at_us` is Unix microseconds. `grant_id` is `None` for a call that was refused before its grant was known: then
    `source` (an address without its port) and `reason` tell what there is to tell. `query_hash` is SHA-256 in
    hexadecimal; `verb` and `resource` are `*` where `count` events differ in them.
    """

    at_us: int
    verb: str
    outcome: str
    grant_id: str | None = None
    peer: str = ""
    subject: str = ""
    resource: str = ""
    query_hash: str = ""
    reason: str = ""
    bytes_out: int = 0
    latency_ms: float = 0.0
    trace_id: str = ""
    source: str = ""
    count: int = 1
    id: int = 0
    """The row's number, rising; 0 before it is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which events: equality on each field that is not empty, and `at_us >= since_us`."""

    grant_id: str = ""
    peer: str = ""
    verb: str = ""
    outcome: str = ""
    since_us: int | None = None


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Events, newest first; `next_page_token` is empty on the last page."""

    events: tuple[AuditEvent, ...]
    next_page_token: str


class AuditStore:
    """Writes and reads the audit table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert_many(self, events: Sequence[AuditEvent]) -> None:
        """Write events, all or none, in their order."""
        if not events:
            return
        async with self._database.write() as connection:
            await connection.execute(insert(audit_events), [_values(event) for event in events])

    async def page(self, wanted: AuditFilter, page_size: int = 50, page_token: str = "") -> AuditPage:
        """Return events, newest first. Raises `InputError` for a size out of range or a token that is none."""
        if not 1 <= page_size <= MAX_PAGE:
            raise InputError("page_size", f"must be from 1 to {MAX_PAGE}")
        query = select(audit_events).where(*_conditions(wanted))
        if page_token:
            query = query.where(audit_events.c.id < _cursor(page_token))
        async with self._database.read() as connection:
            found = (await connection.execute(query.order_by(audit_events.c.id.desc()).limit(page_size + 1))).all()
        events = tuple(_event(row) for row in found[:page_size])
        return AuditPage(events, str(events[-1].id) if len(found) > page_size else "")

    async def count(self, wanted: AuditFilter) -> int:
        """Return how many events there are, those that one row counts together included."""
        query = select(func.coalesce(func.sum(audit_events.c.count), 0)).where(*_conditions(wanted))
        async with self._database.read() as connection:
            return int((await connection.scalars(query)).one())


def _conditions(wanted: AuditFilter) -> list[ColumnElement[bool]]:
    columns = audit_events.c
    equal = {name: getattr(wanted, name) for name in ("grant_id", "peer", "verb", "outcome")}
    conditions: list[ColumnElement[bool]] = [columns[name] == value for name, value in equal.items() if value]
    if wanted.since_us is not None:
        conditions.append(columns.at >= wanted.since_us)
    return conditions


def _cursor(token: str) -> int:
    if not (token.isascii() and token.isdigit() and len(token) <= 18):  # noqa: PLR2004 - below 2^63
        raise InputError("page_token", "is not a token of an earlier page")
    return int(token)


def _values(event: AuditEvent) -> dict[str, Any]:
    values = {f.name: getattr(event, f.name) for f in fields(AuditEvent)}
    del values["id"]
    values["at"] = values.pop("at_us")
    return {name: _clean(name, value) if isinstance(value, str) else value for name, value in values.items()}


def _clean(name: str, text: str) -> str:
    """Cut a text to its column, and make it printable: one odd character must not hold up a whole batch."""
    kind = audit_events.c[name].type
    most = kind.length if isinstance(kind, String) and kind.length else MAX_TEXT
    text = text[:most]
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _event(row: Row[Any]) -> AuditEvent:
    values = dict(row._mapping)
    values["at_us"] = values.pop("at")
    return AuditEvent(**values)
