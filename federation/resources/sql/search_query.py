"""The SQL of `search`: one statement that includes access rules and filters.

The caller's text never reaches a query language: it is split into words, and each word is encoded as one plain token
(`fulltext`), so quotes, operators and column names in it have no special meaning.
"""

from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Float,
    FromClause,
    Integer,
    Select,
    Text,
    and_,
    cast,
    column,
    func,
    literal_column,
    or_,
    select,
    table,
)

from federation.errors import Reason, Refusal
from federation.resources.fulltext import tokens
from federation.resources.provider import SearchQuery
from federation.resources.sql.access import LIMIT, admitted, filter_values, integer, storable_id, text, visible
from federation.resources.sql.list_query import COLUMNS
from federation.store.schema import rows

MAX_WORDS: Final = 32
"""Maximum number of different words of a search."""
MAX_OFFSET: Final = 100_000
"""Maximum number of hits that can be paged through."""
_FTS: Final = table("rows_fts", column("rowid", Integer))


def search_parameters(subject: str, query: SearchQuery, dialect: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the terms that must all match and the parameters, with a limit one above the requested one.

    Raises `Refusal` INVALID_REQUEST that names the field.
    """
    terms = tuple(dict.fromkeys(tokens(query.text)))
    if not terms:
        raise Refusal(Reason.INVALID_REQUEST, "query: contains no word to search for")
    if len(terms) > MAX_WORDS:
        raise Refusal(Reason.INVALID_REQUEST, f"query: contains more than {MAX_WORDS} different words")
    if query.offset > MAX_OFFSET:
        raise Refusal(Reason.INVALID_REQUEST, f"page_token: a search ends after {MAX_OFFSET} hits")
    values: dict[str, Any] = {"subject": storable_id(subject), "limit": query.limit + 1, "offset": query.offset}
    for number, (resource, row_filter) in enumerate(sorted(query.filters.items())):
        values[f"resource_{number}"] = storable_id(resource)
        values.update(filter_values(row_filter, dialect, f"_{number}"))
    values["words"] = " ".join(terms) if dialect == "postgresql" else " AND ".join(f'"{term}"' for term in terms)
    return terms, values


@lru_cache(maxsize=16)
def search_statement(dialect: str, count: int) -> Select[Any]:
    """Return the search over `count` resources; its columns are a row's, its rank and the best rank of all hits.

    Callers see ranks relative to the best: absolute ranks differ between databases, and bm25 depends on rows that the
    subject may not see.
    """
    rank, matches, source, resource = _matching(dialect)
    opened = [and_(resource == text(f"resource_{n}"), admitted(rows, dialect, f"_{n}")) for n in range(count)]
    hits = select(rows.c.seq, rows.c.created_at, rows.c.id, rank.label("rank")).select_from(source)
    hits = hits.where(matches, visible(rows), or_(*opened))
    every = hits.subquery("hits")
    order = (every.c.rank.desc(), every.c.created_at.desc(), every.c.id)
    best = func.max(every.c.rank).over().label("best")
    ranked = select(every.c.seq, every.c.rank, best).order_by(*order)
    page = ranked.limit(LIMIT).offset(integer("offset")).subquery("page")
    answer = select(*COLUMNS, page.c.rank, page.c.best).select_from(page.join(rows, rows.c.seq == page.c.seq))
    return answer.order_by(page.c.rank.desc(), rows.c.created_at.desc(), rows.c.id)


def _matching(dialect: str) -> tuple[ColumnElement[float], ColumnElement[bool], FromClause, ColumnElement[str]]:
    """Return rank, condition, tables and resource column for the dialect."""
    if dialect == "postgresql":
        query = func.plainto_tsquery(literal_column("'simple'"), text("words"))
        from sqlalchemy.dialects.postgresql import TSVECTOR

        row_terms = literal_column("rows.words", TSVECTOR)
        rank = func.ts_rank_cd(row_terms, query, literal_column("1"))  # 1: normalize by document length
        return cast(rank, Float), row_terms.op("@@")(query), rows, rows.c.resource
    index: ColumnElement[str] = literal_column("rows_fts")
    source = rows.join(_FTS, _FTS.c.rowid == rows.c.seq)
    # The plus prevents use of an index: SQLite would otherwise probe the full-text index for every row of a resource.
    resource: ColumnElement[str] = literal_column("+rows.resource", Text())
    return -func.bm25(index), index.op("MATCH")(text("words")), source, resource
