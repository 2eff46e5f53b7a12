"""`mosaic federation query` over several sources, against two gateways in separate processes."""

import subprocess
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from tests.support.cli_runner import Cli, CommandResult
from tests.support.gateway_processes import MOSAIC, environment
from tests.support.process_pair import ProcessPair
from tests.support.terminal import Terminal

pytestmark = pytest.mark.e2e

WORK = "federated:work.example"
REPORT = {"source", "state", "reason", "message", "next_step", "latency_ms", "rows", "retry_after_s"}
SIGNAL = {"kind", "peer", "text", "reason", "message", "next_step", "since", "retry_at"}

Query = Callable[..., CommandResult]


@pytest.fixture
def query(pair: ProcessPair, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Query:
    """Run a query of ada at home in this process, with piped output."""
    monkeypatch.chdir(pair.directory)
    monkeypatch.setenv("MOSAIC_GATEWAY", "home")
    monkeypatch.setenv("COLUMNS", "80")

    cli = Cli(capsys)

    def query(line: str, source: str = "all", code: int = 0) -> CommandResult:
        return cli(f"federation query {line} --user ada --source {source}", code=code)

    return query


@pytest.fixture(scope="class")
def work_stopped(pair: ProcessPair) -> Iterator[None]:
    """The work gateway is stopped during a test class."""
    pair.stop_work()
    yield
    pair.restart_work()


def terminal(pair: ProcessPair, *arguments: str) -> Terminal:
    """Run a query on a terminal."""
    words = ("federation", "query", *arguments, "--user", "ada", "-g", "home")
    return Terminal(*words, cwd=pair.directory, COLUMNS="80")


def test_all_is_one_object_of_rows_sources_and_signals(query: Query) -> None:
    """`--json` has the tagged rows of both sources newest first, a report of each source, and no signal."""
    answer = query("list tasks --page-size 4 --json").json

    assert list(answer) == ["rows", "sources", "signals", "partial", "next_page_token"]
    assert [(row["id"], row["_source"]) for row in answer["rows"]] == [
        ("task-11", "local"), ("task-10", WORK), ("task-10", "local"), ("task-9", "local"),
    ]  # fmt: skip
    assert {(row["_cached"], row["age_s"]) for row in answer["rows"]} == {(False, 0.0)}
    assert [(one["source"], one["state"], one["rows"]) for one in answer["sources"]] == [
        ("local", "ok", 4), (WORK, "ok", 4),
    ]  # fmt: skip
    assert set(answer["sources"][1]) == REPORT
    assert answer["sources"][1]["latency_ms"] > 0
    assert (answer["signals"], answer["partial"]) == ([], False)


def test_a_cached_row_has_its_age(query: Query) -> None:
    """The second time the peer's rows are cached and have an age; local rows have neither."""
    query("list tasks --page-size 3 --json")

    rows = query("list tasks --page-size 3 --json").json["rows"]

    assert {(row["_source"], row["_cached"], row["age_s"] > 0) for row in rows} == {
        (WORK, True, True), ("local", False, False),
    }  # fmt: skip


def test_one_token_pages_through_all_sources(query: Query) -> None:
    """Page by page, every row of each source comes once, in one order."""
    seen: list[tuple[str, str, str]] = []
    token = ""
    for _ in range(20):
        page = query(f"list tasks --page-size 4 --json{token and f' --page-token {token}'}").json
        seen += [(row["created_at"], row["_source"], row["id"]) for row in page["rows"]]
        token = page["next_page_token"]
        if token is None:
            break

    assert token is None
    assert sorted(name for _, source, name in seen if source == "local") == sorted(f"task-{n}" for n in range(12))
    assert sorted(name for _, source, name in seen if source == WORK) == sorted(f"task-{n}" for n in range(0, 12, 2))
    assert all(before[0] > after[0] or before < after for before, after in pairwise(seen))


def test_a_pipe_gets_one_table_of_80_columns(query: Query) -> None:
    """The rows of both sources are one table with their sources; the counts per source are on stderr."""
    ran = query("list tasks --page-size 5")

    header, *lines = ran.out.splitlines()
    assert header.split() == ["ID", "SOURCE", "CACHED", "OWNER", "TEAM", "ABOUT"]
    assert [line.split()[:2] for line in lines[:2]] == [["task-11", "local"], ["task-10", WORK]]
    assert max(map(len, ran.out.splitlines())) <= 80
    assert ran.err.startswith("5 rows from 2 of 2 sources in ")
    assert "\nmore: --page-token " in ran.err


def test_a_terminal_shows_each_source_when_it_answers(pair: ProcessPair) -> None:
    """Local rows are shown while the peer is silent; its rows follow under a heading when it answers."""
    with terminal(pair, "list", "tasks", "--source", "all", "--page-size", "6", "--budget", "60") as shown:
        with pair.suspended("work"):
            before = shown.until("task-6 ")
        assert shown.wait() == 0
        screen = shown.text

    assert before[0].startswith("local  6 rows in ")
    assert WORK not in "".join(before)
    heading, columns, first, *_ = screen.split(f"\n\n{WORK}  ")[1].splitlines()
    assert heading.startswith("5 rows in ")
    assert (columns.split(), first.split()[0]) == (["ID", "CACHED", "OWNER", "TEAM", "ABOUT"], "task-10")
    assert "11 rows from 2 of 2 sources in " in screen
    assert max(len(line) for line in screen.splitlines() if not line.startswith("more: ")) <= 80


def test_get_shows_the_row_of_each_source(query: Query) -> None:
    """The same id at two sources gives two rows; `row` is the first of them."""
    answer = query("get tasks task-4 --json").json
    shown = query("get tasks task-4").out

    assert [row["_source"] for row in answer["rows"]] == [WORK, "local"]
    assert answer["row"] == answer["rows"][0]
    assert (answer["partial"], {one["state"] for one in answer["sources"]}) == (False, {"ok"})
    assert shown.count("task number 4") == 2
    assert "\n\n" in shown


def test_an_absent_row_ends_with_1(query: Query) -> None:
    """The object has the queried sources, and stderr has one line."""
    ran = query("get tasks nothing --json", code=1)

    assert (ran.json["row"], ran.json["rows"], ran.json["partial"]) == (None, [], False)
    assert {one["reason"] for one in ran.json["sources"]} == {"ROW_NOT_FOUND"}
    assert ran.err == "error: ROW_NOT_FOUND: no such row that this user may read\n"


def test_a_search_queries_all_sources(query: Query) -> None:
    """Hits of both sources, best first, with score and snippet; the token pages through all of them."""
    first = query("search number --resource tasks --json").json
    rest = query(f"search number --resource tasks --json --page-token {first['next_page_token']}").json

    rows = [*first["rows"], *rest["rows"]]
    assert {row["_source"] for row in rows} == {"local", WORK}
    assert len({(row["_source"], row["id"]) for row in rows}) == len(rows)
    assert all(before["score"] >= after["score"] for before, after in pairwise(rows))
    assert {"score", "snippet"} <= set(rows[0])


def test_capabilities_of_each_source(query: Query) -> None:
    """`all` lists capabilities by source; a single source's capabilities are at the top level."""
    every, one = query("capabilities --json").json, query("capabilities --json", WORK).json
    shown = query("capabilities").out

    assert {source["_source"]: source["max_rows_per_query"] for source in every["by_source"]} == {
        "local": 1000, WORK: 5,
    }  # fmt: skip
    assert (every["capabilities"], every["_source"]) == (None, "all")
    assert (one["capabilities"]["max_rows_per_query"], one["_source"]) == (5, WORK)
    assert [line for line in shown.splitlines() if line in {"local", WORK}] == ["local", WORK]


def test_a_refusal_of_one_of_all_sources_is_no_failure(query: Query) -> None:
    """The refusal is a line with the next step, without a signal; other sources are shown, and the exit code is 0."""
    ran, asked = query("list credentials"), query("list credentials --json").json

    assert ran.out.splitlines()[1].split()[:3] == ["c-1", "local", "no"]
    assert f"\n{WORK}: denied: SCOPE_VIOLATION: " in ran.err
    assert (asked["partial"], asked["signals"]) == (True, [])
    assert asked["sources"][1]["next_step"] is not None


@pytest.mark.usefixtures("work_stopped")
class TestOffline:
    """Output about a stopped peer."""

    def test_an_offline_peer_gives_one_signal_per_session(self, query: Query) -> None:
        """All commands of one session print one signal and show local rows; another session gets its own signal."""
        first = query("list tasks --page-size 7 --session a --json")
        again = query("list tasks --page-size 7 --session a --json")
        other = query("list tasks --page-size 7 --session b")
        once_more = query("list tasks --page-size 7 --session b")

        (signal,) = first.json["signals"]
        assert set(signal) == SIGNAL
        assert (signal["kind"], signal["text"]) == ("offline", "federation offline for work.example")
        assert first.json["sources"][1]["state"] == "offline"
        assert [row["_source"] for row in first.json["rows"]] == ["local"] * 7
        assert (again.json["signals"], again.json["sources"][1]["state"]) == ([], "skipped")
        assert first.json["partial"]
        assert again.json["partial"]
        assert "7 rows from 1 of 2 sources in " in other.err
        assert other.err.count("federation offline for work.example; queried again in ") == 1
        assert f"\n{WORK}: offline: " in other.err
        assert "federation offline" not in once_more.err
        assert f"\n{WORK}: skipped: " in once_more.err

    def test_a_terminal_shows_an_offline_peer(self, pair: ProcessPair) -> None:
        """Local rows, one line about the peer, one signal, exit code 0."""
        with terminal(pair, "list", "tasks", "--source", "all", "--page-size", "8") as shown:
            assert shown.wait() == 0
            screen = shown.text

        assert "local  8 rows in " in screen
        assert screen.count(f"{WORK}: offline: ") == 1
        assert screen.count("federation offline for work.example") == 1

    def test_a_single_offline_source_fails(self, query: Query) -> None:
        """Exit code 1 and one line; a named session also prints its signal, once."""
        alone = query("search gone", WORK, code=1)
        named = query("search gone --session c --json", WORK, code=1)
        later = query("list tasks --session c --json")

        assert alone.out == named.out == ""
        assert alone.err.startswith("error: ")
        assert alone.err.count("\n") == 1
        assert named.err.splitlines()[0].startswith("federation offline for work.example")
        assert named.err.splitlines()[1].startswith("error: ")
        assert later.json["signals"] == []


def test_a_peer_that_is_back_gives_one_signal(query: Query, pair: ProcessPair) -> None:
    """A session with an outage gets the signal of its end in the next query, and the peer's rows again."""
    pair.stop_work()
    try:
        query("list tasks --page-size 9 --session d")
    finally:
        pair.restart_work()

    back = query("list tasks --page-size 9 --session d --json").json
    after = query("list tasks --page-size 9 --session d --json").json

    assert [(one["kind"], one["text"]) for one in back["signals"]] == [
        ("restored", "federation restored for work.example")
    ]
    assert (back["partial"], after["signals"]) == (False, [])
    assert WORK in {row["_source"] for row in back["rows"]}


@pytest.mark.parametrize("budget", ["-1", "soon", "301"])
def test_a_budget_is_in_seconds(query: Query, budget: str) -> None:
    """An invalid budget is a usage error that names the option."""
    ran = query(f"list tasks --budget {budget}", code=2)

    assert ran.out == ""
    assert "--budget" in ran.err


def test_a_budget_limits_the_wait_for_a_silent_peer(query: Query, pair: ProcessPair) -> None:
    """A peer that does not answer is offline at the end of the budget."""
    with pair.suspended("work"):
        answer = query("list tasks --page-size 10 --budget 0.2 --json").json

    assert (answer["sources"][1]["state"], answer["sources"][1]["reason"]) == ("offline", "PEER_TIMEOUT")
    assert 150 <= answer["sources"][1]["latency_ms"] < 2_000
    assert len(answer["rows"]) == 10


@pytest.mark.parametrize("verb", ["list", "get", "search", "capabilities"])
def test_every_help_has_examples(verb: str) -> None:
    """The help of each command has a complete example."""
    shown = subprocess.run(
        [*MOSAIC, "federation", "query", verb, "--help"], env=environment(COLUMNS="80"), capture_output=True, text=True,
        check=True,
    ).stdout  # fmt: skip

    assert f"\n    mosaic federation query {verb} " in shown
    assert "--session" in shown
