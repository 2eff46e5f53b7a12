"""Rows of a peer stay in the asking gateway's memory: a busy day, and then a search of all files that it wrote."""

import asyncio
import base64
import gzip
import json
import re
import shutil
import signal
import sqlite3
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from federation.config import GatewayConfig
from federation.federation import Federation
from tests.support.disk_search import encodings_of, files_with, open_files
from tests.support.gateway_processes import MOSAIC, environment
from tests.support.marked_rows import MARK, WORK, FileCollector, MarkedGateways, logging_to, marked_rows, tracing_to
from tests.support.otlp_collector import running_collector
from tests.support.process_pair import free_ports

pytestmark = pytest.mark.e2e


def set_up(day: MarkedGateways) -> None:
    """Create both gateways, work with marked rows, home with every log and export enabled."""
    for name in ("tmpdir", "home", "xdg_cache_home", "otlp"):
        (day.side_directory / name).mkdir(parents=True)
    day.init("home")
    day.init("work", **free_ports())
    (day.directory / "marked.jsonl").write_bytes(marked_rows())
    day.run("gateway import marked.jsonl --gateway work")
    for name, changes in (
        ("home", {"log_format": '"json"', "rpc_spans": "true"}),
        ("work", {"max_lease_s": "5.0"}),
    ):
        toml = day.directory / name / "gateway.toml"
        text = toml.read_text()
        for key, value in changes.items():
            text, replaced = re.subn(rf"(?m)^# {key} = .*$", f"{key} = {value}", text)
            assert replaced == 1, key
        toml.write_text(text)
    day.serve_home()
    day.start("work")
    day.enroll("ada", resources=["tasks", "notes"], filters={}, max_rows_per_query=12)


def by_command(day: MarkedGateways) -> None:
    """Ask as a person at a terminal does: pages, hits, searches, refusals."""
    page = day.query("list tasks --page-size 7 --session s")
    while page["next_page_token"]:
        page = day.query(f"list tasks --page-size 7 --session s --page-token {page['next_page_token']}")
    assert {row["_cached"] for _ in range(2) for row in day.query("list notes", source=WORK)["rows"]} == {False, True}
    day.query(f"get tasks {MARK}-2", source=WORK)
    day.query(f"get tasks {MARK}-4")
    found = day.query("search common --page-size 5", source=WORK)
    assert MARK in json.dumps(found)
    day.query(f"search common --page-size 5 --page-token {found['next_page_token']}", source=WORK)
    day.query("capabilities")
    day.query("list credentials", source=WORK, code=1)
    day.query("get tasks absent", source=WORK, code=1)
    day.query("list tasks --page-token forged", code=1)


async def by_agent(day: MarkedGateways) -> None:
    """Ask as an agent does."""
    shell = ["-c", 'exec "$@" 2>>beside/mcp.log', "sh", *MOSAIC, "mcp", "--user", "ada", "--gateway", "home"]
    server = StdioServerParameters(
        command="/bin/sh", args=shell, cwd=day.directory, env=environment(**day.variables_of_home())
    )
    async with Client(server) as client:
        token: str | None = ""
        while token is not None:
            arguments = {"resource": "notes", "page_size": 4, "page_token": token}
            listed = (await client.call_tool("mosaic_list", arguments)).structured_content
            assert listed is not None
            token = listed["next_page_token"]
            day.seen.append(json.dumps(listed))
        for tool, arguments in (
            ("get", {"resource": "notes", "id": f"{MARK}-1", "source": WORK}),
            ("search", {"query": "common title"}),
            ("status", {}),
            ("get", {"resource": "tasks", "id": "absent"}),
            ("list", {"resource": "credentials", "source": WORK}),
        ):
            day.seen.append(repr(await client.call_tool(f"mosaic_{tool}", arguments)))


async def by_program(day: MarkedGateways) -> None:
    """Ask as an embedding program does: warm-up, streams, concurrent calls, calls in flight when the peer crashes."""
    config = GatewayConfig.load(day.directory / "home")
    with logging_to(day.side_directory / "program.log"), tracing_to(day.side_directory / "spans.json") as telemetry:
        async with Federation(config, telemetry=telemetry) as fed, fed.session("ada") as session:
            await fed.armed()
            await session.warm(["tasks", "notes"])
            for _ in range(3):
                results = await asyncio.gather(
                    session.list("tasks"), session.search("common"), session.get("tasks", f"{MARK}-4", source=WORK)
                )
                day.seen += [row.row.data for result in results for row in result.rows]
            asking = [asyncio.create_task(session.search("common", page_size=3)) for _ in range(20)]
            await asyncio.sleep(0)
            await asyncio.to_thread(day.stop, "work", signal.SIGKILL)
            await asyncio.gather(*asking)
            assert (await session.list("notes", page_size=3)).partial


def damage(day: MarkedGateways) -> None:
    """Make a row of work one that cannot be served, with the mark in it."""
    with closing(sqlite3.connect(day.directory / "work" / "gateway.db", timeout=10)) as database, database:
        database.execute("UPDATE rows SET data = ? WHERE id = ?", (MARK.encode() + b"\xff", f"{MARK}-6"))


@pytest.fixture(scope="module")
def day() -> Iterator[MarkedGateways]:
    """A busy day, with home still running at its end."""
    directory = Path(tempfile.mkdtemp(prefix="m"))
    FileCollector.directory = directory / "beside" / "otlp"
    with running_collector(FileCollector()) as collector:
        delays = {"OTEL_METRIC_EXPORT_INTERVAL": "200", "OTEL_BSP_SCHEDULE_DELAY": "100"}
        day = MarkedGateways(directory, variables={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, **delays})
        try:
            set_up(day)
            by_command(day)
            asyncio.run(by_agent(day))
            asyncio.run(by_program(day))
            day.query("list tasks --session away")
            day.restart_work()
            damage(day)
            day.query(f"get tasks {MARK}-6", source=WORK, code=1)
            day.query("list notes")
            [grant] = json.loads(day.run("federation grant list -g work --json"))["grants"]
            day.run("federation grant revoke -g work --reason ended", grant["id"])
            day.query("list notes", source=WORK, code=1)
            collector.wait(lambda it: {line.logger for line in it.lines} and it.spans and it.points)
            yield day
        finally:
            for name in tuple(day.processes):
                day.stop(name)
            shutil.rmtree(directory, ignore_errors=True)


def test_rows_of_a_peer_are_nowhere_on_disk(day: MarkedGateways) -> None:
    """The mark is in no database, write-ahead log, temporary file, log line, span or metric of home."""
    assert sum(MARK in each for each in day.seen) > 20
    running = day.processes["home"].pid
    held = dict(open_files(running))
    assert any(name.endswith("gateway.db-wal") for name in held)
    assert not {name: forms for name, data in held.items() if (forms := encodings_of(data, MARK))}
    assert not day.files_with_mark()
    assert day.stop("home") == 0
    assert not day.files_with_mark()


def test_the_day_left_what_it_should(day: MarkedGateways) -> None:
    """The search covered logs of all programs, spans and metrics, and none was empty."""
    log = (day.side_directory / "home.log").read_text()
    levels = {json.loads(line)["level"] for line in log.splitlines() if line.startswith("{")}
    assert {"DEBUG", "INFO", "WARNING"} <= levels
    assert "federation offline for work.example" in log
    program = (day.side_directory / "program.log").read_text()
    assert {"DEBUG", "WARNING"} <= {json.loads(line)["level"] for line in program.splitlines()}
    spans = (day.side_directory / "spans.json").read_text()
    assert '"name": "federation.offline"' in spans
    assert '"name": "federation.request"' in spans
    kinds = {path.name.partition("-")[0] for path in (day.side_directory / "otlp").iterdir()}
    assert kinds == {f"Export{kind}ServiceRequest" for kind in ("Trace", "Metrics", "Logs")}


def test_the_search_finds_what_is_there(day: MarkedGateways) -> None:
    """The same search finds the mark in the work gateway's own database, and in each form in which it was planted."""
    forms = files_with(day.directory / "work", MARK)["gateway.db"]
    assert {"plain", "plain in a table"} <= forms
    planted = day.side_directory / "planted"
    planted.mkdir()
    raw = MARK.encode()
    token = base64.urlsafe_b64encode(bytes(16) + zlib.compress(json.dumps([["x", f"row {MARK}"]]).encode()))
    wraps = {
        "plain": raw.upper(),
        "utf-16": MARK.encode("utf-16-le"),
        "hex": raw.hex().encode(),
        **{f"base64-{n}": b'{"a":"' + base64.b64encode(b"x" * n + raw + b"tail") + b'"}' for n in range(3)},
        "gzip": b"before" + gzip.compress(b"a line with " + raw),
        "token": b"asked with " + token.rstrip(b"=") + b" again",
        f"name-{MARK}": b"",
    }
    for name, data in wraps.items():
        (planted / name).write_bytes(data)
    with closing(sqlite3.connect(planted / "table.db")) as database, database:
        database.execute("CREATE TABLE t (value TEXT)")
        database.execute("INSERT INTO t VALUES (?)", ("x" * 4_000 + MARK,))
    try:
        assert set(files_with(planted, MARK)) == {*wraps, "table.db"}
        assert set(day.files_with_mark()) == {f"planted/{name}" for name in (*wraps, "table.db")}
    finally:
        shutil.rmtree(planted)
