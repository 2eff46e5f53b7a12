"""`mosaic federation audit`: processes, archived files, Ctrl-C."""

import asyncio
import gzip
import json
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from queue import Queue
from typing import Any

import pytest

from federation.config import GatewayConfig
from federation.store.audit.archive import DAY_US
from federation.store.audit.model import AuditEvent
from federation.store.audit.table import AuditStore
from federation.store.database import Database
from tests.support.gateway_processes import MOSAIC, GatewayProcesses, environment, mosaic, mosaic_here

pytestmark = pytest.mark.e2e

SCOPE = '{"resources": ["tasks"]}'
DAY_S = 86_400


@pytest.fixture(scope="module")
def work() -> Iterator[GatewayProcesses]:
    """`work` alone, in a process."""
    with GatewayProcesses.temporary() as served:
        served.init("work")
        served.start("work")
        yield served


def audit(work: GatewayProcesses, words: str = "") -> "subprocess.CompletedProcess[str]":
    """Run the command within this process, which is quicker."""
    return mosaic_here("federation", "audit", "-g", "work", *words.split(), cwd=work.directory)


def shown(work: GatewayProcesses, words: str = "") -> dict[str, Any]:
    """Run the command with `--json`; return what it printed."""
    done = audit(work, f"{words} --json")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return dict(json.loads(done.stdout))


def act(work: GatewayProcesses) -> str:
    """Create a grant, which is recorded in the audit; return the grant's id."""
    words = ("federation", "grant", "create", "-g", "work", "--peer", "home.example", "--subject", "ada")
    return str(json.loads(work.command(*words, "--scope", SCOPE, "--json"))["grant"]["id"])


def write(work: GatewayProcesses, *events: AuditEvent) -> None:
    """Write events into the gateway's database, which another process may have open."""

    async def insert() -> None:
        database = await Database.open(GatewayConfig.load(work.directory / "work").database_url)
        await AuditStore(database).insert_many(events)
        await database.close()

    asyncio.run(insert())


def until(found: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """Repeat until there is an answer."""
    end = time.monotonic() + timeout_s
    while not (answer := found()):
        assert time.monotonic() < end
    return answer


def denial(**changes: Any) -> AuditEvent:
    """A refusal of now, of a call without a known grant."""
    values: dict[str, Any] = {"verb": "list", "outcome": "denied", "resource": "credentials", "source": "10.0.0.9"}
    return AuditEvent(**{"at_us": int(time.time() * 1e6), **values, **changes})


class Follower:
    """A running `audit --follow`."""

    def __init__(self, work: GatewayProcesses, *words: str) -> None:
        command = [*MOSAIC, "federation", "audit", "-g", "work", "--follow", *words]
        self.process = subprocess.Popen(
            command, cwd=work.directory, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.lines: Queue[tuple[float, str]] = Queue()
        self.said: Queue[tuple[float, str]] = Queue()
        pipes = ((self.process.stdout, self.lines), (self.process.stderr, self.said))
        self.readers = [threading.Thread(target=self._read, args=pipe) for pipe in pipes]
        for reader in self.readers:
            reader.start()

    @staticmethod
    def _read(pipe: Any, queue: "Queue[tuple[float, str]]") -> None:
        with pipe:
            for line in pipe:
                queue.put((time.time(), line.rstrip("\n")))

    def next(self) -> dict[str, Any]:
        """The next event, as JSON; `arrived` is the time of its arrival."""
        arrived, line = self.lines.get(timeout=30)
        return {**json.loads(line), "arrived": arrived}

    def end(self, number: int = signal.SIGINT) -> int:
        """Press Ctrl-C; return the exit code."""
        self.process.send_signal(number)
        try:
            return self.process.wait(20)
        finally:
            self.close()

    def close(self) -> None:
        """Wait for the end of the process and of its output."""
        self.process.kill()
        self.process.wait(20)
        for reader in self.readers:
            reader.join(20)


@pytest.fixture
def follow(work: GatewayProcesses) -> Iterator[Callable[..., Follower]]:
    """Start followers, which are stopped after the test."""
    started: list[Follower] = []

    def start(*words: str) -> Follower:
        started.append(Follower(work, *words))
        return started[-1]

    yield start
    for follower in started:
        follower.close()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--outcome denid", 1, "error: outcome: there is no 'denid'; did you mean denied? There are: ok, denied, "),
        ("--verb lst", 1, "error: verb: there is no 'lst'; did you mean list? There are: list, get, search, "),
        ("--verb grant.revok", 1, "did you mean grant.revoke? There are: list, get, "),
        ("--peer hme.example", 1, "error: no peer 'hme.example'; did you mean home.example?"),
        ("--grant nonsense", 1, "error: no grant 'nonsense'; no event names it either"),
        ("--page-token nonsense", 1, "error: page_token: is not a token of an earlier page with these filters"),
        (
            "--since nonsense",
            2,
            "error: Invalid value for '--since': 'nonsense' is not a point in time; use 2h, 3d, 1w, today",
        ),
        ("--until 25h61x", 2, "error: Invalid value for '--until': '25h61x' is not a point in time"),
        ("--since 1h --until 2h", 2, "error: Invalid value: --since must be before --until"),
        ("--limit 10001", 2, "error: Invalid value for '--limit'"),
        ("--follow --until 1h", 2, "error: Invalid value: --until and --follow cannot be combined"),
        ("--follow --history", 2, "error: Invalid value: --history and --follow cannot be combined"),
        ("--follow --page-token x", 2, "error: Invalid value: --page-token and --follow cannot be combined"),
        ("--follow --outcome denid", 1, "error: outcome: there is no 'denid'"),
    ],
)
def test_a_wrong_filter_is_named_with_a_suggestion(work: GatewayProcesses, words: str, code: int, said: str) -> None:
    """One line and an exit code: the fault, a suggestion, and the valid values."""
    if "hme" in words:
        act(work)

    done = audit(work, words)

    assert done.returncode == code
    assert done.stdout == ""
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_filters_and_times_select_events(work: GatewayProcesses) -> None:
    """Each filter alone, and a time window with both ends; a verb of another version is a valid filter."""
    grant = until(lambda: shown(work, f"--grant {act(work)}")["events"])[0]["grant_id"]
    write(work, denial(at_us=0, verb="lost.art"), denial(peer="far.example"))

    assert {one["grant_id"] for one in shown(work, f"--grant {grant}")["events"]} == {grant}
    assert audit(work, f"--grant {grant[:13]}").stdout == audit(work, f"--grant {grant}").stdout
    assert [one["source"] for one in shown(work, "--peer far.example")["events"]] == ["10.0.0.9"]
    assert {one["outcome"] for one in shown(work, "--outcome denied")["events"]} == {"denied"}
    assert [one["at"] for one in shown(work, "--verb lost.art")["events"]] == ["1970-01-01T00:00:00.000Z"]
    assert shown(work, "--verb lost.art --since 3d")["events"] == []
    until(lambda: shown(work, "--verb grant.create --since 1d --until 1s")["events"])
    assert shown(work, "--verb grant.create --until yesterday")["events"] == []
    assert "no event matches these filters" in audit(work, "--verb lost.art --since 3d").stderr


def test_pages_continue_by_a_token_and_a_limit_spans_pages(work: GatewayProcesses) -> None:
    """Pages by token make up the whole list; a token of other filters is refused, of a moved window accepted."""
    write(work, *(denial(reason=f"r{number}") for number in range(1_205)))
    whole = shown(work, "--limit 1200 --outcome denied")
    assert len(whole["events"]) == 1_200
    assert whole["warnings"] == []

    pieces: list[dict[str, Any]] = []
    token = ""
    for _ in range(4):
        page = shown(work, f"--page-size 300 --outcome denied --since 2h {f'--page-token {token}' if token else ''}")
        pieces += page["events"]
        token = page["next_page_token"]
    assert pieces == whole["events"]
    assert audit(work, f"--page-token {token}").returncode == 1
    said = audit(work, "--limit 3 --outcome denied").stderr
    assert said.startswith("more events: --limit, or the same filters with --page-token ")
    assert shown(work, f"--limit 1 --outcome denied --page-token {said.split()[-1]}")["events"] == pieces[3:4]


def test_a_table_fits_a_narrow_terminal_and_shows_denials_without_colour(
    work: GatewayProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line exceeds 80 columns; a denial has its symbol, outcome, count and complete reason."""
    reason = "GRANT_INVALID: the subject differs from that of the grant"
    name = "a-gateway-with-a-rather-long-name.example.org"
    write(work, denial(peer=name, subject="ada", count=12, reason=reason))

    piped = audit(work, f"--peer {name}").stdout.splitlines()
    monkeypatch.setenv("COLUMNS", "80")
    lines = audit(work, f"--peer {name}").stdout.splitlines()

    assert lines[0].split() == ["AT", "(UTC)", "OUTCOME", "WHO", "WHAT"]
    assert "✕ denied x12" in lines[1]
    assert "list credentials" in lines[1]
    assert lines[2].strip() == reason
    assert max(map(len, lines)) <= 80
    assert piped[1].endswith(reason)
    assert f"{name}/ada" in piped[1]
    assert "\x1b" not in "".join((*lines, *piped))


def test_following_shows_each_event_once_also_across_restarts(
    work: GatewayProcesses, follow: Callable[..., Follower]
) -> None:
    """Followers show the newest events, then each new one in order; they wait for a restart; Ctrl-C exits with 0."""
    made = {act(work) for _ in range(3)}
    until(lambda: {one["grant_id"] for one in shown(work, "--verb grant.create --limit 3")["events"]} == made)
    follower = follow("--json", "--verb", "grant.create", "--limit", "2")
    newest = shown(work, "--verb grant.create --limit 2")["events"]
    seen = [follower.next(), follower.next()]
    assert [one["id"] for one in seen] == [one["id"] for one in newest[::-1]]

    grants = [act(work) for _ in range(3)]
    seen += [follower.next() for _ in range(3)]
    delays = [one["arrived"] - _seconds(one["at"]) for one in seen[2:]]
    assert min(delays) < 1.0, delays
    for number in (signal.SIGKILL, signal.SIGTERM):
        work.stop("work", number)
        said = follower.said.get(timeout=20)[1]
        assert "Waiting for it; no event will be missed. Ctrl-C quits" in said
        write(work, denial(verb="grant.create", reason="while it was stopped"))
        work.start("work")
        grants.append(act(work))
        seen += [follower.next(), follower.next()]
        assert follower.said.get(timeout=20)[1] == "the gateway is reachable again"

    assert follower.end() == 0
    assert follower.said.empty()
    assert follower.lines.empty()
    assert [one["grant_id"] for one in seen[2:] if one["grant_id"]] == grants
    assert len({one["id"] for one in seen}) == len(seen)
    everything = [one["id"] for one in shown(work, "--verb grant.create --limit 9")["events"]]
    assert [one["id"] for one in seen] == everything[::-1]


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def test_following_shows_a_table_that_begins_with_the_last_events(
    work: GatewayProcesses, follow: Callable[..., Follower]
) -> None:
    """One heading, at most ten lines at first, then new lines; no event that the filters exclude."""
    write(work, *(denial(verb="watch", reason=f"r{number}") for number in range(15)))
    follower = follow("--verb", "watch")
    first = [follower.lines.get(timeout=30)[1] for _ in range(11)]
    write(work, denial(verb="get"), denial(verb="watch", reason="the new one"))
    last = follower.lines.get(timeout=30)[1]

    assert first[0].startswith("AT (UTC)")
    assert [line.split()[-1] for line in first[1:]] == [f"r{number}" for number in range(5, 15)]
    assert last.endswith("the new one")
    assert follower.end() == 0
    assert follower.said.empty()


def test_a_stopped_gateway_is_not_followed(work: GatewayProcesses) -> None:
    """Without a running gateway the exit code is 4, and the error says how to start it."""
    work.init("idle")

    done = mosaic("federation", "audit", "-g", "idle", "--follow", cwd=work.directory)

    assert done.returncode == 4
    assert done.stderr.startswith("error: the gateway idle.example does not run; start it: mosaic gateway serve")


def test_history_reads_archived_events(work: GatewayProcesses) -> None:
    """At its start a gateway archives old events; `--history` shows them in order, and names a broken file."""
    today = int(time.time()) // DAY_S
    old = [
        denial(at_us=day * DAY_US + n, verb="watch", peer="old.example", reason=f"{day}.{n}")
        for day in (today - 200, today - 120, today - 91, today - 89)
        for n in range(3)
    ]
    work.stop("work")
    write(work, *old)
    work.start("work")
    young = until(lambda: (found := shown(work, "--peer old.example")["events"]) and len(found) == 3 and found)

    assert [one["reason"] for one in young] == [one.reason for one in old[:8:-1]]
    files = sorted((work.directory / "work" / "audit").iterdir())
    assert len(files) >= 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE(files[0].parent.stat().st_mode) == 0o700
    history = shown(work, "--peer old.example --history")
    assert [one["reason"] for one in history["events"]] == [one.reason for one in old[::-1]]
    window = f"--since {_date(today - 120)} --until {_date(today - 119)}"
    assert [one["reason"] for one in shown(work, f"--history {window}")["events"]] == [
        one.reason for one in old[5:2:-1]
    ]
    page = shown(work, "--peer old.example --history --limit 5")
    rest = shown(work, f"--peer old.example --history --page-token {page['next_page_token']}")
    assert page["events"] + rest["events"] == history["events"]

    broken = work.directory / "work" / "audit" / f"{_date(today - 120)}.jsonl.gz"
    broken.write_bytes(gzip.compress(b"nonsense\n"))
    done = audit(work, "--peer old.example --history --json")
    assert done.returncode == 1
    assert [one["reason"] for one in json.loads(done.stdout)["events"]] == [
        one.reason for one in old[::-1] if one not in old[3:6]
    ]
    assert done.stderr == f"warning: {broken.resolve()}: line 1: is not JSON\n"
    assert json.loads(done.stdout)["warnings"] == [f"{broken.resolve()}: line 1: is not JSON"]
    assert sorted(broken.parent.iterdir()) == files


def _date(day: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(day * DAY_S))
