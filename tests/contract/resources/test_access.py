"""The rows that a subject sees, in all three verbs, on both databases."""

import pytest
import pytest_asyncio
from sqlalchemy import insert

from federation.resources.batch import Batch, Member
from federation.resources.provider import ListQuery, ResourceProvider, SearchQuery
from federation.resources.sql.provider import SqlProvider
from federation.scope.model import RowFilter
from federation.store.database import Database
from federation.store.schema import memberships, teams
from tests.support.rows import EVERYTHING, batch_with, list_ids, new_row, recorded_sql, search_ids

ALL_ROWS = {
    "ada-own": ("ada", ""),
    "ada-t1": ("ada", "T1"),
    "grace-own": ("grace", ""),
    "grace-t1": ("grace", "T1"),
    "grace-t2": ("grace", "T2"),
    "linus-own": ("linus", ""),
    "linus-t2": ("linus", "T2"),
}
SEEN = {
    "ada": {"ada-own", "ada-t1", "grace-t1"},
    "grace": {"grace-own", "ada-t1", "grace-t1", "grace-t2", "linus-t2"},
    "linus": {"linus-own", "linus-t2"},
    "nobody": set(),
    "": set(),
    "no\x00body": set(),
    "ADA": set(),
    "ada ": set(),
    "' OR 1=1 --": set(),
}
FILTERS = {
    "everything": EVERYTHING,
    "personal": RowFilter(frozenset(), include_personal=True),
    "T1": RowFilter(frozenset({"T1"}), include_personal=False),
    "T2 and personal": RowFilter(frozenset({"T2"}), include_personal=True),
    "every team": RowFilter(None, include_personal=False),
    "nothing": RowFilter(frozenset(), include_personal=False),
    "empty team": RowFilter(frozenset({""}), include_personal=False),
    "odd names": RowFilter(frozenset({"T1", "T9", "\x00", "\ud800", "'"}), include_personal=False),
}


@pytest_asyncio.fixture
async def provider(database: Database) -> SqlProvider:
    """One row of each owner in each team."""
    provider = SqlProvider(database)
    await provider.apply(batch_with(*(new_row(row_id, *place, title="word") for row_id, place in ALL_ROWS.items())))
    return provider


@pytest.mark.parametrize("name", FILTERS)
async def test_every_verb_shows_the_same_rows(provider: SqlProvider, name: str) -> None:
    """List, get and search show exactly the subject's own rows and its teams' rows, narrowed by the filter."""
    row_filter = FILTERS[name]
    for subject, seen in SEEN.items():
        expected = {row_id for row_id in seen if row_filter.admits(ALL_ROWS[row_id][1])}

        assert set(await list_ids(provider, subject, row_filter)) == expected, subject
        assert set(await search_ids(provider, subject, "word", row_filter)) == expected, subject
        for row_id in ALL_ROWS:
            row = await provider.get(subject, "tasks", row_id, row_filter)
            assert (row is not None) == (row_id in expected), (subject, row_id)


async def test_a_filter_cannot_open_a_team_that_the_subject_is_not_in(provider: SqlProvider) -> None:
    """Naming a team in a filter only narrows."""
    assert await list_ids(provider, "ada", RowFilter(frozenset({"T2"}), include_personal=False)) == []


async def test_joining_a_team_shows_its_rows_at_once(provider: SqlProvider) -> None:
    """Rights are read with the rows, never remembered."""
    await provider.apply(Batch(members=[Member("ada", "T2")]))

    assert {"grace-t2", "linus-t2"} <= set(await list_ids(provider, "ada"))


async def test_get_asks_the_same_whatever_the_answer(provider: SqlProvider, database: Database) -> None:
    """Found, absent, another user's, outside the scope, unknown subject and odd text: one statement, one text."""
    t1_only = FILTERS["T1"]
    questions = [
        ("ada", "tasks", "grace-t1", t1_only),
        ("ada", "tasks", "absent", t1_only),
        ("ada", "tasks", "linus-own", t1_only),
        ("ada", "tasks", "ada-own", t1_only),
        ("ada", "nothing", "ada-own", EVERYTHING),
        ("nobody", "tasks", "ada-own", EVERYTHING),
        ("ada", "tasks", "a\x00b\ud800", EVERYTHING),
        ("ada", "ta\x00sks", "ada-own", EVERYTHING),
    ]
    with recorded_sql(database) as statements:
        answers = [await provider.get(*question) for question in questions]

    assert [answer is not None for answer in answers] == [True, *(False,) * 7]
    assert len(statements) == len(questions)
    assert len(set(statements)) == 1


async def test_list_and_search_are_one_statement_each(provider: SqlProvider, database: Database) -> None:
    """Rights, filter and order are in one statement, the same for every subject and scope."""
    with recorded_sql(database) as statements:
        for subject in SEEN:
            for row_filter in FILTERS.values():
                await provider.list(subject, ListQuery("tasks", row_filter, 5))
                await provider.search(subject, SearchQuery("word", {"tasks": row_filter}, 5))

    assert len(statements) == 2 * len(SEEN) * len(FILTERS)
    assert len(set(statements)) == 2


async def test_search_keeps_each_resource_to_its_own_filter(provider: SqlProvider) -> None:
    """A filter of one resource does not leak into another, and a resource that is not named is not searched."""
    await provider.apply(
        Batch(
            rows=[
                new_row("n-own", "ada", resource="notes", title="word"),
                new_row("n-t1", "ada", "T1", resource="notes", title="word"),
                new_row("m-own", "ada", resource="memory", title="word"),
            ]
        )
    )
    query = SearchQuery("word", {"tasks": FILTERS["T1"], "notes": FILTERS["personal"]}, 50)

    page = await provider.search("ada", query)

    assert {hit.row.id for hit in page.items} == {"ada-t1", "grace-t1", "n-own"}
    assert (await provider.search("ada", SearchQuery("word", {}, 50))).items == ()


async def test_a_row_of_one_resource_is_not_found_in_another(provider: SqlProvider) -> None:
    """The same id in two resources names two rows."""
    await provider.apply(Batch(rows=[new_row("ada-own", "ada", resource="notes", title="note")]))

    note = await provider.get("ada", "notes", "ada-own", EVERYTHING)

    assert note is not None
    assert note.data == '{"title": "note"}'
    assert "ada-own" in await list_ids(provider, "ada")
    assert await provider.get("ada", "memory", "ada-own", EVERYTHING) is None


async def test_it_knows_its_users(provider: SqlProvider) -> None:
    """`has_user` is true of imported users alone, whatever the text."""
    assert isinstance(provider, ResourceProvider)
    assert await provider.has_user("ada")
    assert not any([await provider.has_user(name) for name in ("", "T1", "ad", "ada\x00", "\ud800")])


async def test_a_membership_opens_no_personal_rows(provider: SqlProvider, database: Database) -> None:
    """Personal rows have the empty team; a member of a team with the empty id sees no personal rows of others."""
    async with database.write() as connection:
        await connection.execute(insert(teams).values(id=""))
        await connection.execute(insert(memberships).values(user_id="linus", team_id=""))

    assert set(await list_ids(provider, "linus")) == SEEN["linus"]
    assert set(await search_ids(provider, "linus", "word")) == SEEN["linus"]
    assert await provider.get("linus", "tasks", "ada-own", EVERYTHING) is None
