"""Warnings about a grant that is valid but probably a mistake, as sentences for the operator."""

import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Final

from federation.admin.context import AdminContext
from federation.admin.grant_preview import has_rows
from federation.admin.lookup import KnowsNames
from federation.resources.provider import KnowsTeams
from federation.scope.model import RowFilter, Scope
from federation.store.grants.model import Grant, GrantStatus
from federation.suggest import hint, is_typo
from federation.v1 import admin_pb2 as pb

LOGGER: Final = logging.getLogger(__name__)
MAX_TEAMS: Final = 20
"""Teams of one scope that are checked."""
MAX_NAMES: Final = 10_000
UNENDED: Final = frozenset({GrantStatus.PENDING, GrantStatus.ACTIVE})


async def scope_warnings(context: AdminContext, subject: str, scope: Scope) -> tuple[str, ...]:
    """Return the warnings about a scope for a subject. Team warnings are omitted and logged if the look-up fails."""
    try:
        return (*scope.warnings, *[warning async for warning in _team_warnings(context, subject, scope)])
    except Exception:
        LOGGER.exception("could not look up the teams of a scope")
        return scope.warnings


def grant_warnings(context: AdminContext, grant: Grant, opens: Sequence[pb.ResourcePreview]) -> tuple[str, ...]:
    """Return the warnings about a new grant other than those about its scope."""
    return tuple(_grant_warnings(context, grant, opens))


def _grant_warnings(context: AdminContext, grant: Grant, opens: Sequence[pb.ResourcePreview]) -> Iterator[str]:
    others = [other for other in context.grants.all() if other.id != grant.id]
    now_us = context.clock.now_us()
    if grant.peer == context.config.name:
        yield f"peer: {grant.peer} is this gateway's own name"
    near = sorted({other.peer for other in others if is_typo(grant.peer, other.peer)})
    if near and all(other.peer != grant.peer for other in others):
        yield f"peer: no other grant names {grant.peer}; did you mean {near[0]}?"
    for other in others:
        if (other.peer, other.subject) == (grant.peer, grant.subject) and other.status_at(now_us) in UNENDED:
            yield f"grant {other.id} is {other.status_at(now_us)} for {grant.peer} as {grant.subject} already"
            break
    if len(opens) == len(grant.scope.open_resources) and not any(one.rows for one in opens):
        yield f"the grant currently opens no row: {grant.subject} has no row here that matches the scope"


async def _team_warnings(context: AdminContext, subject: str, scope: Scope) -> AsyncIterator[str]:
    provider = context.provider
    scope_teams = [(resource, team) for resource in scope.open_resources for team in _teams(scope.check(resource))]
    known_teams = await _known_teams(context) if scope_teams else None
    subject_teams = await provider.teams_of(subject) if scope_teams and isinstance(provider, KnowsTeams) else None
    for resource, team in scope_teams[:MAX_TEAMS]:
        field = f"scope.filters.{resource}.include_teams"
        if known_teams is not None and team not in known_teams:
            meant = hint(team, known_teams)
            yield f"{field}: there is no team {team!r} here{f'; {meant}' if meant else ''}"
        elif subject_teams is not None and team not in subject_teams:
            yield f"{field}: {subject} is not in team {team!r}, so only rows in it that {subject} owns are opened"
        elif not await has_rows(provider, subject, resource, RowFilter(frozenset({team}), include_personal=False)):
            yield f"{field}: team {team!r} currently has no {resource}"


async def _known_teams(context: AdminContext) -> frozenset[str] | None:
    """Return every team, `None` if the provider cannot list all teams."""
    if not isinstance(context.provider, KnowsNames):
        return None
    _, teams = await context.provider.names(MAX_NAMES)
    return frozenset(teams) if len(teams) < MAX_NAMES else None


def _teams(row_filter: RowFilter) -> Iterable[str]:
    return sorted(row_filter.include_teams or ())
