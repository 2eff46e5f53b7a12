import asyncio
from dataclasses import replace
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import insert, text
from sqlalchemy.engine import Connection
from sqlalchemy.event import listen

from federation.errors import InputError
from federation.resources.batch import Batch
from federation.resources.sql.writes import write_batch
from federation.store.advisory_keys import AdvisoryKey
from federation.store.audit.model import AuditEvent, AuditFilter, Position, tail_position, tail_token
from federation.store.audit.table import AuditStore
from federation.store.database import MIGRATIONS, Database
from federation.store.schema import audit_events
from tests.support.audit_events import audit_event as event


def plain(found: AuditEvent) -> dict[str, Any]:
    """An event without its number."""
    return {name: getattr(found, name) for name in AuditEvent.__slots__ if name != "id"}


async def test_events_come_back_as_they_went_in_newest_first(database: Database) -> None:
    """Every field survives, and the order is that of writing, backwards."""
    store = AuditStore(database)
    written = [event(1), event(2, grant_id=None, outcome="denied", reason="GRANT_INVALID: unknown grant", count=7)]

    await store.insert_many(written)
    await store.insert_many([])
    page = await store.page(AuditFilter())

    assert [plain(found) for found in page.events] == [plain(found) for found in reversed(written)]
    assert page.events[0].id > page.events[1].id > 0
    assert page.next_page_token == ""


async def test_pages_give_every_event_once(database: Database) -> None:
    """Tokens lead through all events; events written meanwhile do not disturb them."""
    store, seen, token = AuditStore(database), [], ""
    await store.insert_many([event(number) for number in range(7)])

    while True:
        page = await store.page(AuditFilter(), 3, token)
        seen += [found.at_us for found in page.events]
        await store.insert_many([event(99)])
        if not (token := page.next_page_token):
            break

    assert seen == [6, 5, 4, 3, 2, 1, 0]


async def test_a_page_that_holds_the_last_event_is_the_last(database: Database) -> None:
    """A page that is exactly full has no token if no event is older."""
    store = AuditStore(database)
    await store.insert_many([event(number) for number in range(3)])

    page = await store.page(AuditFilter(), 3)

    assert (len(page.events), page.next_page_token) == (3, "")


async def test_filters_narrow_together(database: Database) -> None:
    """Each filter is equality, `since` counts from its instant on, and the count follows the same filters."""
    store = AuditStore(database)
    await store.insert_many(
        [
            event(1),
            event(2, grant_id="h"),
            event(3, peer="other.example"),
            event(4, verb="get"),
            event(5, outcome="denied", count=4),
        ]
    )

    async def found(**wanted: Any) -> list[int]:
        return [e.at_us for e in (await store.page(AuditFilter(**wanted))).events]

    assert await found(grant_id="h") == [2]
    assert await found(peer="other.example") == [3]
    assert await found(verb="get") == [4]
    assert await found(outcome="denied") == [5]
    assert await found(since_us=4) == [5, 4]
    assert await found(until_us=3) == [2, 1]
    assert await found(since_us=2, until_us=4) == [3, 2]
    assert await found(grant_id="g", verb="list", outcome="ok", since_us=2) == [3]
    assert await found(grant_id="' OR 1=1 --") == []


async def test_unprintable_text_of_a_peer_never_fails_a_batch(database: Database) -> None:
    """Unprintable characters are replaced and overlong text is truncated; other text is unchanged."""
    store = AuditStore(database)

    await store.insert_many([event(1, resource="ta\0s\nks\ud800", reason="x" * 5_000, trace_id="c" * 99), event(2)])

    kept = (await store.page(AuditFilter())).events[1]
    assert kept.resource == "ta?s?ks?"
    assert (len(kept.reason), len(kept.trace_id)) == (256, 32)


async def test_the_order_is_that_of_time(database: Database) -> None:
    """An event written late is listed by its time; events of one instant in the order of writing."""
    store = AuditStore(database)
    await store.insert_many([event(5), event(9), event(5), event(7)])

    seen, token = [], ""
    while True:
        page = await store.page(AuditFilter(), 1, token)
        seen += [(found.at_us, found.id) for found in page.events]
        if not (token := page.next_page_token):
            break

    assert seen == [(9, 2), (7, 4), (5, 3), (5, 1)]


async def test_a_token_belongs_to_its_filters_and_not_to_its_times(database: Database) -> None:
    """With another name it is refused, field by field; with a later time window it continues at its position."""
    store = AuditStore(database)
    await store.insert_many([event(number) for number in range(4)])
    mine = AuditFilter(grant_id="g", peer="home.example", verb="list", outcome="ok", since_us=0)
    token = (await store.page(mine, 2)).next_page_token

    moved = replace(mine, since_us=1, until_us=50)
    assert [found.at_us for found in (await store.page(moved, 9, token)).events] == [1]
    for field in ("grant_id", "peer", "verb", "outcome"):
        for value in ("", "other"):
            with pytest.raises(InputError, match=r"^page_token: is not a token of an earlier page with these filters"):
                await store.page(replace(mine, **{field: value}), 2, token)


async def test_tail_and_page_tokens_are_not_interchangeable(database: Database) -> None:
    """A page refuses a tail token, and a page token is not a tail token."""
    store, wanted = AuditStore(database), AuditFilter(verb="list")
    await store.insert_many([event(1), event(2)])
    place = (await store.page(wanted, 1)).next_page_token

    assert tail_position(wanted, tail_token(wanted, 7)) == 7
    assert tail_position(wanted, place) is None
    assert tail_position(wanted, "") is None
    with pytest.raises(InputError, match=r"^page_token: "):
        await store.page(wanted, 1, tail_token(wanted, 7))
    with pytest.raises(InputError, match=r"^page_token: "):
        tail_position(AuditFilter(), tail_token(wanted, 7))


async def test_following_gives_each_row_once_in_the_order_of_writing(database: Database) -> None:
    """The newest first of all, then what is written later, whatever its time; what no filter wants only moves on."""
    store, wanted = AuditStore(database), AuditFilter(verb="list")
    await store.insert_many([event(10), event(20), event(15), event(30, verb="get")])

    begun = await store.latest(wanted, 2)
    assert ([found.at_us for found in begun.events], begun.last_id) == ([20, 15], 4)
    await store.insert_many([event(5), event(6, verb="get"), event(7)])
    one = await store.later(wanted, begun.last_id, 2)
    two = await store.later(wanted, one.last_id, 2)
    three = await store.later(wanted, two.last_id, 2)

    assert [[found.at_us for found in part.events] for part in (one, two, three)] == [[5], [7], []]
    assert (one.last_id, two.last_id, three.last_id) == (6, 7, 7)


async def test_an_event_written_while_following_begins_comes_once(database: Database) -> None:
    """The first rows end at the last row that was seen, so an event written meanwhile is among the later rows only."""
    store = AuditStore(database)
    await store.insert_many([event(1), event(2)])
    last_id = await store.last_id()
    await store.insert_many([event(3)])

    assert [found.at_us for found in await store.newest(AuditFilter(), 5, last_id=last_id)] == [2, 1]
    assert [found.at_us for found in (await store.later(AuditFilter(), last_id, 5)).events] == [3]


async def test_following_an_empty_trail_begins_with_its_first_row(database: Database) -> None:
    """An empty trail also gives a position to continue from."""
    store = AuditStore(database)
    begun = await store.latest(AuditFilter(), 5)
    assert (begun.events, begun.last_id) == ((), 0)

    await store.insert_many([event(1)])

    assert [found.id for found in (await store.later(AuditFilter(), begun.last_id, 5)).events] == [1]


@pytest.mark.postgres
@pytest.mark.smoke
async def test_numbers_become_visible_in_their_order(postgres_url: str) -> None:
    """A batch waits for one that another process has begun, so that no follower passes over the slower one."""
    first, second = await Database.open(postgres_url), await Database.open(postgres_url)
    async with first.write() as slow:
        await slow.execute(text(f"SELECT pg_advisory_xact_lock({AdvisoryKey.APPEND_AUDIT:d})"))
        await slow.execute(insert(audit_events).values(at=1, verb="list", outcome="ok"))
        quick = asyncio.create_task(AuditStore(second).insert_many([event(2)]))
        async with first.read() as watching:
            waits = (
                "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
                " WHERE l.locktype = 'advisory' AND d.datname = current_database() AND NOT l.granted"
            )
            while not await watching.scalar(text(waits)):
                assert not quick.done()
                await watching.rollback()
        assert (await AuditStore(second).later(AuditFilter(), 0, 9)).events == ()
    await quick
    found = await AuditStore(second).later(AuditFilter(), 0, 9)
    await first.close()
    await second.close()

    assert [(one.id, one.at_us) for one in found.events] == [(1, 1), (2, 2)]


@pytest.mark.postgres
async def test_an_import_in_progress_does_not_delay_the_audit(postgres_url: str) -> None:
    """Audit events are appended while another connection holds the lock that the writes of rows wait for."""
    database = await Database.open(postgres_url)
    store = AuditStore(database)
    async with database.write() as importing:
        await write_batch(importing, Batch(users=("ada",)), 1)
        async with asyncio.timeout(5):
            await store.insert_many([event(1)])
        assert [found.at_us for found in await store.newest(AuditFilter(), 9)] == [1]
    await database.close()


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (AuditFilter(), "at_id"),
        (AuditFilter(since_us=5), "at_id"),
        (AuditFilter(grant_id="g3", since_us=5), "grant_id_at_id"),
        (AuditFilter(peer="p"), "peer_at_id"),
        (AuditFilter(outcome="denied"), "outcome_at_id"),
        (AuditFilter(verb="grant.revoke", until_us=900), "verb_at_id"),
    ],
)
async def test_every_filter_has_its_index(sqlite_url: str, wanted: AuditFilter, index: str) -> None:
    """A page of a large table is read in its order from an index: nothing is scanned, nothing is sorted."""
    database = await Database.open(sqlite_url)
    asked: list[str] = []

    def note(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if statement.startswith("SELECT audit"):
            asked.append(statement)
            asked.append(parameters)

    listen(database.engine.sync_engine, "before_cursor_execute", note)
    await AuditStore(database).newest(wanted, 5, Position(999, 999))
    async with database.read() as connection:
        plan = [row[3] for row in await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked[0]}", asked[1])]
    await database.close()

    assert len(plan) == 1
    assert f"USING INDEX ix_audit_events_{index} (" in plan[0]


@pytest.mark.smoke
async def test_numbers_and_rows_survive_the_change_of_the_table(database_url: str) -> None:
    """An audit of the version before keeps rows and numbers, and goes on counting where it was."""
    await (await Database.open(database_url)).close()
    await _migrated(database_url, "0002")
    database = Database.attach(database_url)
    async with database.write() as connection:
        await connection.execute(insert(audit_events).values(id=41, at=7, verb="list", outcome="ok", reason="old"))
        if database.dialect == "postgresql":
            await connection.execute(text("SELECT setval('audit_events_id_seq', 41)"))
    await database.close()
    database = await Database.open(database_url)
    store = AuditStore(database)
    assert [(found.id, found.reason) for found in await store.newest(AuditFilter(), 9)] == [(41, "old")]

    assert await store.remove(99, AuditFilter(), 9) == 1
    await store.insert_many([event(1)])
    assert await store.last_id() == 42
    await database.close()

    await _migrated(database_url, "0002")
    await _migrated(database_url, "head")


async def _migrated(url: str, revision: str) -> None:
    database = Database.attach(url)

    def move(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        (command.upgrade if revision == "head" else command.downgrade)(config, revision)

    async with database.write() as connection:
        await connection.run_sync(move)
    await database.close()


TOKENS = [(0, ""), (1_001, ""), (5, "x"), (5, "-1"), (5, "9" * 30), (5, "\u0661"), (5, "AAAA"), (5, "\ud800")]


@pytest.mark.parametrize(("size", "token"), TOKENS)
async def test_a_size_or_token_that_is_none_is_named(database: Database, size: int, token: str) -> None:
    """A wrong page size or token is an input error that names the field."""
    with pytest.raises(InputError, match=r"^page_(size|token): "):
        await AuditStore(database).page(AuditFilter(), size, token)
