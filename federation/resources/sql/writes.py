"""Writing of batches and removal of users inside one transaction; returns the changes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import Column, Select, delete, func, insert, select, text

from federation.errors import UnknownReferencesError
from federation.resources.batch import Batch, Member, NewRow
from federation.resources.provider import Change, Removal
from federation.resources.sql.access import one_of, texts
from federation.store.advisory_keys import AdvisoryKey
from federation.store.schema import memberships, rows, teams, users

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")
CHUNK: Final = 2_000
"""Maximum names or rows of one statement."""
WRITE_LOCK: Final = f"SELECT pg_advisory_xact_lock({AdvisoryKey.WRITE_ROWS:d})"
"""Serializes writes of rows, users and memberships on PostgreSQL."""
_OLD: Final = select(
    rows.c.seq, rows.c.id, rows.c.owner, rows.c.team, rows.c.created_at, rows.c.updated_at, rows.c.data
)


async def write_batch(connection: "AsyncConnection", batch: Batch, now_us: int) -> tuple[Change, ...]:
    """Write a batch. Returns the distinct changes.

    Raises `UnknownReferencesError` if the batch names a user or team that neither the batch nor the database has; the
    caller rolls back.
    """
    if connection.dialect.name == "postgresql":
        # The data read here must not change before the writes. SQLite serializes write transactions itself.
        await connection.execute(text(WRITE_LOCK))
    await _add_names(connection, users.c.id, batch.users)
    await _add_names(connection, teams.c.id, batch.teams)
    await _check_references(connection, batch)
    changes = dict.fromkeys(await _add_members(connection, batch.members))
    for resource in sorted({row.resource for row in batch.rows}):
        for chunk in _chunks([row for row in batch.rows if row.resource == resource]):
            changes.update(dict.fromkeys(await _write_rows(connection, resource, chunk, now_us)))
    return tuple(changes)


async def _add_names(connection: "AsyncConnection", column: Column[str], names: Iterable[str]) -> None:
    wanted = set(names)
    new = wanted - await _existing(connection, column, wanted)
    if new:
        await connection.execute(insert(column.table), [{"id": name} for name in sorted(new)])


async def _check_references(connection: "AsyncConnection", batch: Batch) -> None:
    owners = {row.owner for row in batch.rows} | {member.user for member in batch.members}
    shared = {row.team for row in batch.rows if row.team} | {member.team for member in batch.members}
    no_users = owners - await _existing(connection, users.c.id, owners)
    no_teams = shared - await _existing(connection, teams.c.id, shared)
    if no_users or no_teams:
        raise UnknownReferencesError(no_users, no_teams)


async def _existing(connection: "AsyncConnection", column: Column[str], names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for chunk in _chunks(sorted(names)):
        found.update((await connection.scalars(*_among(connection, select(column), column, chunk))).all())
    return found


async def _add_members(connection: "AsyncConnection", members: Iterable[Member]) -> list[Change]:
    wanted = {(member.user, member.team) for member in members}
    old: set[tuple[str, str]] = set()
    for chunk in _chunks(sorted({user for user, _ in wanted})):
        found = await connection.execute(*_among(connection, select(memberships), memberships.c.user_id, chunk))
        old.update((user, team) for user, team in found)
    new = sorted(wanted - old)
    if new:
        await connection.execute(insert(memberships), [{"user_id": user, "team_id": team} for user, team in new])
    return [
        Change("", frozenset({user}), frozenset(team for member, team in new if member == user))
        for user in dict.fromkeys(user for user, _ in new)
    ]


async def _write_rows(
    connection: "AsyncConnection", resource: str, chunk: Sequence[NewRow], now_us: int
) -> list[Change]:
    found = await connection.execute(
        *_among(connection, _OLD.where(rows.c.resource == resource), rows.c.id, [row.id for row in chunk])
    )
    old = {row.id: row for row in found}
    written, replaced, changes = [], [], []
    for row in chunk:
        before = old.get(row.id)
        if before is None:
            changes.append(Change(resource, frozenset({row.owner}), frozenset({row.team})))
        elif _differs(row, before):
            replaced.append(before.seq)
            changes.append(Change(resource, frozenset({before.owner, row.owner}), frozenset({before.team, row.team})))
        else:
            continue
        written.append(_values(row, before.created_at if before else now_us, now_us))
    if replaced:
        await connection.execute(delete(rows).where(rows.c.seq.in_(replaced)))
    if written:
        # `returning` makes SQLAlchemy insert many rows per statement; FTS5 flushes its index after each statement.
        await connection.execute(insert(rows).returning(rows.c.seq), written)
    return changes


def _among(
    connection: "AsyncConnection", question: Select[Any], column: Column[str], wanted: Iterable[str]
) -> tuple[Select[Any], dict[str, Any]]:
    dialect = connection.dialect.name
    return question.where(one_of(column, "wanted", dialect)), {"wanted": texts(wanted, dialect)}


def _values(row: NewRow, created_at: int, updated_at: int) -> dict[str, Any]:
    return {
        "resource": row.resource,
        "id": row.id,
        "owner": row.owner,
        "team": row.team,
        "created_at": created_at if row.created_at_us is None else row.created_at_us,
        "updated_at": updated_at if row.updated_at_us is None else row.updated_at_us,
        "data": row.data.text,
        "text": row.data.terms,
    }


def _differs(row: NewRow, before: Any) -> bool:
    return (
        (row.owner, row.team, row.data.text) != (before.owner, before.team, before.data)
        or row.created_at_us not in (None, before.created_at)
        or row.updated_at_us not in (None, before.updated_at)
    )


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


async def delete_user(connection: "AsyncConnection", user: str) -> tuple[Removal, tuple[Change, ...]]:
    """Delete every membership of a user, and the user itself if it owns no row."""
    if connection.dialect.name == "postgresql":
        await connection.execute(text(WRITE_LOCK))
    mine = select(memberships.c.team_id).where(memberships.c.user_id == user)
    left = tuple((await connection.scalars(mine.order_by(memberships.c.team_id))).all())
    await connection.execute(delete(memberships).where(memberships.c.user_id == user))
    owned = await connection.scalar(select(func.count()).select_from(rows).where(rows.c.owner == user)) or 0
    if not owned:
        await connection.execute(delete(users).where(users.c.id == user))
    return Removal(left, owned), (Change("", frozenset({user}), frozenset(left)),)
