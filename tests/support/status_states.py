"""Brings two real gateways into every state of `status`, and records the output in each."""

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
from federation.config import CircuitConfig
from federation.v1 import admin_pb2 as pb
from mosaic_cli.status import shapes as status_shapes
from tests.support.gateway_pair import SCOPE
from tests.support.gateway_processes import GatewayProcesses, environment, mosaic_here
from tests.support.network_faults import Relay
from tests.support.shifted_clock_program import MONOTONIC, WALL
from tests.support.terminal import Terminal

SOURCE = "federated:work.example"
HOUR_S = 3_600
CIRCUIT = "[circuit]\nfailure_threshold = 3\njitter = 0.0"
COOLDOWN_S = CircuitConfig().cooldown_s
_NORMAL = (
    (r"\n {13,}", " "),  # wrapped lines
    (r"\b\d+ (s|min|h|d)\b", "N"),
    (r"\(\d\d:\d\d:\d\d UTC\)|\(\d{4}-\d\d-\d\d \d\d:\d\d UTC\)", "(AT)"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "NOW"),
    (r"127\.0\.0\.1:\d+", "ADDRESS"),
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "ID"),
    (r"\d+(,\d+)*\.?\d* (ms|KiB)", r"N \2"),
    (r"(N ago|USED) {2,}", r"\1  "),
    (r"(?<=example) \d+\.\d+\.\d+", " VERSION"),
)


class StatusOutput(NamedTuple):
    """The outputs in one state: on a terminal, and as JSON through a pipe."""

    code: int
    text: str
    width: int
    """Of the longest line."""
    colour: bool
    json: Any
    json_code: int


@dataclass
class StatusStates(GatewayProcesses):
    """`home` reads `work` through a relay. `outputs` has the output of `status` by state."""

    outputs: dict[str, StatusOutput] = field(default_factory=dict)
    relay: Relay = field(default_factory=Relay)
    grant: str = ""

    def start_ahead(self, name: str) -> None:
        """Start a gateway whose clock can be set ahead."""
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
        """Start `work`, and connect the relay to it."""
        self.relay.target = int(self.start("work")[1].rpartition(":")[2])

    def run(self, line: str, *more: str) -> str:
        """Run a command in this process; return what it printed on standard output, whatever its code."""
        return mosaic_here(*line.split(), *more, cwd=self.directory).stdout

    def ask(self, *more: str) -> None:
        """List tasks at work as ada, whatever the result."""
        self.run(f"federation query list tasks --user ada --source {SOURCE} -g home --json", *more)

    def peer(self) -> dict[str, Any]:
        """The peer of `home`, as in the JSON status."""
        with connect(self.directory / "home") as admin:
            shape = status_shapes.status(admin.Status(pb.StatusRequest()))
        peer: dict[str, Any] = shape["peers"][0]
        return peer

    def until(self, ready: Callable[[dict[str, Any]], bool], do: Callable[[], object] = bool) -> None:
        """Wait until the peer meets a condition; call `do` before each new check."""
        deadline = time.monotonic() + 40
        while not ready(peer := self.peer()):
            assert time.monotonic() < deadline, peer
            do()
            time.sleep(0.05)

    def wait_until_armed(self) -> None:
        """Wait until the watch is armed."""
        self.until(lambda peer: peer["watch"]["state"] == "armed")

    def set_clock_ahead(self, seconds: float, clock: str = WALL) -> None:
        """Set a clock of home ahead of the machine's by so many seconds."""
        path = self.directory / "home" / clock
        path.with_suffix(".new").write_text(str(seconds))
        path.with_suffix(".new").rename(path)

    def record(self, state: str, gateway: str = "home") -> None:
        """Run `status` in a terminal and in a pipe, and record both outputs."""
        with Terminal("federation", "status", "-g", gateway, cwd=self.directory) as terminal:
            code = terminal.wait()
            lines, colour = terminal.text.splitlines(), "\x1b[" in terminal.output
        ran = mosaic_here("federation", "status", "-g", gateway, "--json", cwd=self.directory)
        text, width = normal("\n".join(lines)), max(map(len, lines))
        shape = json.loads(ran.stdout) if ran.stdout else ran.stderr
        self.outputs[state] = StatusOutput(code, text, width, colour, shape, ran.returncode)


def normal(text: str) -> str:
    """Text with times, addresses and ids replaced by placeholders, and wrapped lines joined."""
    for pattern, instead in _NORMAL:
        text = re.sub(pattern, instead, text)
    return text


def _init_gateways(states: StatusStates) -> None:
    states.init("work")
    states.init("home")
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
    states.wait_until_armed()


def _record_all(states: StatusStates) -> None:
    """Record every state, in an order in which each can be reached."""
    states.ask()
    states.record("healthy")
    states.ask()
    states.record("cached")
    states.ask("--where", "owner=ada", "--page-size", "1")
    states.relay.refuse()
    states.relay.reset_oldest()
    states.until(lambda peer: peer["watch"]["state"] == "connecting")
    states.ask("--page-size", "2")
    states.record("watch down")
    states.relay.accept()
    states.wait_until_armed()
    _record_outage(states)
    _record_recovery(states)
    _record_certificate_record_rest(states)
    _record_rest(states)


def _record_outage(states: StatusStates) -> None:
    states.stop("work")
    states.until(lambda peer: peer["watch"]["state"] == "connecting")
    states.ask("--page-size", "3")
    states.record("peer stopped")
    states.until(lambda peer: peer["circuit"]["state"] == "open", lambda: states.ask("--page-size", "3"))
    states.record("circuit open")
    states.set_clock_ahead(COOLDOWN_S, MONOTONIC)
    states.until(lambda peer: peer["circuit"]["state"] == "half_open")
    states.record("half-open")


def _record_recovery(states: StatusStates) -> None:
    states.start_work()
    states.until(lambda peer: peer["circuit"]["state"] == "closed", lambda: states.ask("--page-size", "4"))
    states.wait_until_armed()
    states.record("recovered")


def _record_certificate_record_rest(states: StatusStates) -> None:
    """Set home's clock ahead until its certificate is near its end, its renewal fails, and it expires."""
    serial = states.peer()["certificate"]["serial"]
    states.set_clock_ahead(19 * HOUR_S)
    states.until(lambda peer: peer["certificate"]["serial"] != serial)
    states.wait_until_armed()
    states.record("near expiry")
    states.stop("work")
    seconds = iter(range(19 * HOUR_S + 60, 20 * HOUR_S, 5))
    failing = 3
    states.until(
        lambda peer: peer["renewal"]["consecutive_failures"] >= failing,
        lambda: states.set_clock_ahead(float(next(seconds))),
    )
    states.record("renewal failing")
    states.set_clock_ahead(25 * HOUR_S)
    states.record("expired")


def _record_rest(states: StatusStates) -> None:
    states.set_clock_ahead(0)
    states.stop("home")
    states.record("gateway down")
    states.start_ahead("home")
    states.record("not seen")
    states.start_work()
    states.wait_until_armed()
    states.run(f"federation query list credentials --user ada --source {SOURCE} -g home")
    states.record("serving", "work")
    states.run(f"federation grant revoke {states.grant} -g work --no-wait --reason", "project over")
    states.until(lambda peer: peer["state"] == "revoked")
    states.record("revoked")
    states.record("revoked here", "work")


@pytest.fixture(scope="module")
def states() -> Iterator[StatusStates]:
    """The two gateways after all states; `home` has a revoked peer."""
    with StatusStates.temporary() as states, contextlib.closing(states.relay):
        _init_gateways(states)
        _record_all(states)
        yield states
