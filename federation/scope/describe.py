"""Descriptions of scopes for people. Pure."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Final

from federation.scope.model import EVERYTHING, SENSITIVE_RESOURCES, RowFilter, Scope

DEFAULT_SUBJECT: Final = "the subject"
_PLAIN: Final = re.compile(r"\w[\w.@/+-]*\Z")
"""Names that need no quotes. Other names are quoted: they may contain commas or words of the sentence."""


def describe_scope(scope: Scope, subject: str = "") -> tuple[str, ...]:
    """Return one sentence for each group of readable resources, then the limits, then the exclusions.

    Resources with the same filter share a sentence. `subject` is the user as whom the peer reads.
    """
    return (*describe_reads(scope, subject), *_limits(scope), *_closed(scope))


def summarize_scope(scope: Scope, subject: str = "") -> str:
    """Return the description of `describe_scope` in one line."""
    return ", ".join(("; ".join(describe_reads(scope, subject)), *_limits(scope), *_closed(scope)))


def describe_reads(scope: Scope, subject: str = "") -> tuple[str, ...]:
    """Return one sentence for each group of resources with the same filter."""
    alike: dict[RowFilter, list[str]] = {}
    for resource in scope.open_resources:
        alike.setdefault(scope.filters.get(resource, EVERYTHING), []).append(resource)
    who = _quoted(subject) if subject else DEFAULT_SUBJECT
    found = [_reads(_listed(resources), row_filter, who) for row_filter, resources in alike.items()]
    return tuple(found) or ("reads nothing: every resource that it names is excluded",)


def describe_filter(row_filter: RowFilter) -> str:
    """Describe the rows that pass a filter."""
    teams = row_filter.include_teams
    parts = ["rows of every team"] if teams is None else [f"rows of {describe_teams(teams)}"] if teams else []
    parts += ["personal rows"] if row_filter.include_personal else []
    return " and ".join(parts) or "no row"


def describe_teams(teams: Iterable[str]) -> str:
    """Return `team T1`, or `teams T1, T2`."""
    names = sorted(teams)
    return f"{'team' if len(names) == 1 else 'teams'} {quote_names(names)}"


def quote_names(names: Iterable[str]) -> str:
    """Return the sorted names separated by commas, with quotes where needed."""
    return ", ".join(map(_quoted, sorted(names)))


def _reads(resources: str, row_filter: RowFilter, who: str) -> str:
    teams, personal = row_filter.include_teams, row_filter.include_personal
    if teams is None:
        return f"reads {resources}: all that {who} may{'' if personal else ', no personal rows'}"
    if teams:
        besides = f" and {who}'s personal rows" if personal else ", no personal rows"
        return f"reads {resources} of {describe_teams(teams)}{besides}"
    if personal:
        return f"reads {resources}: {who}'s personal rows alone"
    return f"reads no row of {resources}: no team is named, and personal rows are left out"


def _limits(scope: Scope) -> Iterator[str]:
    yield f"at most {_counted(scope.max_rows_per_query, 'row')} a query"
    yield f"{_counted(scope.rate_limit_per_minute, 'call')} a minute"


def _closed(scope: Scope) -> Iterator[str]:
    if secrets := [name for name in scope.open_resources if name in SENSITIVE_RESOURCES]:
        yield f"{_listed(secrets)} never cached"
    if scope.excluded_resources:
        yield f"never {_listed(scope.excluded_resources)}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _quoted(name: str) -> str:
    return name if _PLAIN.match(name) else json.dumps(name, ensure_ascii=False)


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
