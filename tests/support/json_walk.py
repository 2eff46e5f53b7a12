"""Every `--json` output there is, of two real gateways led through what fills the optional fields."""

import contextlib
import json
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.gateway_pair import SCOPE
from tests.support.gateway_processes import MOSAIC, Served, environment, mosaic_here

WORK = "--user ada --source federated:work.example -g home"
ALL = "--user ada --source all -g home"
NARROW = json.dumps({**SCOPE, "resources": ["tasks"]})


@dataclass
class Outputs(Served):
    """`taken` holds what was printed, by the name of its schema."""

    taken: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))

    def take(self, schema: str, line: str, *more: str) -> Any:
        """Run a command, whatever its exit code, and keep the one object that it prints."""
        self.taken[schema].append(shape := json.loads(self.run(line, *more, "--json")))
        return shape

    def run(self, line: str, *more: str) -> str:
        """Run a command in this process, whatever its exit code; return what it printed."""
        ran = mosaic_here(*line.split(), *more, cwd=self.directory)
        return ran.stdout or ran.stderr

    @contextlib.contextmanager
    def lines(self, schema: str, line: str) -> Iterator[Callable[[], Any]]:
        """Run a command that goes on; yield what reads and keeps its next line."""
        with subprocess.Popen(
            [*MOSAIC, *line.split(), "--json"],
            cwd=self.directory,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            told = process.stdout

            def read() -> Any:
                self.taken[schema].append(shape := json.loads(told.readline()))
                return shape

            try:
                yield read
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(20)

    def until(self, ready: Callable[[Any], object], line: str) -> Any:
        """Wait until a command's output is so."""
        deadline = time.monotonic() + 40
        while not ready(shape := json.loads(self.run(f"{line} --json"))):
            assert time.monotonic() < deadline, shape
            time.sleep(0.05)  # another process is waited for
        return shape


def _found(outputs: Outputs) -> None:
    outputs.take("gateway-init", "gateway init third --name third.example")
    for name in ("home", "work"):
        outputs.found(name)
    outputs.take("gateway-import", "gateway import rows.jsonl -g third")
    settings = outputs.directory / "home" / "gateway.toml"
    settings.write_text(settings.read_text().replace("[circuit]", "[circuit]\nfailure_threshold = 2"))
    outputs.start_all("home", "work")
    settings = outputs.directory / "work" / "gateway.toml"
    for key, word in (("federation", "listen"), ("enrollment", "enroll")):  # where it comes back to
        address = json.loads(outputs.run("federation status -g work --json"))["gateway"][f"{key}_address"]
        settings.write_text(settings.read_text().replace(f'{word} = "127.0.0.1:0"', f'{word} = "{address}"'))


def _enroll(outputs: Outputs, user: str, *more: str) -> str:
    """Let home read work for a user, with a confirmation where `more` asks for one."""
    made = outputs.take(
        "grant-create",
        f"federation grant create -g work --peer home.example --subject {user} --expires 90d --scope",
        json.dumps(SCOPE),
    )
    grant = str(made["grant"]["id"])
    token = outputs.take("grant-token", f"federation grant token {grant} -g work", *more)["token"]
    name = "work.example" if user == "ada" else f"{user}s.example"
    added = outputs.take("peer-add", f"federation peer add --user {user} --name {name} -g home", token)
    if more:
        print_of = added["peer"]["certificate"]["fingerprint"]
        outputs.take("grant-confirm", f"federation grant confirm {grant} {print_of} -g work")
    return grant


def _read(outputs: Outputs, grant: str) -> None:
    outputs.run("federation grant create --peer x.example --subject bob -g work --scope", NARROW)
    outputs.take("grant-list", "federation grant list --page-size 1 -g work")
    outputs.take("grant-list", "federation grant list --all -g work")
    for _ in range(2):
        outputs.take("query-list", f"federation query list tasks --page-size 2 {WORK}")
    outputs.take("query-list", f"federation query list tasks {ALL}")
    outputs.take("query-list", f"federation query list credentials {ALL}")
    outputs.run(f"federation query list credentials {WORK}")
    outputs.take("query-get", f"federation query get tasks task-0 {ALL}")
    outputs.take("query-get", f"federation query get tasks none {ALL}")
    outputs.take("query-search", f"federation query search number --page-size 1 {ALL}")
    for source in (WORK, ALL):
        outputs.take("query-capabilities", f"federation query capabilities {source}")
    outputs.take("grant-show", f"federation grant show {grant} -g work")
    outputs.until(lambda shape: shape["peers"][0]["watch"]["state"] == "armed", "federation status -g home")
    for gateway in ("home", "work"):
        outputs.take("status", f"federation status -g {gateway}")
        outputs.take("status", f"federation status -g {gateway} --peer {_other(gateway)}")
    outputs.take("status-explain", "federation status --explain work.example -g home --user ada")
    outputs.take("peer-list", "federation peer list -g home")
    outputs.take("peer-show", "federation peer show work.example --live -g home")
    outputs.take("peer-rotate", "federation peer rotate work.example -g home")
    outputs.take("peer-reset", "federation peer reset work.example -g home")


def _other(gateway: str) -> str:
    return {"home": "work.example", "work": "home.example"}[gateway]


def _record(outputs: Outputs) -> None:
    """What was done so far, by pages and as it is written; a file that is none of the audit's is named."""
    audit = outputs.directory / "work" / "audit"
    audit.mkdir(exist_ok=True)
    (audit / "stray.txt").write_text("not ours")
    outputs.take("audit", "federation audit --limit 2 -g work")
    outputs.take("audit", "federation audit --history -g work")
    outputs.take("audit", "federation audit -g home")
    with outputs.lines("audit-follow", "federation audit --follow -g work") as read:
        for _ in range(5):
            read()


def _take_back(outputs: Outputs, grant: str) -> None:
    """Narrow and revoke, told at once while home is silent, and to the end."""
    outputs.run(f"federation query list notes {WORK}")
    outputs.take("grant-scope", f"federation grant scope {grant} -g work --dry-run --scope", NARROW)
    with outputs.silence("home"):
        outputs.take("grant-scope", f"federation grant scope {grant} -g work --no-wait --scope", NARROW)
    outputs.take("grant-scope", f"federation grant scope {grant} -g work --scope", NARROW)
    risky = json.dumps({"resources": ["tasks", "api_keys"]})
    outputs.take("grant-scope", f"federation grant scope {grant} -g work --scope", risky)
    outputs.take(
        "grant-create", "federation grant create --peer x.example --subject ada -g work --dry-run --scope", risky
    )
    with outputs.silence("home"):
        outputs.take("grant-revoke", f"federation grant revoke {grant} -g work --no-wait --reason over")
    outputs.take("grant-revoke", f"federation grant revoke {grant} -g work")
    outputs.take("grant-show", f"federation grant show {grant} -g work")
    revoked = outputs.until(lambda shape: shape["peer"]["revocation"], "federation peer show work.example -g home")
    outputs.taken["peer-show"].append(revoked)
    outputs.take("status", "federation status -g home")
    outputs.take("peer-remove", "federation peer remove work.example -g home")


def _lose(outputs: Outputs) -> None:
    """Work goes away: the circuit opens, a session is told, a renewal fails; then it is back."""
    outputs.stop("work")
    outputs.run("federation peer rotate work.example -g home")
    outputs.take("query-list", f"federation query list tasks --session s --page-size 3 {ALL}")
    outputs.take("query-search", f"federation query search number --session t {ALL}")
    outputs.take("query-get", f"federation query get tasks task-0 --session u {ALL}")
    outputs.take("query-capabilities", f"federation query capabilities --session v {ALL}")
    outputs.take("peer-show", "federation peer show work.example --live -g home")
    outputs.take("peer-show", "federation peer show work.example -g home")
    outputs.take("status", "federation status -g home")
    outputs.take("status-explain", "federation status --explain work.example -g home --user ada")
    outputs.start("work")
    outputs.run("federation peer reset work.example -g home")
    outputs.until(lambda shape: shape["peers"][0]["watch"]["state"] == "armed", "federation status -g home")
    outputs.take("query-list", f"federation query list tasks --page-size 4 --session s {ALL}")


def _stop_home(outputs: Outputs) -> None:
    """Stop home while its status is watched, start it, and remove its user."""
    with outputs.lines("status-watch", "federation status --watch -g home") as read:
        assert "peers" in read()
        outputs.stop("home")
        while "unreachable" not in read():
            pass
    outputs.take("status-explain", "federation status --explain work.example -g home --user ada")
    outputs.start("home")
    outputs.run("federation grant create --peer x.example --subject ada -g home --scope", json.dumps(SCOPE))
    outputs.take("user-remove", "user remove ada -g home --reason moved")


@pytest.fixture(scope="module")
def outputs() -> Iterator[Outputs]:
    """Every output, after the whole walk."""
    with Outputs.temporary() as outputs:
        _found(outputs)
        grant = _enroll(outputs, "ada", "--confirm")
        _read(outputs, grant)
        _record(outputs)
        # Before any restart: a revocation waits for the leases of a stopped home, and of all before a start of work.
        _take_back(outputs, grant)
        _enroll(outputs, "ada")
        _lose(outputs)
        _stop_home(outputs)
        yield outputs
