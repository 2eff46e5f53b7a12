"""`mosaic mcp`, driven by the client of the protocol's SDK, against two gateways in separate processes."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.types import CallToolResult, LoggingMessageNotificationParams

from mosaic_cli.main import main
from tests.support.gateway_processes import MOSAIC, environment
from tests.support.process_pair import ProcessPair

pytestmark = pytest.mark.e2e

WORK = "federated:work.example"
TOOLS = {"mosaic_list", "mosaic_get", "mosaic_search", "mosaic_status"}


@dataclass
class Agent:
    """A client and the log notifications that it received."""

    client: Client
    notifications: list[LoggingMessageNotificationParams] = field(default_factory=list)

    async def call(self, tool: str, **arguments: Any) -> Any:
        """Call a tool that must succeed; return its structured answer."""
        result = await self.client.call_tool(f"mosaic_{tool}", arguments)
        assert not result.is_error, words(result)
        assert json.loads(words(result)) == result.structured_content
        return result.structured_content

    async def fail(self, tool: str, **arguments: Any) -> str:
        """Call a tool that must fail; return its text."""
        result = await self.client.call_tool(f"mosaic_{tool}", arguments)
        assert result.is_error, words(result)
        return words(result)

    @property
    def signals(self) -> list[tuple[str, str]]:
        """Level and text of each notification."""
        return [(one.level, one.data["text"]) for one in self.notifications]


Start = Callable[..., AbstractAsyncContextManager[Agent]]


def words(result: CallToolResult) -> str:
    """The text of a result."""
    return "\n".join(getattr(block, "text", "") for block in result.content)


@pytest.fixture
def start(pair: ProcessPair) -> Start:
    """Start `mosaic mcp` at home for a user, as an agent's program does."""

    @asynccontextmanager
    async def start(
        user: str = "ada", *options: str, gateway: str = "home", mode: str = "auto"
    ) -> AsyncIterator[Agent]:
        agent = Agent(None)  # type: ignore[arg-type]

        async def log(params: LoggingMessageNotificationParams) -> None:
            agent.notifications.append(params)

        command, *arguments = [*MOSAIC, "mcp", "--user", user, "--gateway", gateway, *options]
        server = StdioServerParameters(command=command, args=arguments, cwd=pair.directory, env=environment())
        async with Client(server, mode=mode, logging_callback=log, log_level="info") as agent.client:
            yield agent

    return start


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_tools_describe_arguments_and_results(start: Start, mode: str) -> None:
    """Clients of the newest and of older protocols find four read-only tools with described, closed arguments."""
    async with start(mode=mode) as agent:
        tools = (await agent.client.list_tools()).tools

    assert {tool.name for tool in tools} == TOOLS
    for tool in tools:
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint
        assert tool.description
        assert tool.input_schema["additionalProperties"] is False
        assert all(one["description"] for one in tool.input_schema["properties"].values())
        assert tool.output_schema is not None
        assert {"signals", "partial", "sources"} <= set(tool.output_schema["properties"])
    listing = next(tool for tool in tools if tool.name == "mosaic_list").input_schema
    assert listing["required"] == ["resource"]
    assert listing["properties"]["source"]["default"] == "all"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_an_agent_lists_gets_and_searches(start: Start, mode: str) -> None:
    """Rows of home and work are merged; each names its source and whether it came from the cache."""
    async with start(mode=mode) as agent:
        listed = await agent.call("list", resource="tasks", where={"status": "done"}, page_size=4)
        again = await agent.call("list", resource="tasks", where={"status": "done"}, page_size=4)
        got = await agent.call("get", resource="tasks", id="task-4", source=WORK)
        found = await agent.call("search", query="number", resources=["tasks"], source="local", page_size=2)

    assert [(row["id"], row["_source"]) for row in listed["rows"]] == [
        ("task-9", "local"), ("task-6", WORK), ("task-6", "local"), ("task-3", "local"),
    ]  # fmt: skip
    assert listed["rows"][0]["data"] == {"title": "task number 9", "status": "done"}
    assert {(row["_source"], row["_cached"]) for row in again["rows"]} == {("local", False), (WORK, True)}
    assert (listed["partial"], listed["signals"]) == (False, [])
    assert [(one["source"], one["state"]) for one in again["sources"]] == [("local", "ok"), (WORK, "cached")]
    assert (got["row"]["id"], got["row"]["_source"], len(got["rows"])) == ("task-4", WORK, 1)
    assert [row["_source"] for row in found["rows"]] == ["local", "local"]
    assert {"score", "snippet"} <= set(found["rows"][0])


async def test_an_agent_pages_through_all_rows(start: Start) -> None:
    """The token of an answer is the argument of the next call; every row comes once."""
    seen: list[tuple[str, str]] = []
    async with start() as agent:
        token = ""
        for _ in range(12):
            page = await agent.call("list", resource="tasks", page_size=5, page_token=token)
            seen += [(row["_source"], row["id"]) for row in page["rows"]]
            token = page["next_page_token"]
            if token is None:
                break
        forged = await agent.fail("list", resource="tasks", page_size=5, page_token="forged")

    assert (token, len(seen), len(set(seen))) == (None, 18, 18)
    assert forged.startswith("page_token: ")


async def test_status_lists_the_sources_and_their_resources(start: Start) -> None:
    """The local source and the peer are listed with their resources and the peer's state."""
    async with start() as agent:
        status = await agent.call("status")

    local, work = status["sources"]
    assert (status["gateway"], status["user"], status["partial"]) == ("home.example", "ada", False)
    assert (local["source"], local["state"], local["peer_state"]) == ("local", "ok", None)
    assert (work["source"], work["state"], work["peer_state"]) == (WORK, "ok", "active")
    assert (work["resources"], work["max_rows_per_query"]) == (["tasks", "notes"], 5)
    assert work["certificate_ends"] is not None


async def test_users_see_neither_rows_nor_peers_of_each_other(start: Start, pair: ProcessPair) -> None:
    """Bob's agent reads as bob; ada's peer does not exist for it, and bob's peer does not exist for ada."""
    pair.enroll("bob", filters={})
    async with start("bob") as bob, start("ada") as ada:
        rows = (await bob.call("list", resource="tasks"))["rows"]
        for agent, own, other in (
            (bob, "federated:bobs-work.example", WORK),
            (ada, WORK, "federated:bobs-work.example"),
        ):
            status = await agent.call("status")
            assert [one["source"] for one in status["sources"]] == ["local", own]
            assert other not in json.dumps(status)
            refused = await agent.fail("list", resource="tasks", source=other)
            assert refused.startswith(f"no peer {other.removeprefix('federated:')!r}")
        hidden = await bob.fail("get", resource="tasks", id="task-3")

    assert {row["id"] for row in rows} == {"bobs", "task-1", "task-5", "task-9"}
    assert {row["_source"] for row in rows} == {"local", "federated:bobs-work.example"}
    assert hidden.startswith("ROW_NOT_FOUND: ")


async def test_invalid_arguments_are_answers_of_the_tool(start: Start) -> None:
    """Each answer names the argument and the fix, so that an agent can correct it; the server continues."""
    async with start() as agent:
        assert await agent.fail("list") == "INVALID_REQUEST: resource: Field required"
        assert (await agent.fail("list", resource="taks")).startswith("resource: ")
        assert "page_size: Input should be less than" in await agent.fail("list", resource="tasks", page_size=5_000)
        misspelt = await agent.fail("list", resource="tasks", soruce="local")
        assert misspelt.startswith("INVALID_REQUEST: soruce: unknown argument; use resource, where, source")
        assert "is none of local" in await agent.fail("list", resource="tasks", source="elsewhere")
        assert (await agent.fail("list", resource="tasks", source="federated:wrok.example")).startswith("no peer")
        assert (await agent.fail("list", resource="credentials", source=WORK)).startswith("SCOPE_VIOLATION: ")
        assert (await agent.fail("get", resource="tasks", id="nothing")).startswith("ROW_NOT_FOUND: ")
        with pytest.raises(Exception, match="unknown tool 'mosaic_drop'; use one of mosaic_list, "):
            await agent.client.call_tool("mosaic_drop", {})
        assert await agent.call("list", resource="tasks", where={"status": "open"}, source="local")


async def test_an_unknown_user_is_an_error_of_every_tool(start: Start) -> None:
    """Every tool fails with a suggestion, without a crash."""
    async with start("adda") as agent:
        for tool, arguments in (("list", {"resource": "tasks"}), ("status", {})):
            assert await agent.fail(tool, **arguments) == "no user 'adda'; did you mean ada?"


async def test_a_silent_peer_blocks_no_other_call(start: Start, pair: ProcessPair) -> None:
    """While one call waits for a silent peer, another is answered; then the first one is answered."""
    async with start("ada", "--budget", "60") as agent:
        with pair.suspended("work"):
            waiting = asyncio.create_task(agent.call("list", resource="notes", page_size=17))
            local = await agent.call("list", resource="tasks", source="local", page_size=1)
            assert not waiting.done()
        answer = await waiting

    assert len(local["rows"]) == 1
    assert (answer["partial"], {row["_source"] for row in answer["rows"]}) == (False, {"local", WORK})


async def test_a_budget_limits_every_call(start: Start, pair: ProcessPair) -> None:
    """An agent waits for a silent peer for the command's budget, and then has the local rows."""
    async with start("ada", "--budget", "0.2") as agent:
        with pair.suspended("work"):
            answer = await agent.call("list", resource="tasks", page_size=18)

    work = answer["sources"][1]
    assert (work["state"], work["reason"], len(answer["rows"])) == ("offline", "PEER_TIMEOUT", 12)
    assert work["latency_ms"] < 1_500


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_an_outage_and_its_end_give_one_signal_each(start: Start, pair: ProcessPair, mode: str) -> None:
    """Of many concurrent calls, one answer and one log notification have the signal; all have the local rows."""
    async with start(mode=mode) as agent, start(mode=mode) as other:
        pair.stop_work()
        try:
            calls = (
                agent.call("list", resource="tasks", page_size=20 + number if mode == "auto" else 50 + number)
                for number in range(20)
            )
            answers = await asyncio.gather(*calls)
            later = await agent.call("search", query="number")
            status = await agent.call("status")
            named = await other.fail("search", query="number", source=WORK)
            named_again = await other.fail("search", query="number", source=WORK)
        finally:
            pair.restart_work()
        back = await agent.call("search", query="number")
        after = await agent.call("search", query="number")
        notified = list(agent.signals)

    signals = [one for answer in answers for one in answer["signals"]]
    assert [one["text"] for one in signals] == ["federation offline for work.example"]
    assert all(answer["partial"] and len(answer["rows"]) == 12 for answer in answers)
    assert {answer["sources"][1]["state"] for answer in answers} <= {"offline", "skipped"}
    assert (later["signals"], later["sources"][1]["state"]) == ([], "skipped")
    assert (status["signals"], status["partial"], status["sources"][1]["state"]) == ([], True, "skipped")
    assert named.splitlines()[0] == "federation offline for work.example"
    assert "federation offline" not in named_again
    assert other.signals[0] == ("warning", "federation offline for work.example")
    assert [one["kind"] for one in back["signals"]] == ["restored"]
    assert (back["partial"], after["signals"]) == (False, [])
    assert notified == [
        ("warning", "federation offline for work.example"), ("notice", "federation restored for work.example"),
    ]  # fmt: skip
    assert {one.logger for one in agent.notifications} == {"mosaic.federation"}


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_cancelled_call_leaves_the_session_intact(start: Start, pair: ProcessPair, mode: str) -> None:
    """After an agent cancels calls to a silent peer, its next call gets the signal of the outage, once."""
    async with start("ada", "--budget", "1", mode=mode) as agent:
        with pair.suspended("work"):
            given_up = [asyncio.ensure_future(agent.call("search", query="number")) for _ in range(4)]
            await asyncio.wait(given_up, timeout=0.3)
            for call in given_up:
                assert call.cancel()
            await asyncio.wait(given_up)
            first = await agent.call("search", query="number")
            second = await agent.call("search", query="number")

    assert [one["text"] for one in first["signals"]] == ["federation offline for work.example"]
    assert (second["signals"], second["sources"][1]["state"]) == ([], "skipped")
    assert agent.signals == [("warning", "federation offline for work.example")]


async def test_older_clients_set_the_log_level(start: Start, pair: ProcessPair) -> None:
    """Above the level of a signal no notification is sent; the answer still has the signal."""
    async with start(mode="legacy") as agent:
        with pytest.warns(UserWarning, match="deprecated"):
            await agent.client.set_logging_level("error")
        pair.stop_work()
        try:
            answer = await agent.call("list", resource="tasks", page_size=16)
        finally:
            pair.restart_work()

    assert [one["kind"] for one in answer["signals"]] == ["offline"]
    assert agent.notifications == []


async def test_a_stopped_gateway_is_an_error_until_it_runs(start: Start, pair: ProcessPair) -> None:
    """Each call says how to start the gateway; afterwards the same server answers, also after another restart."""
    await asyncio.to_thread(pair.init, "late")
    async with start(gateway="late") as agent:
        for _ in range(2):
            error = await agent.fail("list", resource="tasks")
            assert error == "the gateway late.example does not run; start it: mosaic gateway serve --gateway late"
            assert await agent.fail("status") == error
            pair.start("late")
            assert len((await agent.call("list", resource="tasks", page_size=2))["rows"]) == 2
            pair.stop("late")


def test_stdout_has_only_protocol_messages(pair: ProcessPair) -> None:
    """Each line of stdout is a message, also after invalid input; the command ends with its input."""
    opening = {
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
    }  # fmt: skip
    call = {
        "jsonrpc": "2.0", "id": 2, "method": "tools/call",
        "params": {"name": "mosaic_list", "arguments": {"resource": "tasks", "page_size": 1}},
    }  # fmt: skip
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    with serving(pair) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("".join(f"{line}\n" for line in ("garbage", *map(json.dumps, (opening, ready, call)))))
        process.stdin.flush()
        messages = [json.loads(process.stdout.readline()) for _ in range(2)]
        rest, _ = process.communicate(timeout=30)

    assert rest == ""
    assert [(one["jsonrpc"], one["id"]) for one in messages] == [("2.0", 1), ("2.0", 2)]
    assert messages[0]["result"]["serverInfo"]["name"] == "mosaic"
    assert "`partial: true`" in messages[0]["result"]["instructions"]
    assert {"logging", "tools"} <= set(messages[0]["result"]["capabilities"])
    assert messages[1]["result"]["structuredContent"]["rows"][0]["id"] == "task-11"
    assert process.returncode == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_ends_the_command_while_its_input_is_open(pair: ProcessPair, number: int, code: int) -> None:
    """Ctrl-C does not wait for input."""
    with serving(pair) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}) + "\n")
        process.stdin.flush()
        process.stdout.readline()

        process.send_signal(number)

        assert process.wait(20) == code


def serving(pair: ProcessPair) -> "subprocess.Popen[str]":
    """Start the command with pipes of the test."""
    return subprocess.Popen(
        [*MOSAIC, "mcp", "--user", "ada", "--gateway", "home"],
        cwd=pair.directory, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_without_the_extra_one_line_names_it(
    pair: ProcessPair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the SDK one line says what to install."""
    monkeypatch.delitem(sys.modules, "mosaic_cli.mcp.server", raising=False)
    monkeypatch.delitem(sys.modules, "mosaic_cli.mcp.tools", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] in {"mcp", "mcp_types"}]:
        monkeypatch.setitem(sys.modules, name, None)

    code = main(["mcp", "--user", "ada", "--gateway", str(pair.directory / "home")])

    assert code == 1
    assert capsys.readouterr() == (
        "",
        "error: mosaic mcp needs the extra `mcp`; install it: pip install 'mosaic-federation[mcp]'\n",
    )


def test_a_directory_without_a_gateway_is_an_error(capsys: pytest.CaptureFixture[str], short_path: Any) -> None:
    """Before anything is served: one line, exit code 1."""
    code = main(["mcp", "--user", "ada", "--gateway", str(short_path)])

    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (1, "", 1)
