"""Records every `--json` output of two real gateways, in states that fill the optional fields."""

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
from tests.support.gateway_processes import MOSAIC, GatewayProcesses, environment, mosaic_here

WORK = "--user ada --source federated:work.example -g home"
ALL = "--user ada --source all -g home"
NARROW = json.dumps({**SCOPE, "resources": ["tasks"]})


@dataclass
class JsonOutputs(GatewayProcesses):
    """`taken` holds what was printed, by the name of its schema."""

    recorded: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))

    def record(self, schema: str, line: str, *more: str) -> Any:
        """Run a command and record the JSON object that it prints, whatever its exit code."""
        self.recorded[schema].append(shape := json.loads(self.run(line, *more, "--json")))
        return shape

    def run(self, line: str, *more: str) -> str:
        """Run a command in this process; return what it printed, whatever its exit code."""
        ran = mosaic_here(*line.split(), *more, cwd=self.directory)
        return ran.stdout or ran.stderr

    @contextlib.contextmanager
    def lines(self, schema: str, line: str) -> Iterator[Callable[[], Any]]:
        """Run a command that prints line by line; yield a function that reads and records its next line."""
        with subprocess.Popen(
            [*MOSAIC, *line.split(), "--json"],
            cwd=self.directory,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            lines = process.stdout

            def read() -> Any:
                self.recorded[schema].append(shape := json.loads(lines.readline()))
                return shape

            try:
                yield read
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(20)

    def until(self, ready: Callable[[Any], object], line: str) -> Any:
        """Repeat a command until its output meets a condition."""
        deadline = time.monotonic() + 40
        while not ready(shape := json.loads(self.run(f"{line} --json"))):
            assert time.monotonic() < deadline, shape
            time.sleep(0.05)  # another process is waited for
        return shape


def _init_gateways(outputs: JsonOutputs) -> None:
    outputs.record("gateway-init", "gateway init third --name third.example")
    for name in ("home", "work"):
        outputs.init(name)
    outputs.record("gateway-import", "gateway import rows.jsonl -g third")
    settings = outputs.directory / "home" / "gateway.toml"
    settings.write_text(settings.read_text().replace("[circuit]", "[circuit]\nfailure_threshold = 2"))
    outputs.start_all("home", "work")
    settings = outputs.directory / "work" / "gateway.toml"
    for key, word in (("federation", "listen"), ("enrollment", "enroll")):  # the same ports after a restart
        address = json.loads(outputs.run("federation status -g work --json"))["gateway"][f"{key}_address"]
        settings.write_text(settings.read_text().replace(f'{word} = "127.0.0.1:0"', f'{word} = "{address}"'))


def _enroll(outputs: JsonOutputs, user: str, *more: str) -> str:
    """Enroll home at work for a user; confirm the grant if `more` requires it."""
    made = outputs.record(
        "grant-create",
        f"federation grant create -g work --peer home.example --subject {user} --expires 90d --scope",
        json.dumps(SCOPE),
    )
    grant = str(made["grant"]["id"])
    token = outputs.record("grant-token", f"federation grant token {grant} -g work", *more)["token"]
    name = "work.example" if user == "ada" else f"{user}s.example"
    added = outputs.record("peer-add", f"federation peer add --user {user} --name {name} -g home", token)
    if more:
        print_of = added["peer"]["certificate"]["fingerprint"]
        outputs.record("grant-confirm", f"federation grant confirm {grant} {print_of} -g work")
    return grant


def _record_reads(outputs: JsonOutputs, grant: str) -> None:
    outputs.run("federation grant create --peer x.example --subject bob -g work --scope", NARROW)
    outputs.record("grant-list", "federation grant list --page-size 1 -g work")
    outputs.record("grant-list", "federation grant list --all -g work")
    for _ in range(2):
        outputs.record("query-list", f"federation query list tasks --page-size 2 {WORK}")
    outputs.record("query-list", f"federation query list tasks {ALL}")
    outputs.record("query-list", f"federation query list credentials {ALL}")
    outputs.run(f"federation query list credentials {WORK}")
    outputs.record("query-get", f"federation query get tasks task-0 {ALL}")
    outputs.record("query-get", f"federation query get tasks none {ALL}")
    outputs.record("query-search", f"federation query search number --page-size 1 {ALL}")
    for source in (WORK, ALL):
        outputs.record("query-capabilities", f"federation query capabilities {source}")
    outputs.record("grant-show", f"federation grant show {grant} -g work")
    outputs.until(lambda shape: shape["peers"][0]["watch"]["state"] == "armed", "federation status -g home")
    for gateway in ("home", "work"):
        outputs.record("status", f"federation status -g {gateway}")
        outputs.record("status", f"federation status -g {gateway} --peer {_other(gateway)}")
    outputs.record("status-explain", "federation status --explain work.example -g home --user ada")
    outputs.record("peer-list", "federation peer list -g home")
    outputs.record("peer-show", "federation peer show work.example --live -g home")
    outputs.record("peer-rotate", "federation peer rotate work.example -g home")
    outputs.record("peer-reset", "federation peer reset work.example -g home")


def _other(gateway: str) -> str:
    return {"home": "work.example", "work": "home.example"}[gateway]


def _record_audit(outputs: JsonOutputs) -> None:
    """Record the audit by pages, with a foreign file in its directory, and as it is followed."""
    audit = outputs.directory / "work" / "audit"
    audit.mkdir(exist_ok=True)
    (audit / "stray.txt").write_text("not ours")
    outputs.record("audit", "federation audit --limit 2 -g work")
    outputs.record("audit", "federation audit --history -g work")
    outputs.record("audit", "federation audit -g home")
    with outputs.lines("audit-follow", "federation audit --follow -g work") as read:
        for _ in range(5):
            read()


def _record_revocation(outputs: JsonOutputs, grant: str) -> None:
    """Narrow and revoke the grant, with home suspended (without waiting) and with home running (until the receipt)."""
    outputs.run(f"federation query list notes {WORK}")
    outputs.record("grant-scope", f"federation grant scope {grant} -g work --dry-run --scope", NARROW)
    with outputs.suspended("home"):
        outputs.record("grant-scope", f"federation grant scope {grant} -g work --no-wait --scope", NARROW)
    outputs.record("grant-scope", f"federation grant scope {grant} -g work --scope", NARROW)
    risky = json.dumps({"resources": ["tasks", "api_keys"]})
    outputs.record("grant-scope", f"federation grant scope {grant} -g work --scope", risky)
    outputs.record(
        "grant-create", "federation grant create --peer x.example --subject ada -g work --dry-run --scope", risky
    )
    with outputs.suspended("home"):
        outputs.record("grant-revoke", f"federation grant revoke {grant} -g work --no-wait --reason over")
    outputs.record("grant-revoke", f"federation grant revoke {grant} -g work")
    outputs.record("grant-show", f"federation grant show {grant} -g work")
    revoked = outputs.until(lambda shape: shape["peer"]["revocation"], "federation peer show work.example -g home")
    outputs.recorded["peer-show"].append(revoked)
    outputs.record("status", "federation status -g home")
    outputs.record("peer-remove", "federation peer remove work.example -g home")


def _record_outage(outputs: JsonOutputs) -> None:
    """Stop work, so that the circuit opens, sessions give signals and a renewal fails; then start it again."""
    outputs.stop("work")
    outputs.run("federation peer rotate work.example -g home")
    outputs.record("query-list", f"federation query list tasks --session s --page-size 3 {ALL}")
    outputs.record("query-search", f"federation query search number --session t {ALL}")
    outputs.record("query-get", f"federation query get tasks task-0 --session u {ALL}")
    outputs.record("query-capabilities", f"federation query capabilities --session v {ALL}")
    outputs.record("peer-show", "federation peer show work.example --live -g home")
    outputs.record("peer-show", "federation peer show work.example -g home")
    outputs.record("status", "federation status -g home")
    outputs.record("status-explain", "federation status --explain work.example -g home --user ada")
    outputs.start("work")
    outputs.run("federation peer reset work.example -g home")
    outputs.until(lambda shape: shape["peers"][0]["watch"]["state"] == "armed", "federation status -g home")
    outputs.record("query-list", f"federation query list tasks --page-size 4 --session s {ALL}")


def _stop_home(outputs: JsonOutputs) -> None:
    """Stop home while its status is watched, start it, and remove its user."""
    with outputs.lines("status-watch", "federation status --watch -g home") as read:
        assert "peers" in read()
        outputs.stop("home")
        while "unreachable" not in read():
            pass
    outputs.record("status-explain", "federation status --explain work.example -g home --user ada")
    outputs.start("home")
    outputs.run("federation grant create --peer x.example --subject ada -g home --scope", json.dumps(SCOPE))
    outputs.record("user-remove", "user remove ada -g home --reason moved")


@pytest.fixture(scope="module")
def outputs() -> Iterator[JsonOutputs]:
    """All recorded outputs."""
    with JsonOutputs.temporary() as outputs:
        _init_gateways(outputs)
        grant = _enroll(outputs, "ada", "--confirm")
        _record_reads(outputs, grant)
        _record_audit(outputs)
        # Before any restart: a revocation waits for the leases of a stopped home, and of all before a start of work.
        _record_revocation(outputs, grant)
        _enroll(outputs, "ada")
        _record_outage(outputs)
        _stop_home(outputs)
        yield outputs
