"""Full-text search, on both databases."""

import random
from itertools import pairwise

import pytest
import pytest_asyncio

from federation.errors import Reason, Refusal
from federation.resources.batch import Batch
from federation.resources.fulltext import MAX_SNIPPET, tokens
from federation.resources.provider import SearchHit, SearchQuery
from federation.resources.sql.provider import SqlProvider
from federation.resources.sql.search_query import search_parameters, search_statement
from federation.store.database import Database
from tests.support.rows import EVERYTHING, NOON_US, batch_with, new_row, search_ids


@pytest_asyncio.fixture
async def provider(database: Database) -> SqlProvider:
    """A provider with people and no rows."""
    provider = SqlProvider(database)
    await provider.apply(batch_with())
    return provider


async def hits(provider: SqlProvider, text: str, limit: int = 100, offset: int = 0) -> tuple[SearchHit, ...]:
    """The hits of ada among her tasks."""
    return (await provider.search("ada", SearchQuery(text, {"tasks": EVERYTHING}, limit, offset))).items


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("login", ["1"]),
        ("LOGIN page", ["1"]),
        ("page login", ["1"]),
        ("login absent", []),
        ("log", []),
        ("cafe", ["2"]),
        ("CAFÉ", ["2"]),
        ("cafe\u0301 strasse", ["2"]),
        ("привет", ["3"]),
        ("東京タワー", ["3"]),
        ("ops@work.example", ["4"]),
        ("example", ["4"]),
        ("runbook", ["4"]),
        ("10", ["4"]),
        ("2026-10-05", ["4"]),
        ("1e5", ["4"]),
        ("007", ["4"]),
        ("deep", ["5"]),
        ("key", []),
        ("17", []),
        ("true", []),
        ("the", ["1", "5"]),
    ],
)
async def test_all_words_must_match(provider: SqlProvider, query: str, ids: list[str]) -> None:
    """Whole words of every string value, without case and accents, whatever punctuation stands round them."""
    await provider.apply(
        Batch(
            rows=[
                new_row("1", "ada", title="Fix the login-page"),
                new_row("2", "ada", title="Café in der Straße"),
                new_row("3", "ada", title="Привет, 東京タワー 🎉"),
                new_row("4", "ada", title="mail ops@work.example by 2026-10-05", body="see docs/runbook.md 1e5 007"),
                new_row("5", "ada", key={"list": ["the", {"x": "deep"}]}, n=17, done=True),
            ]
        )
    )

    assert sorted(await search_ids(provider, "ada", query)) == ids


@pytest.mark.parametrize(
    "query",
    [
        '"login',
        'login"',
        "login AND",
        "AND login",
        "NOT login",
        "login OR page",
        "login*",
        "-login",
        "+login",
        "^login",
        "text:login",
        "{text}:login",
        "NEAR(login page, 2)",
        "login NEAR/2 page",
        "(login",
        "login)",
        "login & page",
        "login | page",
        "!login",
        "login <-> page",
        "login:*A",
        "'login'",
        "login\x00page",
        "\ud800login",
        "login; DROP TABLE rows",
        "login --",
        "login \\",
        "🎉 login",
        "%",
        "login " * 2_000,
        "x" * 10_240,
        " ".join(f"w{n}" for n in range(33)),
        "",
        " ",
        "🎉",
        '"*-"',
    ],
)
async def test_a_query_is_never_syntax(provider: SqlProvider, query: str) -> None:
    """Operators, quotes and column names are words or separators; a query without a word is refused by name."""
    await provider.apply(Batch(rows=[new_row("1", "ada", title="the login page")]))
    words = set(tokens(query))

    if 1 <= len(words) <= 32:
        expected = ["1"] if words <= set(tokens("the login page")) else []
        assert await search_ids(provider, "ada", query) == expected
    else:
        with pytest.raises(Refusal, match=r"^query: ") as caught:
            await search_ids(provider, "ada", query)
        assert caught.value.reason is Reason.INVALID_REQUEST


async def test_random_texts_and_queries_agree_with_sets_of_words(provider: SqlProvider) -> None:
    """Over many random rows, exactly those are found whose words include the query's."""
    random_ = random.Random(11)
    alphabet = [
        "Fix",
        "fix",
        "plan",
        "Ж",
        "ж",
        "éa",
        "ea",
        "a.b",
        "x-1",
        "1",
        "10",
        "ß",
        "ss",
        "™",
        "'",
        '"',
        "日本",
        "½",
        "e5",
    ]
    texts = {str(n): " ".join(random_.choices(alphabet, k=random_.randint(0, 6))) for n in range(200)}
    await provider.apply(Batch(rows=[new_row(row_id, "ada", title=text) for row_id, text in texts.items()]))

    for _ in range(150):
        query = random_.choice([" ", "-", "/"]).join(random_.choices(alphabet, k=random_.randint(1, 3)))
        words = set(tokens(query))
        if words:
            expected = {row_id for row_id, text in texts.items() if words <= set(tokens(text))}
            assert set(await search_ids(provider, "ada", query)) == expected, query


async def test_scores_fall_from_one_and_ties_follow_the_list(provider: SqlProvider) -> None:
    """The best hit scores 1, none 0; more matches in a shorter text rank higher; ties are newest first, then by id."""
    filler = " ".join(f"word{n}" for n in range(80))
    await provider.apply(
        Batch(
            rows=[
                new_row("long", "ada", title=f"budget {filler}"),
                new_row("b", "ada", title="budget of the autumn", at_us=NOON_US),
                new_row("a", "ada", title="budget of the autumn", at_us=NOON_US),
                new_row("newer", "ada", title="budget of the autumn", at_us=NOON_US + 1),
                new_row("twice", "ada", title="budget budget of autumn"),
                new_row("other", "ada", title="nothing of the kind"),
            ]
        )
    )

    result = await hits(provider, "budget")

    assert [hit.row.id for hit in result] == ["twice", "newer", "a", "b", "long"]
    assert result[0].score == 1.0
    assert all(1 >= one.score >= other.score > 0 for one, other in pairwise(result))
    assert result[1].score == result[2].score == result[3].score > result[4].score


@pytest.mark.smoke
async def test_pages_of_a_search_join_without_gaps_or_repeats(provider: SqlProvider) -> None:
    """Offsets give every hit once, with the same order and scores as one large page, and `more` until the last."""
    rows = [
        new_row(f"r{n}", "ada", title="match " * (1 + n % 5) + "x " * (n % 7), at_us=NOON_US + n * 7 % 4)
        for n in range(60)
    ]
    await provider.apply(Batch(rows=rows))
    whole = await hits(provider, "match")
    for offset in range(60):
        assert await hits(provider, "match", 1, offset) == whole[offset : offset + 1]

    parts = [
        await provider.search("ada", SearchQuery("match", {"tasks": EVERYTHING}, 25, offset))
        for offset in (0, 25, 50, 75)
    ]

    assert [hit for page in parts for hit in page.items] == list(whole)
    assert [page.more for page in parts] == [True, True, False, False]
    with pytest.raises(Refusal, match=r"^page_token: "):
        await hits(provider, "match", offset=10**9)


async def test_ranks_of_one_word_do_not_tell_of_rows_that_are_not_visible(provider: SqlProvider) -> None:
    """The number of other people's rows with a word changes neither the order nor, noticeably, the scores."""
    await provider.apply(
        Batch(
            rows=[new_row("1", "ada", title="merger talks"), new_row("2", "ada", title="talks about the merger again")]
        )
    )
    before = await hits(provider, "merger")
    others = [new_row(f"g{n}", "grace", title=f"merger plan number{n}") for n in range(300)]
    await provider.apply(Batch(rows=others))

    after = await hits(provider, "merger")

    assert [hit.row.id for hit in after] == [hit.row.id for hit in before]
    assert [hit.score for hit in after] == pytest.approx([hit.score for hit in before], rel=0.2)


async def test_snippets_mark_the_match_and_stay_short(provider: SqlProvider) -> None:
    """Matched words stand in brackets as written, inside a bounded piece of the string that holds the first."""
    body = f"{'before ' * 200}the Needle, and a needle again {'after ' * 200}"
    await provider.apply(Batch(rows=[new_row("1", "ada", title="Über alles", body=body)]))

    (hit,) = await hits(provider, "needle uber")
    (only,) = await hits(provider, "needle")

    assert hit.snippet == "[Über] alles"
    assert "the [Needle], and a [needle] again" in only.snippet
    assert len(only.snippet) <= MAX_SNIPPET


async def test_a_changed_row_is_found_by_its_new_words_only(provider: SqlProvider) -> None:
    """The index follows updates."""
    await provider.apply(Batch(rows=[new_row("1", "ada", title="old words"), new_row("2", "ada", title="other")]))
    await provider.apply(Batch(rows=[new_row("1", "ada", title="new words")]))

    assert await search_ids(provider, "ada", "old") == []
    assert await search_ids(provider, "ada", "new words") == ["1"]
    assert await search_ids(provider, "ada", "other") == ["2"]


async def test_a_row_of_very_many_words_is_stored_and_found(provider: SqlProvider) -> None:
    """A megabyte of different words stays inside the bounds of the full-text index, and the first are found."""
    body = " ".join(f"{n:x}" for n in range(150_000))
    await provider.apply(Batch(rows=[new_row("1", "ada", body=body), new_row("2", "ada", body="y" * 1_000_000)]))

    assert await search_ids(provider, "ada", "1a2b") == ["1"]
    assert await search_ids(provider, "ada", "y" * 64) == ["2"]


async def test_sqlite_begins_a_search_at_the_words(sqlite_url: str) -> None:
    """The full-text index is asked once, and rows are read by their number; nothing is asked for every row."""
    database = await Database.open(sqlite_url)
    _, values = search_parameters("ada", SearchQuery("login page", {"tasks": EVERYTHING}, 50), "sqlite")
    compiled = search_statement("sqlite", 1).compile(dialect=database.engine.dialect)
    parameters = tuple({**compiled.params, **values}[name] for name in compiled.positiontup or ())
    async with database.read() as connection:
        steps = [row[3] for row in await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", parameters)]
    await database.close()

    reads = [step for step in steps if " rows" in step]
    assert reads[0].startswith("SCAN rows_fts VIRTUAL TABLE")
    assert reads[1:] == ["SEARCH rows USING INTEGER PRIMARY KEY (rowid=?)"] * 2
