"""The events that peers receive when rows and memberships change at the granting gateway."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from federation.errors import ChangesLostError
from federation.resources.batch import Batch, Member
from federation.resources.provider import Change
from federation.scope.model import RowFilter, Scope
from federation.server.watch.change_notifier import COALESCE_S, ChangeNotifier
from federation.server.watch.subscriptions import Event, EventType, SubscriptionRegistry, Watcher
from tests.support.pki import GRANT_ID
from tests.support.provider import ListedProvider
from tests.support.scripted import eventually
from tests.support.server_in_memory import ListedGrants, grant_of
from tests.support.server_on_database import TASKS, A, DatabaseServer, WatchClient, new_row

T1_ONLY = Scope(("tasks", "notes"), filters={"tasks": RowFilter(frozenset({"T1"}), include_personal=False)})


async def heard(watch: WatchClient) -> str:
    """The content of the next event."""
    event = await watch.next()
    return event.resource_changed.resource or str(event.WhichOneof("kind"))


async def watched(granting: DatabaseServer, scope: Scope = T1_ONLY) -> WatchClient:
    """A watch of a grant for ada."""
    return await granting.watch(await granting.grant(scope=scope))


async def write(granting: DatabaseServer, *rows: Any) -> None:
    """Write rows."""
    await granting.provider.apply(Batch(rows=rows))


INSIDE = {
    "a new row of the team": [new_row("t9", owner="bob", team="T1")],
    "a row that changes": [new_row("t1", team="T1", title="other")],
    "a row that leaves the team": [new_row("t1", owner="ada", team="T2")],
    "a row that joins the team": [new_row("t3", owner="bob", team="T1")],
}
OUTSIDE = {
    "a personal row, which the filter keeps out": [new_row("t2", title="other")],
    "a row of another team": [new_row("t3", owner="bob", team="T2", title="other")],
    "another user's personal row": [new_row("n2", "notes", owner="bob")],
    "a resource that the grant does not open": [new_row("m1", "memory")],
    "a row that is as it was": [new_row("t1", team="T1")],
}


@pytest.mark.parametrize("rows", INSIDE.values(), ids=INSIDE.keys())
async def test_a_write_inside_the_grant_is_sent(granting: DatabaseServer, rows: list[Any]) -> None:
    """The row's state before or after is enough."""
    watch = await watched(granting)
    await write(granting, *rows)
    assert await heard(watch) == "tasks"


@pytest.mark.parametrize("rows", OUTSIDE.values(), ids=OUTSIDE.keys())
async def test_a_write_outside_the_grant_is_not_sent(granting: DatabaseServer, rows: list[Any]) -> None:
    """A peer learns nothing of rows that it may not see, not even that they changed."""
    watch = await watched(granting)
    await write(granting, *rows)
    await write(granting, new_row("n1", "notes", title="last"))
    assert await heard(watch) == "notes"


async def test_an_event_comes_after_the_commit(granting: DatabaseServer) -> None:
    """A call made upon the event gets the new row."""
    grant = await granting.grant()
    stub = granting.stub(grant)
    watch = await granting.watch(grant, stub=stub)
    await write(granting, new_row("t9"))
    await watch.next()
    assert "t9" in {row.id for row in (await stub.List(TASKS)).rows}


async def test_many_writes_within_the_window_make_two_events_at_most(granting: DatabaseServer) -> None:
    """The first is sent at once, the others of the same 100 ms as one event at its end."""
    watch = await watched(granting)
    begun = asyncio.get_running_loop().time()
    for number in range(10):
        await write(granting, new_row(f"t1{number}", owner="bob", team="T1"))
    wrote_for = asyncio.get_running_loop().time() - begun
    events = [await heard(watch)]
    while not await watch.silent(3 * COALESCE_S):
        events.append("tasks")
    assert 2 <= len(events) <= 2 + wrote_for / COALESCE_S


async def test_the_last_write_is_always_sent(granting: DatabaseServer) -> None:
    """A write in the quiet time after an event has an event of its own, later."""
    watch = await watched(granting)
    await write(granting, new_row("t1", team="T1", title="one"))
    assert await heard(watch) == "tasks"
    await write(granting, new_row("t1", team="T1", title="two"))
    assert await heard(watch) == "tasks"


async def test_a_change_of_membership_flushes_its_users_grants_alone(granting: DatabaseServer) -> None:
    """Joining a team changes what ada sees, and nothing of bob's; her new team's changes are sent from then on."""
    watch = await watched(granting, Scope(("tasks",)))
    bobs = await granting.watch(await granting.grant("bob", Scope(("tasks",))))
    await granting.provider.apply(Batch(members=(Member("ada", "T2"),)))
    assert await heard(watch) == "grant_changed"
    await write(granting, new_row("t3", owner="bob", team="T2", title="other"))
    assert await heard(watch) == "tasks"
    assert await heard(bobs) == "tasks"


async def test_leaving_a_team_flushes_and_ends_its_events(granting: DatabaseServer) -> None:
    """A removed user's watcher gets `grant_changed`, and no more events of its former team's rows."""
    watch = await watched(granting, Scope(("tasks",)))
    await write(granting, new_row("t4", owner="bob", team="T1"))
    assert await heard(watch) == "tasks"
    await granting.provider.remove_user("ada")
    assert await heard(watch) == "grant_changed"
    await write(granting, new_row("t5", owner="bob", team="T1"))
    await write(granting, new_row("t2", owner="ada", title="mine"))
    assert await heard(watch) == "tasks"
    assert await watch.silent(3 * COALESCE_S)


class Reporting(ListedProvider):
    """A provider whose changes a test scripts: a change to yield, an error to raise, or `None` for the end."""

    def __init__(self) -> None:
        super().__init__(teams={"ada": {"T1"}})
        self.script: asyncio.Queue[Change | Exception | None] = asyncio.Queue()
        self.opened = 0

    async def changes(self) -> AsyncIterator[Change]:
        self.opened += 1
        while True:
            item = await self.script.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                return
            yield item


class Following:
    """A `ChangeNotifier` with a scripted provider and one watcher."""

    def __init__(self, scope: Scope = T1_ONLY, provider: Reporting | None = None) -> None:
        self.provider, self.grants = provider or Reporting(), ListedGrants()
        self.grants[GRANT_ID] = grant_of(scope=scope)
        self.subscriptions = SubscriptionRegistry(lambda _, __: None)
        self.watcher: Watcher = self.subscriptions.add(GRANT_ID, A)
        self.task = asyncio.create_task(ChangeNotifier(self.provider, self.grants, self.subscriptions).run())

    async def next(self) -> Event:
        async with asyncio.timeout(5):
            return await self.watcher.next()

    async def told(self, *items: Change | Exception | None) -> None:
        for item in items:
            self.provider.script.put_nowait(item)
        await eventually(self.provider.script.empty)


@pytest.mark.parametrize("fault", [ChangesLostError("too slow"), ValueError("odd")])
async def test_lost_changes_flush_everything(fault: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """If changes were missed, every watcher gets `grant_changed`, and the changes are followed again."""
    following = Following()
    await following.told(fault)
    assert (await following.next()).event_type is EventType.GRANT_CHANGED
    assert following.provider.opened == 2
    await following.told(Change("notes", frozenset({"ada"}), frozenset({""})))
    assert (await following.next()).text == "notes"
    assert caplog.records
    following.task.cancel()


async def test_a_provider_without_changes_is_left_alone() -> None:
    """A provider that ends its changes reports none: it is not followed again, and no cache is invalidated."""
    following = Following()
    await following.told(None)
    await asyncio.wait_for(following.task, 20)
    assert following.provider.opened == 1
    assert not following.watcher._queue


async def test_a_provider_that_knows_no_teams_tells_owners_alone() -> None:
    """Without team memberships, a peer gets events of its subject's own rows only."""
    following = Following()
    await following.told(Change("tasks", frozenset({"eve"}), frozenset({"T1"})))
    await following.told(Change("tasks", frozenset({"ada", "eve"}), frozenset({"T1"})))
    assert (await following.next()) == Event(EventType.RESOURCE_CHANGED, "tasks")
    assert not following.watcher._queue
    following.task.cancel()


class Telling(Reporting):
    """A scripted provider that knows teams."""

    async def teams_of(self, subject: str) -> frozenset[str]:
        return frozenset(self.teams[subject])


async def test_teams_are_read_again_after_a_change_of_rights() -> None:
    """After a change of rights, events of joined teams are sent and those of left teams are not."""
    following = Following(Scope(("tasks", "notes", "memory", "credentials")), Telling())
    of_t1, of_t2 = frozenset({"T1"}), frozenset({"T2"})
    eve = frozenset({"eve"})
    await following.told(Change("tasks", eve, of_t1), Change("notes", eve, of_t2))
    assert (await following.next()).text == "tasks"
    following.provider.teams["ada"] = {"T2"}
    await following.told(Change("", frozenset({"ada"}), of_t1 | of_t2))
    assert (await following.next()).event_type is EventType.GRANT_CHANGED
    await following.told(Change("memory", eve, of_t1), Change("credentials", eve, of_t2))
    assert (await following.next()).text == "credentials"
    following.task.cancel()


async def test_a_watcher_of_a_removed_grant_does_not_stop_the_notifier() -> None:
    """A change finds a watcher whose grant is not known any more."""
    following = Following()
    following.subscriptions.add("gone", A)
    await following.told(Change("notes", frozenset({"ada"}), frozenset({""})))
    assert (await following.next()).text == "notes"
    await following.told(Change("", frozenset({"ada"}), frozenset()))
    assert (await following.next()).event_type is EventType.GRANT_CHANGED
    assert not following.task.done()
    following.task.cancel()
