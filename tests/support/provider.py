"""A row provider over a list: rights, filters, order and paging as the protocol requires, and scripted faults."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from federation.resources.provider import Change, ListQuery, Page, Row, SearchHit, SearchQuery
from federation.scope.model import RowFilter

START_US = 1_750_000_000_000_000


def row(row_id: str, *, resource: str = "tasks", owner: str = "ada", team: str = "", age: int = 0, **data: Any) -> Row:
    """A row; `age` is in seconds before a fixed time, so that a list begins with age 0."""
    at = START_US - age * 1_000_000
    return Row(resource, row_id, owner, team, at, at, orjson.dumps(data or {"title": row_id}).decode())


@dataclass
class ListedProvider:
    """`teams` maps a user to teams. `fault` is raised by every read; `gate` holds every read until it is set."""

    rows: list[Row] = field(default_factory=list)
    teams: dict[str, set[str]] = field(default_factory=dict)
    fault: BaseException | None = None
    gate: asyncio.Event | None = None
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    """(verb, subject, query) of each read, in order."""
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first read begins."""
    finished: int = 0
    """The number of completed reads."""

    async def list(self, subject: str, query: ListQuery) -> Page[Row]:
        await self._arrive("list", subject, query)
        found = [r for r in self._visible(subject, query.resource, query.filter) if _matches(r, query.where)]
        if query.after:
            place = (-query.after.created_at_us, query.after.id)
            found = [r for r in found if (-r.created_at_us, r.id) > place]
        return Page(tuple(found[: query.limit]), len(found) > query.limit)

    async def get(self, subject: str, resource: str, row_id: str, row_filter: RowFilter) -> Row | None:
        await self._arrive("get", subject, (resource, row_id))
        return next((r for r in self._visible(subject, resource, row_filter) if r.id == row_id), None)

    async def search(self, subject: str, query: SearchQuery) -> Page[SearchHit]:
        await self._arrive("search", subject, query)
        found = [
            SearchHit(r, 1.0, f"[{query.text}]")
            for resource, row_filter in query.filters.items()
            for r in self._visible(subject, resource, row_filter)
            if query.text in r.data
        ]
        return Page(tuple(found[query.offset :][: query.limit]), len(found) > query.offset + query.limit)

    async def has_user(self, subject: str) -> bool:
        return subject in self.teams

    async def changes(self) -> AsyncIterator[Change]:
        return
        yield

    async def _arrive(self, verb: str, subject: str, query: Any) -> None:
        self.calls.append((verb, subject, query))
        self.begun.set()
        if self.gate:
            await self.gate.wait()
        if self.fault:
            raise self.fault
        self.finished += 1

    def _visible(self, subject: str, resource: str, row_filter: RowFilter) -> Iterable[Row]:
        mine = self.teams.get(subject, set())
        rows = (r for r in self.rows if r.resource == resource and (r.owner == subject or r.team in mine))
        return sorted((r for r in rows if row_filter.admits(r.team)), key=lambda r: (-r.created_at_us, r.id))


def _matches(candidate: Row, where: Any) -> bool:
    data = {**orjson.loads(candidate.data), "id": candidate.id, "owner": candidate.owner, "team": candidate.team}
    return all(str(data.get(key)) == value for key, value in where.items())
