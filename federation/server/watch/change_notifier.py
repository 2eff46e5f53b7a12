"""The change notifier: turns committed writes into events, so that peers invalidate outdated cache entries.

A peer gets an event of a resource only if the old or new state of a written row lies inside its grant.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Final

from federation.backoff import Backoff
from federation.errors import ChangesLostError
from federation.resources.provider import Change, KnowsTeams, ResourceProvider
from federation.scope.model import EVERYTHING
from federation.server.watch.subscriptions import Event, EventType, SubscriptionRegistry
from federation.store.grants.model import Grant
from federation.store.grants.registry import GrantRegistry

LOGGER: Final = logging.getLogger(__name__)
COALESCE_S: Final = 0.1
"""Seconds after an event of a resource within which further changes of it become one event, at the end."""
FIRST_RETRY_S: Final = 0.5
LAST_RETRY_S: Final = 30.0


class ChangeNotifier:
    """Follows the changes of one provider. Use it from one event loop; `run` it while the gateway serves."""

    def __init__(self, provider: ResourceProvider, grants: GrantRegistry, subscriptions: SubscriptionRegistry) -> None:
        self._provider, self._grants, self._subscriptions = provider, grants, subscriptions
        self._teams: dict[str, frozenset[str]] = {}
        self._coalescing: dict[tuple[str, str], bool] = {}

    async def run(self) -> None:
        """Follow the changes until cancelled, or until the provider ends them because it reports none."""
        backoff, failing = Backoff(FIRST_RETRY_S, LAST_RETRY_S), False
        while True:
            changes = self._provider.changes()
            if failing:
                self._invalidate_all()
            try:
                await self._follow(changes)
            except ChangesLostError as e:
                LOGGER.warning("%s; the caches of all watching peers are invalidated", e)
                failing = True
                backoff.reset()
            except Exception:
                failing, pause_s = True, backoff.failed()
                LOGGER.exception("the provider's changes cannot be followed; retrying in %.1f s", pause_s)
                await asyncio.sleep(pause_s)
            else:
                return

    async def _follow(self, changes: AsyncIterator[Change]) -> None:
        async for change in changes:
            if change.resource:
                await self._publish_change(change)
            else:
                self._rights_changed(change)

    async def _publish_change(self, change: Change) -> None:
        for grant_id in self._subscriptions.grants:
            grant = self._grants.get(grant_id)
            if grant is not None and await self._is_inside(change, grant):
                self._publish_coalesced(grant_id, change.resource)

    def _rights_changed(self, change: Change) -> None:
        for user in change.owners:
            self._teams.pop(user, None)
        for grant_id in self._subscriptions.grants:
            grant = self._grants.get(grant_id)
            if grant is not None and grant.subject in change.owners:
                self._subscriptions.publish(grant_id, Event(EventType.GRANT_CHANGED))

    async def _is_inside(self, change: Change, grant: Grant) -> bool:
        """Tell whether a row's old or new state is in the grant's scope and visible to its subject."""
        if change.resource not in grant.scope.open_resources:
            return False
        row_filter = grant.scope.filters.get(change.resource, EVERYTHING)
        admitted = {team for team in change.teams if row_filter.admits(team)}
        if not admitted or grant.subject in change.owners:
            return bool(admitted)
        return not admitted.isdisjoint(await self._teams_of(grant.subject))

    async def _teams_of(self, subject: str) -> frozenset[str]:
        if subject not in self._teams:
            provider: object = self._provider
            self._teams[subject] = await provider.teams_of(subject) if isinstance(provider, KnowsTeams) else frozenset()
        return self._teams[subject]

    def _publish_coalesced(self, grant_id: str, resource: str) -> None:
        key = (grant_id, resource)
        if key in self._coalescing:
            self._coalescing[key] = True
            return
        self._coalescing[key] = False
        self._subscriptions.publish(grant_id, Event(EventType.RESOURCE_CHANGED, resource))
        asyncio.get_running_loop().call_later(COALESCE_S, self._end_window, key)

    def _end_window(self, key: tuple[str, str]) -> None:
        if self._coalescing.pop(key):
            self._publish_coalesced(*key)

    def _invalidate_all(self) -> None:
        """Invalidate the caches of all watching peers, because changes were missed."""
        self._teams.clear()
        for grant_id in self._subscriptions.grants:
            self._subscriptions.publish(grant_id, Event(EventType.GRANT_CHANGED))
