"""Access rules as SQL: the subject's own rights, narrowed by a grant's filter.

A subject sees the rows that it owns and the rows of its teams. A row without a team is visible only to its owner. An
unknown user sees nothing.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    ColumnElement,
    FromClause,
    Integer,
    Text,
    and_,
    any_,
    bindparam,
    func,
    literal_column,
    or_,
    select,
)

from federation.resources.documents import is_storable
from federation.scope.model import RowFilter
from federation.store.schema import memberships

PERSONAL: Final = literal_column("''", Text())
"""The `team` of a personal row. No team has this id."""


def text(name: str) -> ColumnElement[str]:
    """Return a bind parameter for text."""
    return bindparam(name, type_=Text())


def integer(name: str) -> ColumnElement[int]:
    """Return a bind parameter for an integer."""
    return bindparam(name, type_=Integer())


def instant(name: str) -> ColumnElement[int]:
    """Return a bind parameter for an instant in microseconds."""
    return bindparam(name, type_=BigInteger())


SUBJECT: Final = text("subject")
LIMIT: Final = integer("limit")


def storable_id(value: str) -> str:
    """Return an id, or, if the database cannot store it, an id that no object has."""
    return value if is_storable(value) else ""


def visible(table: FromClause) -> ColumnElement[bool]:
    """Return the condition that the subject's own rights include a row."""
    teams = select(memberships.c.team_id).where(memberships.c.user_id == SUBJECT)
    return or_(table.c.owner == SUBJECT, and_(table.c.team != PERSONAL, table.c.team.in_(teams)))


def admitted(table: FromClause, dialect: str, suffix: str = "") -> ColumnElement[bool]:
    """Return the condition that a filter admits a row, as `RowFilter.admits` does."""
    personal: ColumnElement[bool] = bindparam(f"personal{suffix}", type_=Boolean())
    return or_(
        and_(table.c.team == PERSONAL, personal),
        and_(table.c.team != PERSONAL, team_admitted(table.c.team, dialect, suffix)),
    )


def team_admitted(team: ColumnElement[str], dialect: str, suffix: str = "") -> ColumnElement[bool]:
    """Return the condition that a filter admits the rows of a team."""
    everything: ColumnElement[bool] = bindparam(f"all_teams{suffix}", type_=Boolean())
    return or_(everything, one_of(team, f"teams{suffix}", dialect))


def one_of(column: ColumnElement[str], name: str, dialect: str) -> ColumnElement[bool]:
    """Return the condition that a column equals one of the texts of a single list parameter."""
    if dialect == "postgresql":
        return column == any_(bindparam(name, type_=ARRAY(Text())))
    return column.in_(select(func.json_each(text(name)).table_valued("value").c.value))


def texts(values: Iterable[str], dialect: str) -> Any:
    """Return the parameter value for `one_of`."""
    return list(values) if dialect == "postgresql" else json.dumps(list(values))


def filter_values(row_filter: RowFilter, dialect: str, suffix: str = "") -> Mapping[str, Any]:
    """Return the parameter values for `admitted` and `team_admitted`."""
    return {
        f"personal{suffix}": row_filter.include_personal,
        f"all_teams{suffix}": row_filter.include_teams is None,
        f"teams{suffix}": texts(sorted(filter(is_storable, row_filter.include_teams or ())), dialect),
    }
