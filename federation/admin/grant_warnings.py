"""What is allowed in a grant and worth a second thought, in sentences for its operator."""

import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Final

from federation.admin.context import AdminContext
from federation.admin.grant_preview import has_rows
from federation.admin.lookup import KnowsNames
from federation.resources.provider import KnowsTeams
from federation.scope.model import RowFilter, Scope
from federation.store.grants.registry import Grant, GrantStatus
from federation.suggest import hint, is_typo
from federation.v1 import admin_pb2 as pb

__all__ = ["grant_advice", "scope_advice"]

LOGGER: Final = logging.getLogger(__name__)
TEAMS: Final = 20
"""Teams of one scope that are looked at."""
NAMES: Final = 10_000
ALIVE: Final = frozenset({GrantStatus.PENDING, GrantStatus.ACTIVE})


async def scope_advice(parts: AdminContext, subject: str, scope: Scope) -> tuple[str, ...]:
    """Return what there is to say of a scope for a subject."""
    try:
        return (*scope.warnings, *[words async for words in _of_teams(parts, subject, scope)])
    except Exception:
        LOGGER.exception("the teams of a scope could not be looked up")
        return scope.warnings


def grant_advice(parts: AdminContext, grant: Grant, opens: Sequence[pb.ResourcePreview]) -> tuple[str, ...]:
    """Return what there is to say of a new grant beside its scope."""
    return tuple(_of_grant(parts, grant, opens))


def _of_grant(parts: AdminContext, grant: Grant, opens: Sequence[pb.ResourcePreview]) -> Iterator[str]:
    others = [other for other in parts.grants.all() if other.id != grant.id]
    now_us = parts.clock.now_us()
    if grant.peer == parts.config.name:
        yield f"peer: {grant.peer} is this gateway's own name"
    near = sorted({other.peer for other in others if is_typo(grant.peer, other.peer)})
    if near and all(other.peer != grant.peer for other in others):
        yield f"peer: no other grant names {grant.peer}; did you mean {near[0]}?"
    for other in others:
        if (other.peer, other.subject) == (grant.peer, grant.subject) and other.status_at(now_us) in ALIVE:
            yield f"grant {other.id} is {other.status_at(now_us)} for {grant.peer} as {grant.subject} already"
            break
    if len(opens) == len(grant.scope.open_resources) and not any(one.rows for one in opens):
        yield f"at this moment it opens no row: {grant.subject} has none here that the scope lets through"


async def _of_teams(parts: AdminContext, subject: str, scope: Scope) -> AsyncIterator[str]:
    provider = parts.provider
    named = [(resource, team) for resource in scope.open_resources for team in _teams(scope.check(resource))]
    known = await _known_teams(parts) if named else None
    mine = await provider.teams_of(subject) if named and isinstance(provider, KnowsTeams) else None
    for resource, team in named[:TEAMS]:
        field = f"scope.filters.{resource}.include_teams"
        if known is not None and team not in known:
            meant = hint(team, known)
            yield f"{field}: there is no team {team!r} here{f'; {meant}' if meant else ''}"
        elif mine is not None and team not in mine:
            yield f"{field}: {subject} is not in team {team!r}, so that only rows there that {subject} owns are opened"
        elif not await has_rows(provider, subject, resource, RowFilter(frozenset({team}), include_personal=False)):
            yield f"{field}: team {team!r} has no {resource} at this moment"


async def _known_teams(parts: AdminContext) -> frozenset[str] | None:
    """Return every team, `None` where that cannot be told."""
    if not isinstance(parts.provider, KnowsNames):
        return None
    _, teams = await parts.provider.names(NAMES)
    return frozenset(teams) if len(teams) < NAMES else None


def _teams(row_filter: RowFilter) -> Iterable[str]:
    return sorted(row_filter.include_teams or ())
