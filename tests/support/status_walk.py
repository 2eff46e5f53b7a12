"""Two real gateways walked through every state that an operator may find, and what `status` said in each."""

import contextlib
import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

from federation.admin.client import connect
from federation.v1 import admin_pb2 as pb
from mosaic_cli.status import shapes as status_shapes
from tests.support.gateway_pair import SCOPE
from tests.support.gateway_processes import Served, environment, mosaic_here
from tests.support.network_faults import Relay
from tests.support.shifted_clock_program import AHEAD
from tests.support.terminal import Terminal

SOURCE = "federated:work.example"
HOUR_S = 3_600
CIRCUIT = "[circuit]\nfailure_threshold = 3\ncooldown_s = 6.0\njitter = 0.0"
_NORMAL = (
    (r"\n {13,}", " "),  # what was wrapped
    (r"\b\d+ (s|min|h|d)\b", "N"),
    (r"\(\d\d:\d\d:\d\d UTC\)|\(\d{4}-\d\d-\d\d \d\d:\d\d UTC\)", "(AT)"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "NOW"),
    (r"127\.0\.0\.1:\d+", "ADDRESS"),
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "ID"),
    (r"\d+(,\d+)*\.?\d* (ms|KiB)", r"N \2"),
    (r"(N ago|USED) {2,}", r"\1  "),
    (r"(?<=example) \d+\.\d+\.\d+", " VERSION"),
)


class Told(NamedTuple):
    """What the operator got in one state: from the terminal, and as JSON from a pipe."""

    code: int
    text: str
    width: int
    """Of the longest line."""
    colour: bool
    json: Any
    json_code: int


@dataclass
class States(Served):
    """`home` reads `work` through a relay. `told` is what status said in each state, by its name."""

    told: dict[str, Told] = field(default_factory=dict)
    relay: Relay = field(default_factory=Relay)
    grant: str = ""

    def start_ahead(self, name: str) -> None:
        """Serve a gateway whose clock may go ahead."""
        with (self.directory / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.shifted_clock_program", name],
                cwd=self.directory,
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.processes[name] = process
        assert process.stdout is not None
        assert process.stdout.readline(), (self.directory / f"{name}.log").read_text()

    def start_work(self) -> None:
        """Serve `work`, and let the relay lead there."""
        self.relay.target = int(self.start("work")[1].rpartition(":")[2])

    def run(self, line: str, *more: str) -> str:
        """Run a command in this process; return what it printed on standard output, whatever its code."""
        return mosaic_here(*line.split(), *more, cwd=self.directory).stdout

    def ask(self, *more: str) -> None:
        """Have ada read at work, and wait for the answer or the failure."""
        self.run(f"federation query list tasks --user ada --source {SOURCE} -g home --json", *more)

    def peer(self) -> dict[str, Any]:
        """The one peer of `home` as JSON shows it now."""
        with connect(self.directory / "home") as admin:
            shape = status_shapes.status(admin.Status(pb.StatusRequest()))
        peer: dict[str, Any] = shape["peers"][0]
        return peer

    def until(self, ready: Callable[[dict[str, Any]], bool], do: Callable[[], object] = bool) -> None:
        """Wait for a state of the peer; meanwhile do something again and again."""
        deadline = time.monotonic() + 40
        while not ready(peer := self.peer()):
            assert time.monotonic() < deadline, peer
            do()
            time.sleep(0.05)

    def armed(self) -> None:
        """Wait for the watch."""
        self.until(lambda peer: peer["watch"]["state"] == "armed")

    def ahead(self, seconds: float) -> None:
        """Set home's clock ahead."""
        path = self.directory / "home" / AHEAD
        path.with_suffix(".new").write_text(str(seconds))
        path.with_suffix(".new").rename(path)

    def note(self, state: str, gateway: str = "home") -> None:
        """Run the real command in a terminal and in a pipe, and keep what it said."""
        with Terminal("federation", "status", "-g", gateway, cwd=self.directory) as terminal:
            code = terminal.wait()
            lines, colour = terminal.text.splitlines(), "\x1b[" in terminal.output
        ran = mosaic_here("federation", "status", "-g", gateway, "--json", cwd=self.directory)
        text, width = normal("\n".join(lines)), max(map(len, lines))
        shape = json.loads(ran.stdout) if ran.stdout else ran.stderr
        self.told[state] = Told(code, text, width, colour, shape, ran.returncode)


def normal(text: str) -> str:
    """Text with its times, addresses and ids made alike, and wrapped lines made one."""
    for pattern, instead in _NORMAL:
        text = re.sub(pattern, instead, text)
    return text


def _found(states: States) -> None:
    states.found("work")
    states.found("home")
    settings = states.directory / "home" / "gateway.toml"
    settings.write_text(settings.read_text().replace("[circuit]", CIRCUIT))
    states.start_work()
    states.start_ahead("home")
    made = states.run(
        "federation grant create -g work --peer home.example --subject ada --json --scope", json.dumps(SCOPE)
    )
    states.grant = json.loads(made)["grant"]["id"]
    token = states.run(f"federation grant token {states.grant} -g work").strip()
    states.run("federation peer add --user ada -g home", token)
    states.stop("home")
    with contextlib.closing(sqlite3.connect(states.directory / "home" / "gateway.db")) as database, database:
        database.execute("UPDATE peers SET endpoint = ?", (states.relay.endpoint,))
    states.start_ahead("home")
    states.armed()


def _walk(states: States) -> None:
    """Through every state, in an order in which each can be had."""
    states.ask()
    states.note("healthy")
    states.ask()
    states.note("cached")
    states.ask("--where", "owner=ada", "--page-size", "1")
    states.relay.refuse()
    states.relay.reset_oldest()
    states.until(lambda peer: peer["watch"]["state"] == "connecting")
    states.ask("--page-size", "2")
    states.note("watch down")
    states.relay.accept()
    states.armed()
    _lose(states)
    _come_back(states)
    _age(states)
    _end(states)


def _lose(states: States) -> None:
    states.stop("work")
    states.until(lambda peer: peer["watch"]["state"] == "connecting")
    states.ask("--page-size", "3")
    states.note("peer stopped")
    states.until(lambda peer: peer["circuit"]["state"] == "open", lambda: states.ask("--page-size", "3"))
    states.note("circuit open")
    states.until(lambda peer: peer["circuit"]["state"] == "half_open")
    states.note("half-open")


def _come_back(states: States) -> None:
    states.start_work()
    states.until(lambda peer: peer["circuit"]["state"] == "closed", lambda: states.ask("--page-size", "4"))
    states.armed()
    states.note("recovered")


def _age(states: States) -> None:
    """Let a day pass at home: its certificate comes to its end, first renewed in vain, then not at all."""
    serial = states.peer()["certificate"]["serial"]
    states.ahead(19 * HOUR_S)
    states.until(lambda peer: peer["certificate"]["serial"] != serial)
    states.armed()
    states.note("near expiry")
    states.stop("work")
    seconds = iter(range(19 * HOUR_S + 60, 20 * HOUR_S, 5))
    failing = 3
    states.until(
        lambda peer: peer["renewal"]["consecutive_failures"] >= failing, lambda: states.ahead(float(next(seconds)))
    )
    states.note("renewal failing")
    states.ahead(25 * HOUR_S)
    states.note("expired")


def _end(states: States) -> None:
    states.ahead(0)
    states.stop("home")
    states.note("gateway down")
    states.start_ahead("home")
    states.note("not seen")
    states.start_work()
    states.armed()
    states.run(f"federation query list credentials --user ada --source {SOURCE} -g home")
    states.note("serving", "work")
    states.run(f"federation grant revoke {states.grant} -g work --no-wait --reason", "project over")
    states.until(lambda peer: peer["state"] == "revoked")
    states.note("revoked")
    states.note("taken back", "work")


@pytest.fixture(scope="module")
def states() -> Iterator[States]:
    """The two gateways at the end of the walk, `home` with a revoked peer."""
    with States.temporary() as states, contextlib.closing(states.relay):
        _found(states)
        _walk(states)
        yield states
