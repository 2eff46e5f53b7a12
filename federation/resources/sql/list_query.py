"""The SQL of `list` and `get`: one statement each that includes access rules and filter.

The text of a statement depends only on the shape of the request, never on the subject or the rows found.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import ColumnElement, FromClause, Select, and_, case, cast, func, or_, select, true, union
from sqlalchemy.sql.selectable import Subquery

from federation.errors import Reason, Refusal
from federation.resources.documents import is_storable
from federation.resources.provider import ListQuery
from federation.resources.sql.access import (
    LIMIT,
    PERSONAL,
    SUBJECT,
    admitted,
    filter_values,
    instant,
    storable_id,
    team_admitted,
    text,
    visible,
)
from federation.sanitize import escaped
from federation.store.schema import memberships, rows

COLUMNS: Final = (
    rows.c.resource,
    rows.c.id,
    rows.c.owner,
    rows.c.team,
    rows.c.created_at,
    rows.c.updated_at,
    rows.c.data,
)
"""The columns of a `Row`, in the order of its fields."""
COMPARABLE: Final = ("id", "owner", "team")
"""Names that `where` compares with a column; any other name is a field of the data."""
MAX_WHERE: Final = 8
"""Maximum number of fields of a `where`."""
INT64: Final = range(-(2**63), 2**63)
_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}\Z")


@dataclass(frozen=True, slots=True)
class ListShape:
    """The properties that determine the text of a list statement.

    `after`: whether the list continues after a row. `columns` are compared with the parameters `where_<name>`; `fields`
    is the number of data fields, named by the parameters `field_N` and compared with `value_N`.
    """

    dialect: str
    after: bool
    columns: tuple[str, ...]
    fields: int


def list_parameters(subject: str, query: ListQuery, dialect: str) -> tuple[ListShape, dict[str, Any]]:
    """Return the shape and the parameters of a list, with a limit one above the requested one.

    Raises `Refusal` INVALID_REQUEST that names the field.
    """
    values: dict[str, Any] = {
        "subject": storable_id(subject),
        "resource": storable_id(query.resource),
        "limit": query.limit + 1,
    }
    values.update(filter_values(query.filter, dialect))
    columns, fields = _where_values(query.where, dialect, values)
    if query.after is not None:
        if not is_storable(query.after.id):
            raise _refused("after.id", "contains a character that no row id has")
        if query.after.created_at_us not in INT64:
            raise _refused("after.created_at", "is out of range")
        values.update(after_at=query.after.created_at_us, after_id=query.after.id)
    return ListShape(dialect, query.after is not None, columns, fields), values


@lru_cache(maxsize=256)
def list_statement(shape: ListShape) -> Select[Any]:
    """Return the list statement of a shape.

    No index has the order across "own rows or rows of my teams". The statement therefore reads, in index order, at most
    one page of the subject's own rows and one page for each of its teams, and merges them: the cost does not grow with
    the table.
    """
    parts = list(_parts(shape))
    keys = union(*(select(part) for part in parts)).subquery("keys")
    best = select(keys.c.seq).order_by(keys.c.created_at.desc(), keys.c.id).limit(LIMIT).subquery("best")
    page = select(*COLUMNS).select_from(best.join(rows, rows.c.seq == best.c.seq))
    return page.order_by(rows.c.created_at.desc(), rows.c.id)


@lru_cache(maxsize=4)
def get_statement(dialect: str) -> Select[Any]:
    """Return the lookup of one row by `resource` and `id`."""
    return select(*COLUMNS).where(
        rows.c.resource == text("resource"), rows.c.id == text("id"), visible(rows), admitted(rows, dialect)
    )


def _parts(shape: ListShape) -> Iterator[Subquery]:
    # After a position come first the rows of the same instant, then older ones: two index ranges, which "or" prevents.
    for ties in (True, False) if shape.after else (False,):
        own = rows.alias("own")
        rule = and_(own.c.owner == SUBJECT, admitted(own, shape.dialect))
        yield _first(own, shape, rule, ties=ties).subquery()
        yield _of_each_team(shape, ties=ties).subquery()


def _of_each_team(shape: ListShape, *, ties: bool) -> Select[Any]:
    shared, found = rows.alias("shared"), rows.alias("found")
    mine = and_(
        memberships.c.user_id == SUBJECT,
        memberships.c.team_id != PERSONAL,
        team_admitted(memberships.c.team_id, shape.dialect),
    )
    first = _first(shared, shape, shared.c.team == memberships.c.team_id, ties=ties).correlate(memberships)
    if shape.dialect == "postgresql":
        each = first.lateral()
        return select(each).select_from(memberships.join(each, true())).where(mine)
    # SQLite has no LATERAL; a correlated subquery of row ids is equivalent.
    one = found.c.seq.in_(first.with_only_columns(shared.c.seq))
    return select(found.c.seq, found.c.created_at, found.c.id).select_from(memberships.join(found, one)).where(mine)


def _first(table: FromClause, shape: ListShape, rule: ColumnElement[bool], *, ties: bool) -> Select[Any]:
    found = select(table.c.seq, table.c.created_at, table.c.id).where(table.c.resource == text("resource"), rule)
    if ties:
        found = found.where(table.c.created_at == instant("after_at"), table.c.id > text("after_id"))
    elif shape.after:
        found = found.where(table.c.created_at < instant("after_at"))
    for name in shape.columns:
        found = found.where(table.c[name] == text(f"where_{name}"))
    for number in range(shape.fields):
        found = found.where(_scalar(table.c.data, number, shape.dialect) == text(f"value_{number}"))
    return found.order_by(table.c.created_at.desc(), table.c.id).limit(LIMIT)


def _scalar(data: ColumnElement[str], number: int, dialect: str) -> ColumnElement[str]:
    field = text(f"field_{number}")
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import JSON

        document = cast(data, JSON)
        value = document.op("->>")(field)
        kind = func.json_typeof(document.op("->")(field))
        is_whole = and_(kind == "number", value.op("~")("^-?[0-9]+$"))
        return case((or_(kind == "string", kind == "boolean", is_whole), value))
    kind = func.json_type(data, field)
    return case(
        (kind == "text", func.json_extract(data, field)),
        (kind == "integer", data.op("->")(field)),  # as written; json_extract rounds integers beyond 64 bits
        (or_(kind == "true", kind == "false"), kind),
    )


def _where_values(where: Mapping[str, str], dialect: str, values: dict[str, Any]) -> tuple[tuple[str, ...], int]:
    if len(where) > MAX_WHERE:
        raise _refused("where", f"names more than {MAX_WHERE} fields")
    fields = 0
    for name, value in sorted(where.items()):
        shown = f"where.{escaped(name)}"
        if not _FIELD.match(name):
            raise _refused(shown, "is not a field name: a letter or _, then letters, digits, _ or -, at most 64")
        if not is_storable(value):
            raise _refused(shown, "contains a character that no row has")
        if name in COMPARABLE:
            values[f"where_{name}"] = value
            continue
        values[f"field_{fields}"] = name if dialect == "postgresql" else f'$."{name}"'
        values[f"value_{fields}"] = value
        fields += 1
    return tuple(name for name in COMPARABLE if name in where), fields


def _refused(field: str, problem: str) -> Refusal:
    return Refusal(Reason.INVALID_REQUEST, f"{field}: {problem}")
