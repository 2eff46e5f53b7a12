"""The order, the pages and the comparisons of a list, on both databases."""

import asyncio
import json
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.errors import Reason, Refusal
from federation.resources.batch import Batch, NewRow
from federation.resources.documents import Document
from federation.resources.provider import ListQuery, Position
from federation.resources.sql.list_query import list_parameters, list_statement
from federation.resources.sql.provider import SqlProvider
from federation.scope.model import RowFilter
from federation.store.database import Database
from tests.support.rows import EVERYTHING, NOON_US, batch_with, list_all, list_ids, new_row

# A locale sorts these otherwise than code points do: case, accents, punctuation, digits, planes beyond the first.
ODD_IDS = ("B", "a", "b", "A", "ä", "z", "é", "e\u0301", "-a", "_a", "~", "10", "9", "Ω", "\uff5a", "🜚", "\ufb01", " a")


@pytest_asyncio.fixture
async def provider(database: Database) -> SqlProvider:
    """A provider with people and no rows."""
    provider = SqlProvider(database)
    await provider.apply(batch_with())
    return provider


@pytest.fixture
def runner(database_url: str) -> Iterator[SimpleNamespace]:
    """A provider for tests that try many examples against one database, and `run` to wait for it."""
    with asyncio.Runner() as runner:
        database = runner.run(Database.open(database_url))
        provider = SqlProvider(database)
        runner.run(provider.apply(batch_with()))
        yield SimpleNamespace(provider=provider, run=runner.run)
        runner.run(database.close())


@pytest.mark.parametrize("instants", [1, 3])
@pytest.mark.smoke
async def test_paging_gives_every_row_once_and_in_order(provider: SqlProvider, instants: int) -> None:
    """A thousand rows of equal instants, owned, shared and both, in pages that do not divide them."""
    ids = [*ODD_IDS, *(f"{n}" for n in range(100, 1_100 - len(ODD_IDS)))]
    random.Random(7).shuffle(ids)
    places = [("ada", ""), ("ada", "T1"), ("grace", "T1"), ("linus", "T2")]
    rows = [new_row(row_id, *places[n % 4], at_us=NOON_US + n % instants) for n, row_id in enumerate(ids)]
    await provider.apply(Batch(rows=rows))
    expected = sorted((row for row in rows if row.team != "T2"), key=lambda row: (-(row.created_at_us or 0), row.id))

    for limit in (1_000, 750, 749, 97):
        assert [row.id for row in await list_all(provider, "ada", limit)] == [row.id for row in expected], limit


async def test_a_position_needs_no_row(provider: SqlProvider) -> None:
    """A list goes on behind any place, whether a row stands there or not, before the first and behind the last."""
    await provider.apply(Batch(rows=[new_row(i, "ada", at_us=NOON_US + n) for n, i in enumerate("cba")]))

    async def behind(at_us: int, row_id: str) -> list[str]:
        query = ListQuery("tasks", EVERYTHING, 10, after=Position(at_us, row_id))
        return [row.id for row in (await provider.list("ada", query)).items]

    assert await behind(NOON_US + 99, "") == ["a", "b", "c"]
    assert await behind(NOON_US + 2, "") == ["a", "b", "c"]
    assert await behind(NOON_US + 2, "a") == ["b", "c"]
    assert await behind(NOON_US + 1, "b~") == ["c"]
    assert await behind(-(2**63), "z") == []
    assert await behind(2**63 - 1, "z") == ["a", "b", "c"]


async def test_more_tells_whether_another_row_stands_behind(provider: SqlProvider) -> None:
    """`more` is false on a page that ends exactly with the last row."""
    await provider.apply(Batch(rows=[new_row(i, "ada") for i in "abc"]))

    pages = [await provider.list("ada", ListQuery("tasks", EVERYTHING, limit)) for limit in (2, 3, 4)]

    assert [(len(page.items), page.more) for page in pages] == [(2, True), (3, False), (3, False)]


async def test_columns_are_compared_by_name(provider: SqlProvider) -> None:
    """`id`, `owner` and `team` compare the row's own, also against a field of the data with that name."""
    await provider.apply(
        Batch(
            rows=[
                new_row("1", "ada", "T1", team="T2", owner="linus", n=1),
                new_row("2", "ada", n=1),
                new_row("3", "grace", "T1", n=1),
            ]
        )
    )

    assert await list_ids(provider, "ada", team="T1") == ["1", "3"]
    assert await list_ids(provider, "ada", team="") == ["2"]
    assert await list_ids(provider, "ada", owner="ada") == ["1", "2"]
    assert await list_ids(provider, "ada", owner="grace", n="1") == ["3"]
    assert await list_ids(provider, "ada", id="2", owner="ada", team="", n="1") == ["2"]
    assert await list_ids(provider, "ada", team="T2") == []
    assert await list_ids(provider, "grace", RowFilter(frozenset({"T2"})), team="T1") == []


class Whole(str):
    """A whole number as it was written."""

    __slots__ = ()


def equals(text: str, field: str, value: str) -> bool:
    """Tell whether `where` should match: the same rule over Python's own JSON reader."""
    held = json.loads(text, parse_int=Whole).get(field)
    if isinstance(held, bool):
        return value == ("true" if held else "false")
    return isinstance(held, str) and str(held) == value


plain_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
scalars = st.one_of(
    plain_text,
    st.sampled_from(
        ["true", "false", "null", "1", "-0", "0", "", " ", "'", '"', "\\", "$.a", "%", "1e2", "é", "e\u0301"]
    ),
    st.integers(),
    st.integers(min_value=-(10**40), max_value=10**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from("ab"), st.integers(), max_size=1),
)
fields = st.sampled_from(["status", "a", "B_2", "x-y", "_", "data", "resource"])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.dictionaries(fields, scalars, max_size=3), field=fields, other=scalars, escaped=st.booleans())
def test_fields_of_the_data_are_compared_alike_everywhere(
    runner: SimpleNamespace, data: dict[str, Any], field: str, other: Any, escaped: bool
) -> None:
    """Both databases agree with the rule in Python, for the value held, its JSON text, and any other value."""
    text = json.dumps(data, ensure_ascii=escaped)
    row = NewRow("tasks", "x", "ada", Document.parse(text))
    runner.run(runner.provider.apply(Batch(rows=[row])))
    held = data.get(field)

    for value in {str(held), json.dumps(held), json.dumps(held).strip('"'), str(other), json.dumps(other)}:
        matched = runner.run(list_ids(runner.provider, "ada", **{field: value}))

        assert matched == (["x"] if equals(text, field, value) else []), (text, field, value)


@pytest.mark.parametrize(
    ("text", "value", "matches"),
    [
        ('{"n": -0}', "-0", True),
        ('{"n": -0}', "0", False),
        ('{"n": 123456789012345678901234567890}', "123456789012345678901234567890", True),
        ('{"n": 9007199254740993}', "9007199254740992", False),
        ('{"n": 1.0}', "1", False),
        ('{"n": 1.0}', "1.0", False),
        ('{"n": 1e2}', "100", False),
        ('{"n": "1e2"}', "1e2", True),
        ('{"n": null}', "null", False),
        ('{"n": "\\u00e9"}', "é", True),
        ('{"n": "\\ud83d\\ude00"}', "😀", True),
    ],
)
async def test_numbers_are_compared_as_written(provider: SqlProvider, text: str, value: str, matches: bool) -> None:
    """Whole numbers equal their own digits, beyond 64 bits too; other numbers equal nothing; escapes are undone."""
    await provider.apply(Batch(rows=[NewRow("tasks", "x", "ada", Document.parse(text))]))

    assert await list_ids(provider, "ada", n=value) == (["x"] if matches else [])


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a.b",
        "a b",
        'a"b',
        "a'b",
        "$",
        "a[0]",
        "1a",
        "-a",
        "a\x00",
        "é",
        "a" * 65,
        "a\n",
        "data') OR 1=1 --",
        "\ud800",
    ],
)
async def test_an_odd_field_name_is_refused_by_name(provider: SqlProvider, name: str) -> None:
    """Names that are no plain field names never reach the database."""
    with pytest.raises(Refusal, match=r"^where\.") as caught:
        await provider.list("ada", ListQuery("tasks", EVERYTHING, 5, {name: "x"}))

    assert caught.value.reason is Reason.INVALID_REQUEST
    assert len(caught.value.message) < 700


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (ListQuery("tasks", EVERYTHING, 5, {"status": "a\x00"}), "where.status"),
        (ListQuery("tasks", EVERYTHING, 5, {"id": "\ud800"}), "where.id"),
        (ListQuery("tasks", EVERYTHING, 5, {f"f{n}": "" for n in range(9)}), "where"),
        (ListQuery("tasks", EVERYTHING, 5, after=Position(0, "\x00")), "after.id"),
        (ListQuery("tasks", EVERYTHING, 5, after=Position(2**63, "a")), "after.created_at"),
        (ListQuery("tasks", EVERYTHING, 5, after=Position(-(2**63) - 1, "a")), "after.created_at"),
    ],
)
async def test_what_no_row_can_hold_is_refused_by_name(provider: SqlProvider, query: ListQuery, field: str) -> None:
    """Text and instants that a database cannot take as a parameter end as a refusal, alike on both."""
    with pytest.raises(Refusal, match=f"^{field}: ") as caught:
        await provider.list("ada", query)

    assert caught.value.reason is Reason.INVALID_REQUEST


async def test_values_are_never_part_of_the_statement(provider: SqlProvider) -> None:
    """Quotes, comments and long text in a value are compared as they are."""
    odd = ["' OR 1=1 --", '"', "\\", "%", "_", "$1", ":subject", "{}", "x" * 100_000]
    await provider.apply(Batch(rows=[new_row(str(n), "ada", status=value) for n, value in enumerate(odd)]))

    for n, value in enumerate(odd):
        assert await list_ids(provider, "ada", status=value) == [str(n)]


async def test_an_unknown_resource_has_no_rows(provider: SqlProvider) -> None:
    """The provider leaves the knowledge of resources to the scope, and simply finds nothing."""
    for resource in ("nothing", "", "\x00", "\ud800"):
        assert (await provider.list("ada", ListQuery(resource, EVERYTHING, 5))).items == ()


@pytest.mark.parametrize("after", [None, Position(NOON_US, "r5")])
async def test_sqlite_reads_a_page_from_the_indexes(sqlite_url: str, after: Position | None) -> None:
    """No table is scanned, and what is sorted are only the few keys of one page."""
    database = await Database.open(sqlite_url)
    shape, values = list_parameters("ada", ListQuery("tasks", EVERYTHING, 50, after=after), "sqlite")
    compiled = list_statement(shape).compile(dialect=database.engine.dialect)
    parameters = tuple({**compiled.params, **values}[name] for name in compiled.positiontup or ())
    async with database.read() as connection:
        steps = [row[3] for row in await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", parameters)]
    await database.close()

    reads = [step for step in steps if step.startswith(("SCAN", "SEARCH"))]
    assert [step for step in reads if "SCAN rows" in step or "SCAN own" in step or "SCAN shared" in step] == []
    assert sum("USING COVERING INDEX ix_rows_owner (resource=? AND owner=?" in step for step in reads) == 1 + bool(
        after
    )
    assert sum("USING COVERING INDEX ix_rows_team (resource=? AND team=?" in step for step in reads) == 1 + bool(after)
    # One sort of the keys that were found, and one of the page; none inside an owner's or a team's rows.
    assert steps.count("USE TEMP B-TREE FOR ORDER BY") == 2


async def test_sqlite_reads_a_page_of_a_large_table_as_fast_as_of_a_small_one(sqlite_url: str) -> None:
    """The database visits a bounded number of rows however many there are."""
    database = await Database.open(sqlite_url)
    provider = SqlProvider(database)
    await provider.apply(batch_with())
    counts = []
    for start, end in ((0, 500), (500, 20_000)):
        rows = [new_row(f"r{n}", "ada" if n % 2 else "grace", "T1" if n % 3 else "") for n in range(start, end)]
        await provider.apply(Batch(rows=rows))
        counts.append(await _steps_of_a_list(database))
    await database.close()

    assert counts[1] < counts[0] * 1.5


async def _steps_of_a_list(database: Database) -> int:
    """Count the thousands of virtual machine steps of SQLite for one list."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    async with database.read() as connection:
        raw = await connection.get_raw_connection()
        driver = raw.driver_connection
        assert driver is not None
        await driver.set_progress_handler(count, 100)
        shape, values = list_parameters("ada", ListQuery("tasks", EVERYTHING, 50), "sqlite")
        assert len((await connection.execute(list_statement(shape), values)).all()) == 51
        await driver.set_progress_handler(None, 100)
    return steps
