"""Writing batches, and hearing of it, on both databases."""

import asyncio
import gc
import json
from collections.abc import Iterator

import pytest
import pytest_asyncio

from federation.errors import ChangesLostError, StoreError, UnknownReferencesError
from federation.resources.batch import Batch, Member, NewRow
from federation.resources.documents import Document
from federation.resources.provider import Change, ListQuery, Row
from federation.resources.sql.changes import MAX_WAITING, ChangeStream
from federation.resources.sql.provider import SqlProvider
from federation.resources.sql.writes import CHUNK
from federation.store.database import Database
from tests.support.clock import ManualClock
from tests.support.rows import EVERYTHING, batch_with, list_all, list_ids, new_row, recorded_sql

EMPTY = Document.parse("{}")


@pytest.fixture
def time() -> ManualClock:
    """The provider's clock."""
    return ManualClock()


@pytest_asyncio.fixture
async def provider(database: Database, time: ManualClock) -> SqlProvider:
    """A provider with people and no rows."""
    provider = SqlProvider(database, time.clock)
    await provider.apply(batch_with())
    return provider


async def read(provider: SqlProvider, row_id: str, subject: str = "ada") -> Row:
    """The task as it is stored."""
    row = await provider.get(subject, "tasks", row_id, EVERYTHING)
    assert row is not None
    return row


async def told(stream: ChangeStream) -> list[Change]:
    """The changes that the stream holds now."""
    changes = []
    try:
        while True:
            changes.append(await asyncio.wait_for(anext(stream), 0.02))
    except TimeoutError:
        return changes


@pytest.mark.parametrize(
    "text",
    [
        '{"n":123456789012345678901234567890,"f":1.10,"e":1E5,"z":-0}',
        '{ "spaced" : [ 1,2 ] , "é": "\\u00e9 \\/ \\n 😀" }',
        '{"deep":{"a":[{"b":[null,true,false]}]},"":""}',
        "{}",
    ],
)
async def test_data_come_back_byte_for_byte(provider: SqlProvider, text: str) -> None:
    """List and get return the JSON text as it was written."""
    await provider.apply(Batch(rows=[NewRow("tasks", "x", "ada", Document.parse(text))]))

    assert (await read(provider, "x")).data == text


async def test_instants_are_kept_now_or_as_they_were(provider: SqlProvider, time: ManualClock) -> None:
    """A new row without instants is of now; a change keeps the creation and moves the update, unless told."""
    began = time.clock.now_us()
    await provider.apply(Batch(rows=[NewRow("tasks", "x", "ada", EMPTY)]))
    first = await read(provider, "x")
    time.advance(10)
    await provider.apply(Batch(rows=[NewRow("tasks", "x", "ada", Document.parse('{"a":1}'))]))
    second = await read(provider, "x")
    await provider.apply(Batch(rows=[NewRow("tasks", "x", "ada", EMPTY, created_at_us=5, updated_at_us=6)]))
    third = await read(provider, "x")

    assert (first.created_at_us, first.updated_at_us) == (began, began)
    assert (second.created_at_us, second.updated_at_us) == (began, began + 10_000_000)
    assert (third.created_at_us, third.updated_at_us) == (5, 6)


async def test_an_update_replaces_every_field(provider: SqlProvider) -> None:
    """Owner, team and data are the new ones, in the row's own place, and there is one row still."""
    await provider.apply(Batch(rows=[new_row("x", "ada", "T1", a=1), new_row("y", "ada")]))
    await provider.apply(Batch(rows=[new_row("x", "grace", "T2", b=2)]))

    row = await read(provider, "x", "grace")

    assert (row.owner, row.team, row.data) == ("grace", "T2", '{"b": 2}')
    assert await list_ids(provider, "ada") == ["y"]


async def test_the_same_again_changes_and_announces_nothing(
    provider: SqlProvider, time: ManualClock, database: Database
) -> None:
    """A batch that is stored already writes nothing, moves no instant, and publishes no change."""
    batch = batch_with(new_row("x", "ada", "T1"), NewRow("tasks", "y", "ada", EMPTY))
    await provider.apply(batch)
    before = await read(provider, "y")
    stream = provider.changes()
    time.advance(10)

    with recorded_sql(database) as statements:
        await provider.apply(batch)

    assert all(statement.startswith("SELECT") for statement in statements)
    assert await read(provider, "y") == before
    assert await told(stream) == []


async def test_a_batch_larger_than_a_statement_is_written_whole(provider: SqlProvider) -> None:
    """New, changed and unchanged rows over several chunks."""
    count = CHUNK * 2 + 7
    await provider.apply(Batch(rows=[new_row(f"{n:05}", "ada", n=n) for n in range(0, count, 2)]))
    await provider.apply(Batch(rows=[new_row(f"{n:05}", "ada", n=n if n % 3 else -n) for n in range(count)]))

    stored = {row.id: json.loads(row.data)["n"] for row in await list_all(provider, "ada", 1_000)}
    assert stored == {f"{n:05}": n if n % 3 else -n for n in range(count)}


@pytest.mark.parametrize(
    ("batch", "users", "teams"),
    [
        (Batch(rows=[new_row("x", "eve"), new_row("y", "ada")]), {"eve"}, set()),
        (Batch(rows=[new_row("x", "ada", "T9")]), set(), {"T9"}),
        (Batch(users=["eve"], members=[Member("eve", "T9"), Member("mallory", "T1")]), {"mallory"}, {"T9"}),
        (Batch(teams=["T3"], rows=[new_row("x", "ADA", "t1")]), {"ADA"}, {"t1"}),
    ],
)
async def test_an_unknown_reference_stops_everything(
    provider: SqlProvider, database: Database, batch: Batch, users: set[str], teams: set[str]
) -> None:
    """Owners, members and teams must exist in the batch or before; otherwise nothing is written or announced."""
    stream = provider.changes()

    with pytest.raises(UnknownReferencesError) as caught:
        await provider.apply(batch)

    assert (caught.value.users, caught.value.teams) == (users, teams)
    assert await list_ids(provider, "ada") == []
    assert not await provider.has_user("eve")
    assert await told(stream) == []


async def test_references_may_come_from_the_batch_itself(provider: SqlProvider) -> None:
    """New people, their teams and their rows arrive together."""
    await provider.apply(
        Batch(["eve"], ["T3"], [Member("eve", "T3")], [new_row("x", "ada", "T3"), new_row("y", "eve")])
    )

    assert await list_ids(provider, "eve") == ["x", "y"]


async def test_changes_hold_the_old_and_the_new_place(provider: SqlProvider) -> None:
    """Each change is published once, with old and new values, to the streams opened before the commit."""
    await provider.apply(Batch(rows=[new_row("x", "ada", "T1"), new_row("y", "ada")]))
    stream, other = provider.changes(), provider.changes()

    await provider.apply(
        Batch(
            members=[Member("linus", "T2"), Member("ada", "T1")],
            rows=[
                new_row("x", "grace", "T2"),
                new_row("y", "ada"),
                *(new_row(f"n{n}", "ada", resource="notes") for n in range(9)),
            ],
        )
    )

    assert await told(stream) == [
        Change("", frozenset({"linus"}), frozenset({"T2"})),
        Change("notes", frozenset({"ada"}), frozenset({""})),
        Change("tasks", frozenset({"ada", "grace"}), frozenset({"T1", "T2"})),
    ]
    assert len(await told(other)) == 3


async def test_a_change_is_published_after_its_commit(provider: SqlProvider) -> None:
    """A reader that receives a change finds it in the data."""
    stream = provider.changes()

    async def listen() -> list[str]:
        await anext(stream)
        return await list_ids(provider, "ada")

    listener = asyncio.create_task(listen())
    await asyncio.sleep(0)
    await provider.apply(Batch(rows=[new_row("x", "ada")]))

    assert await listener == ["x"]


async def test_a_slow_listener_loses_its_stream_and_no_other(provider: SqlProvider) -> None:
    """Too many waiting commits end one stream with a clear error, once; a reader that keeps up receives all of them."""
    slow, quick = provider.changes(), provider.changes()
    for n in range(MAX_WAITING + 1):
        await provider.apply(Batch(rows=[new_row("x", "ada", n=n)]))
        await anext(quick)

    with pytest.raises(ChangesLostError, match="open the changes again"):
        await anext(slow)
    with pytest.raises(StopAsyncIteration):
        await anext(slow)
    assert await told(quick) == []


async def test_closing_wakes_the_reader(provider: SqlProvider) -> None:
    """A reader that waits ends quietly when its stream is closed; an unreferenced stream is removed."""
    stream = provider.changes()
    reader = asyncio.create_task(anext(stream, None))
    await asyncio.sleep(0)

    await stream.aclose()

    assert await reader is None
    provider.changes()
    gc.collect()
    await provider.apply(Batch(rows=[new_row("x", "ada")]))


async def test_writers_at_the_same_time_lose_nothing(provider: SqlProvider) -> None:
    """Twenty batches at once, over the same rows and new people, end as if one came after the other."""
    batches = [
        Batch([f"u{n % 3}"], (), (), [new_row("same", "ada", n=n), new_row(f"own{n}", "ada")]) for n in range(20)
    ]

    await asyncio.gather(*(provider.apply(batch) for batch in batches))

    assert len(await list_ids(provider, "ada")) == 21


async def test_two_providers_of_one_database_do_not_collide(database: Database) -> None:
    """Writers that share no lock in memory wait for each other in the database."""
    first, second = SqlProvider(database), SqlProvider(database)
    await first.apply(batch_with())

    await asyncio.gather(*(p.apply(Batch(rows=[new_row("x", "ada", n=n)])) for n, p in enumerate([first, second] * 5)))

    assert await list_ids(second, "ada") == ["x"]


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """Disable garbage collection, so that it cannot release a leaked lock."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collection")
async def test_a_cancelled_write_is_all_or_nothing_and_holds_no_lock(provider: SqlProvider) -> None:
    """A batch cancelled at any point is stored whole or not at all, and does not delay the next writer."""
    for step in range(40):
        rows = [new_row(f"{step}-{n}", "ada", step=step) for n in range(100)]
        writing = asyncio.create_task(provider.apply(Batch(rows=rows)))
        await asyncio.sleep(step * 0.0005)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

        async with asyncio.timeout(3):
            await provider.apply(Batch(users=[f"user{step}"]))
        stored = (await provider.list("ada", ListQuery("tasks", EVERYTHING, 101, {"step": str(step)}))).items
        assert len(stored) in {0, 100}


async def test_a_database_failure_is_reported_as_such(provider: SqlProvider, database: Database) -> None:
    """The error of an import or user removal says that the database failed, without SQL or values."""
    async with database.write() as connection:
        await connection.exec_driver_sql("DROP TABLE memberships")

    with pytest.raises(StoreError, match=r"^the rows cannot be stored: the database says: [^\n]*memberships[^\n]*$"):
        await provider.apply(Batch(members=(Member("ada", "T1"),)))
    with pytest.raises(StoreError, match=r"^the user ada cannot be removed: the database says: "):
        await provider.remove_user("ada")
