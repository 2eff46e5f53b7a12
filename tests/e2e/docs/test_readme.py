"""The commands and programs of the README are run, and their output is compared with the README's."""

import ast
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from tests.support import settings_table
from tests.support.gateway_processes import ROOT, environment

pytestmark = pytest.mark.documents

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(heading: str, language: str) -> list[str]:
    """Return the code blocks of a language below a heading."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def commands(block: str) -> list[str]:
    """Return the commands of a console block, each with its here-document."""
    return [command.strip() for command in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]


class Terminal:
    """A directory in which the README's commands are typed, with other ports and the grant's real id."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports = {port: str(free_port()) for port in ("7443", "7444", "8443", "8444")}
        self.grant = "GRANT_ID"
        self.serving: list[subprocess.Popen[bytes]] = []
        (directory / "cli").symlink_to(ROOT / "cli")
        scripts = directory / "bin"
        scripts.mkdir()
        mosaic = scripts / "mosaic"
        mosaic.write_text(f'#!/bin/sh\nexec {settings_python()} -m mosaic_cli "$@"\n', encoding="utf-8")
        mosaic.chmod(0o755)
        self.environment = environment(PATH=f"{scripts}:{os.environ['PATH']}", COLUMNS="120")

    def run(self, command: str) -> str:
        """Run one command; a gateway that serves goes on in the background."""
        for port, free in self.ports.items():
            command = command.replace(port, free)
        command = command.replace("GRANT_ID", self.grant)
        if "activate" in command:
            return ""
        if "gateway serve" in command:
            log = (self.directory / "serve.log").open("ab")
            self.serving.append(
                subprocess.Popen(
                    f"exec {command}", shell=True, cwd=self.directory, env=self.environment, stdout=log, stderr=log
                )
            )
            log.close()
            self.wait_for_socket(command.split()[-1])
            return ""
        done = subprocess.run(
            command, shell=True, cwd=self.directory, env=self.environment, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def run_document(self, blocks: list[str]) -> dict[str, str]:
        """Type every command of console blocks; return what each printed."""
        shown = {}
        for command in (command for block in blocks for command in commands(block)):
            shown[command] = self.run(command)
            if "grant create" in command:
                self.grant = re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", shown[command])[0]
        return shown

    def wait_for_socket(self, gateway: str) -> None:
        """Wait until a gateway answers its operator."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(self.directory / gateway / "run" / "admin.sock")) == 0:
                    return
            time.sleep(0.05)  # another process is waited for
        raise AssertionError((self.directory / "serve.log").read_text())

    def close(self) -> None:
        """Stop what serves."""
        for process in self.serving:
            process.terminate()
        for process in self.serving:
            process.wait(20)


def settings_python() -> str:
    """Return the interpreter of this test run."""
    return str(Path(sys.executable))


def free_port() -> int:
    """Return a port that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """An empty directory with the command on the path."""
    directory = Path(tempfile.mkdtemp(prefix="m"))
    terminal = Terminal(directory)
    try:
        yield terminal
    finally:
        terminal.close()
        shutil.rmtree(directory, ignore_errors=True)


def enroll(terminal: Terminal) -> None:
    """Follow the quick start as far as the enrollment."""
    terminal.run_document(blocks("Two gateways by hand", "console")[:3])
    terminal.run("mosaic federation peer add --user ada - --gateway home < token")


def test_two_gateways_by_hand(terminal: Terminal) -> None:
    """The quick start, typed as it stands there, moves rows from one gateway to the other and ends in a refusal."""
    shown = terminal.run_document(blocks("Two gateways by hand", "console"))

    listed = next(text for command, text in shown.items() if "query list" in command)
    assert "federated:work.example" in listed
    assert "work.example" in next(text for command, text in shown.items() if command.startswith("mosaic federation st"))
    again = "mosaic federation query list notes --user ada --source federated:work.example --gateway home"
    with pytest.raises(AssertionError, match="GRANT_REVOKED"):
        terminal.run(again)


def test_the_shown_output_is_what_the_sample_gives(terminal: Terminal) -> None:
    """The first example's rows are the first rows of the sample, in that order."""
    enroll(terminal)

    query = "mosaic federation query list tasks --user ada --source federated:work.example --page-size 3"
    printed = terminal.run(f"{query} --gateway home")
    expected = README.split(f"$ {query}\n")[1].split("\n\n")[0]
    assert [line.rstrip() for line in printed.splitlines()] == [line.rstrip() for line in expected.splitlines()]


def test_the_settings_table_is_the_settings() -> None:
    """Every setting stands in the README with its default and its meaning."""
    assert settings_table.documented_table() == settings_table.table()


@pytest.mark.parametrize("source", [*blocks("In a Python program", "python"), *blocks("Sessions", "python")])
def test_python_examples_import_what_exists(source: str) -> None:
    """Each example is valid Python, and every name that it imports exists."""
    tree = ast.parse(source)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]

    assert imports
    exec(compile(ast.Module(imports, []), "README.md", "exec"), {})  # the imports alone


def test_the_asking_example_prints_rows(terminal: Terminal) -> None:
    """The first Python example, run as it stands, prints titles and whether they came from the cache."""
    enroll(terminal)

    (terminal.directory / "example.py").write_text(blocks("In a Python program", "python")[0], encoding="utf-8")
    printed = terminal.run(f"{settings_python()} example.py")

    assert "task-1130 Correct the queued reminders for Lisbon practices" in printed
    assert printed.splitlines()[-1] == "false"


def test_a_session_asks_all_sources(terminal: Terminal) -> None:
    """The table of the section on sessions is what its command prints, and its program prints rows of both gateways."""
    enroll(terminal)
    (block,) = blocks("Sessions", "console")
    (command,) = (line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ "))

    printed = terminal.run(command)
    assert [line.rstrip() for line in printed.splitlines()] == block.rstrip().splitlines()[1:]

    (terminal.directory / "example.py").write_text(blocks("Sessions", "python")[0], encoding="utf-8")
    lines = terminal.run(f"{settings_python()} example.py").splitlines()
    assert lines[0] == "federated:work.example task-1130 Correct the queued reminders for Lisbon practices"
    assert lines[3] == "local home-task-7 Invite the neighbours for soup"
    assert {line.rsplit(" ", 1)[0] for line in lines[4:]} == {"local ok", "federated:work.example ok"}

    work = terminal.serving.pop(0)
    work.terminate()
    work.wait(20)
    lines = terminal.run(f"{settings_python()} example.py").splitlines()
    assert lines.count("federation offline for work.example") == 1
    assert sum(line.startswith("local home-task-") for line in lines) == 4


async def test_an_agent_is_configured_as_shown(terminal: Terminal) -> None:
    """The snippet, with the reader's own directories in it, gives an agent every tool of the table."""
    enroll(terminal)
    server = json.loads(blocks("For agents", "json")[0])["mcpServers"]["mosaic"]
    arguments = [str(terminal.directory / "home") if "/" in word else word for word in server["args"]]
    parameters = StdioServerParameters(
        command=str(terminal.directory / "bin" / "mosaic"), args=arguments, env=terminal.environment
    )

    async with Client(parameters) as client:
        tools = {tool.name: set(tool.input_schema["properties"]) for tool in (await client.list_tools()).tools}
        listed = await client.call_tool("mosaic_list", {"resource": "tasks", "page_size": 4})

    table = README.split("| tool | takes | answers |\n|---|---|---|\n")[1].split("\n\n")[0]
    shown = {
        row.split("|")[1].strip(" `"): set(re.findall(r"`(\w+)`", row.split("|")[2])) for row in table.splitlines()
    }
    assert tools == shown
    assert listed.structured_content is not None
    assert [row["_source"] for row in listed.structured_content["rows"]] == ["federated:work.example"] * 3 + ["local"]
