"""Differences between two scopes: gains and losses of the peer, in sentences. Pure."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from federation.scope.describe import describe_filter, describe_teams, quote_names
from federation.scope.model import EVERYTHING, RowFilter, Scope


@dataclass(frozen=True, slots=True)
class ScopeChange:
    """Sentences about what becomes readable (`gains`) and what no longer is (`losses`).

    `narrows` tells whether an answer under the old scope may contain rows that the new scope does not allow.
    """

    gains: tuple[str, ...]
    losses: tuple[str, ...]
    narrows: bool


def compare_scopes(before: Scope, after: Scope) -> ScopeChange:
    """Compare two scopes by what they make readable."""
    gains, losses = list(_more(before, after)), list(_more(after, before))
    old, new = before.max_rows_per_query, after.max_rows_per_query
    if old != new:
        (gains if new > old else losses).append(f"{new} rows a query, before {old}")
    narrows = bool(losses)
    old, new = before.rate_limit_per_minute, after.rate_limit_per_minute
    if old != new:
        (gains if new > old else losses).append(f"{new} calls a minute, before {old}")
    return ScopeChange(tuple(gains), tuple(losses), narrows)


def _more(less: Scope, more: Scope) -> Iterator[str]:
    """Yield a sentence for each part of `more` that `less` does not open."""
    known = less.open_resources
    for resource in more.open_resources:
        row_filter = more.filters.get(resource, EVERYTHING)
        if resource not in known:
            yield f"{resource}: {describe_filter(row_filter)}"
        else:
            for rows in _more_rows(less.filters.get(resource, EVERYTHING), row_filter):
                yield f"{resource}: {rows}"


def _more_rows(less: RowFilter, more: RowFilter) -> Iterator[str]:
    if less.include_teams is not None:
        if more.include_teams is None:
            yield f"rows of every team{_but(less.include_teams)}"
        elif new := more.include_teams - less.include_teams:
            yield f"rows of {describe_teams(new)}"
    if more.include_personal and not less.include_personal:
        yield "personal rows"


def _but(teams: Collection[str]) -> str:
    return f" but {quote_names(teams)}" if teams else ""
