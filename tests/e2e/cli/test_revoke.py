"""`grant revoke`, `grant scope` and `user remove` against two gateways in separate processes, with leases of 2 s."""

import json
import os
import pty
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli_runner import CommandResult, run_command
from tests.support.gateway_processes import MOSAIC, GatewayProcesses, environment

pytestmark = pytest.mark.e2e

TASKS = '{"resources": ["tasks", "notes"]}'
NARROWER = '{"resources": ["tasks"], "filters": {"tasks": {"include_teams": ["T1"]}}, "max_rows_per_query": 3}'
LEASE_S = 2.0


@pytest.fixture(scope="module")
def pair() -> Iterator[GatewayProcesses]:
    """`home` and `work`; work grants leases of 2 s."""
    served = GatewayProcesses(Path(tempfile.mkdtemp(prefix="m")))
    try:
        for name in ("home", "work"):
            served.init(name)
        config = served.directory / "work" / "gateway.toml"
        config.write_text(config.read_text().replace("[server]", f"[server]\nmax_lease_s = {LEASE_S}"))
        served.start_all("home", "work")
        yield served
    finally:
        served.stop_all()


@pytest.fixture(autouse=True)
def in_directory(pair: GatewayProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run commands in the directory of the gateways."""
    monkeypatch.chdir(pair.directory)
    monkeypatch.delenv("MOSAIC_GATEWAY", raising=False)
    monkeypatch.setenv("COLUMNS", "100")


def run(_pair: GatewayProcesses, line: str, *more: str, code: int = 0) -> CommandResult:
    """Run a command in this process and check its exit code."""
    ran = run_command(*line.split(), *more)
    assert ran.code == code, ran
    return ran


def enroll(pair: GatewayProcesses, peer: str, *, user: str = "ada", subject: str = "ada") -> str:
    """Enroll home at work under a peer name; return the grant's id."""
    create = f"federation grant create -g work --peer home.example --subject {subject} --json --scope"
    grant = run(pair, create, TASKS).json["grant"]["id"]
    token = run(pair, f"federation grant token {grant} -g work").out
    run(pair, f"federation peer add --user {user} --name {peer} -g home", token.strip())
    return str(grant)


def listed(pair: GatewayProcesses, peer: str, user: str = "ada", code: int = 0) -> CommandResult:
    """List tasks of a peer."""
    return run(pair, f"federation query list tasks --user {user} --source federated:{peer} -g home --json", code=code)


def receipt(pair: GatewayProcesses, grant: str) -> dict[str, Any]:
    """The receipt of a revoked grant."""
    return dict(run(pair, f"federation grant revoke {grant} -g work --json").json["receipt"])


@contextmanager
def frozen(pair: GatewayProcesses, name: str) -> Iterator[None]:
    """Suspend a gateway's process inside the context."""
    pair.processes[name].send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        pair.processes[name].send_signal(signal.SIGCONT)


def test_revoking_a_connected_peers_grant_prints_a_receipt(pair: GatewayProcesses) -> None:
    """The receipt has the effective time and each cache's acknowledgement; the next query is refused."""
    grant = enroll(pair, "r1")
    listed(pair, "r1")
    assert listed(pair, "r1").json["rows"][0]["_cached"] is True

    done = run(pair, f"federation grant revoke {grant} -g work --reason", "contract ended")

    assert "effective" in done.out
    assert "contract ended" in done.out
    assert "its acknowledgement" in done.out
    assert done.err.endswith("no cache of the peer can serve anything of this grant\n")
    refused = listed(pair, "r1", code=1)
    assert "GRANT_REVOKED" in refused.err
    assert "contract ended" in refused.err
    shape = receipt(pair, grant)
    assert shape["kind"] == "revoked"
    assert shape["effective_at"] >= shape["revoked_at"]
    assert [one["how"] for one in shape["instances"]] == ["acked"]
    run(pair, "federation peer remove r1 -g home")


def test_an_unreachable_peer_is_named_and_awaited(pair: GatewayProcesses) -> None:
    """The lines name the awaited caches and the latest end; with --no-wait the pending receipt is printed."""
    grant = enroll(pair, "r2")
    listed(pair, "r2")
    with frozen(pair, "home"):
        begun = time.monotonic()
        quick = run(pair, f"federation grant revoke {grant} -g work --no-wait --json")
        pending = quick.json["receipt"]
        done = run(pair, f"federation grant revoke {grant} -g work")
        assert time.monotonic() - begun > LEASE_S - 1
    assert pending["effective_at"] is None
    assert pending["revoked_at"] is not None
    assert [(one["how"], one["at"]) for one in pending["instances"]] == [("awaited", None)]
    assert pending["instances"][0]["until"] is not None
    assert "waiting for one cache of the peer" in done.err
    assert "UTC at the latest" in done.err
    assert "the end of its lease" in done.out
    assert listed(pair, "r2", code=1).err.startswith("error: GRANT_REVOKED")
    run(pair, "federation peer remove r2 -g home")


def test_no_wait_prints_the_state_of_the_revocation(pair: GatewayProcesses) -> None:
    """The output says that new calls are refused, and names the awaited caches."""
    grant = enroll(pair, "r3")
    listed(pair, "r3")
    with frozen(pair, "home"):
        done = run(pair, f"federation grant revoke {grant} -g work --no-wait")
    assert "revoked" in done.out
    assert done.err.startswith("in force for every new call; waiting for one cache of the peer")
    run(pair, "federation peer remove r3 -g home")


def test_an_interrupted_command_does_not_stop_the_revocation(pair: GatewayProcesses) -> None:
    """Ctrl-C ends the wait and prints the command that shows the revocation; the receipt is stored later."""
    grant = enroll(pair, "r4")
    listed(pair, "r4")
    with frozen(pair, "home"):
        command = subprocess.Popen(
            [*MOSAIC, "federation", "grant", "revoke", grant, "-g", "work"],
            cwd=pair.directory,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert command.stderr is not None
        assert command.stderr.readline().startswith("waiting for one cache")
        command.send_signal(signal.SIGINT)
        out, words = command.communicate(timeout=20)
        assert (command.returncode, out) == (130, "")
        assert words == (
            "stopped waiting; the gateway already refuses calls and continues the revocation. "
            f"To see it: mosaic federation grant revoke {grant}\n"
        )
        assert [one["how"] for one in receipt(pair, grant)["instances"]] == ["lease_ended"]
    run(pair, "federation peer remove r4 -g home")


def test_a_terminal_shows_a_live_line(pair: GatewayProcesses) -> None:
    """A terminal shows a countdown in one line, which is erased before the receipt is printed."""
    grant = enroll(pair, "r5")
    listed(pair, "r5")
    ours, theirs = pty.openpty()
    with frozen(pair, "home"):
        done = subprocess.run(
            [*MOSAIC, "federation", "grant", "revoke", grant, "-g", "work"],
            cwd=pair.directory,
            env=environment(TERM="xterm", COLUMNS="160"),
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
            timeout=30,
            check=True,
        )
    os.close(theirs)
    seen = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "waiting for one cache of the peer" in seen
    assert "(in 1 s)" in seen
    assert "\x1b[2K" in seen
    assert "effective" in done.stdout
    assert "\x1b" not in done.stdout
    run(pair, "federation peer remove r5 -g home")


def test_a_killed_gateway_continues_its_revocations(pair: GatewayProcesses) -> None:
    """After a restart the grant is refused, the log says so, and the receipt waits for earlier leases."""
    grant = enroll(pair, "r6")
    listed(pair, "r6")
    with frozen(pair, "home"):
        run(pair, f"federation grant revoke {grant} -g work --no-wait")
        pair.stop("work", signal.SIGKILL)
        pair.start("work")
        shape = receipt(pair, grant)
    assert [(one["instance_id"], one["how"]) for one in shape["instances"]] == [(None, "lease_ended")]
    assert "left a revocation or scope reduction unfinished; continuing it" in (pair.directory / "work.log").read_text()
    assert receipt(pair, grant) == shape
    run(pair, "federation peer remove r6 -g home")


def test_a_dry_run_of_a_refused_scope_edit_is_refused(pair: GatewayProcesses) -> None:
    """A dry run on a revoked grant fails with the same error as the edit."""
    made = run(
        pair,
        "federation grant create --peer home.example --subject ada --json -g work --scope",
        '{"resources": ["tasks"]}',
    )
    grant = made.json["grant"]["id"]
    run(pair, f"federation grant revoke {grant} -g work")
    edit = f"federation grant scope {grant} -g work --scope"

    tried = run(pair, edit, NARROWER, "--dry-run", code=1)
    done = run(pair, edit, NARROWER, code=1)

    assert tried == done
    assert done == CommandResult(1, "", f"error: grant {grant} is revoked, which is final; make a new one\n")


def test_a_scope_edit_shows_gains_and_losses(pair: GatewayProcesses) -> None:
    """A dry run changes nothing; the edit is in force for the next query, has a receipt, and can be repeated."""
    grant = enroll(pair, "s1")
    assert len(listed(pair, "s1").json["rows"]) > 3

    dry = run(pair, f"federation grant scope {grant} -g work --dry-run --scope", NARROWER)
    assert dry.out.splitlines() == [
        "loses  tasks: rows of every team but T1",
        "loses  tasks: personal rows",
        "loses  notes: rows of every team and personal rows",
        "loses  3 rows a query, before 100",
        "",
        "RESOURCE  ROWS NOW  ROWS THEN  NEWEST THEN",
        "tasks     12        6          task-10, task-8, task-6, task-4, task-2",
        "notes     1         -          -",
    ]
    assert dry.err.splitlines() == [
        "-: not in the scope",
        "nothing was changed (--dry-run)",
        "the scope would be: reads tasks of team T1, no personal rows, at most 3 rows a query, 600 calls a minute",
    ]
    assert len(listed(pair, "s1").json["rows"]) > 3

    tried = run(pair, f"federation grant scope {grant} -g work --dry-run --json --scope", NARROWER).json
    assert [(one["resource"], one["rows"]) for one in tried["opened"]] == [("tasks", 12), ("notes", 1)]
    assert [(one["resource"], one["rows"]) for one in tried["opens"]] == [("tasks", 6)]

    edited = run(pair, f"federation grant scope {grant} -g work --json --scope", NARROWER).json
    assert (edited["opened"], edited["opens"]) == ([], [])
    assert (edited["applied"], edited["gains"], len(edited["losses"])) == (True, [], 4)
    assert edited["receipt"]["kind"] == "narrowed"
    assert edited["receipt"]["effective_at"] is not None
    rows = listed(pair, "s1").json["rows"]
    assert {row["team"] for row in rows} == {"T1"}
    assert len(rows) == 3

    again = run(pair, f"federation grant scope {grant} -g work --scope", NARROWER)
    assert again.err.splitlines()[0] == "this scope is already in force"
    assert "narrowed" in again.out

    wider = run(pair, f"federation grant scope {grant} -g work --scope", TASKS)
    assert "gains  tasks: personal rows" in wider.out
    assert wider.err.splitlines()[0] == "the new scope is in force from the next call on"
    assert "reads tasks and notes: all that ada may" in wider.err
    assert len(listed(pair, "s1").json["rows"]) > 3

    faulty = run(pair, f"federation grant scope {grant} -g work --scope", '{"resources": ["tsks"]}', code=1)
    assert faulty.err.startswith("error: scope.resources: unknown resource")
    run(pair, f"federation grant revoke {grant} -g work")
    final = run(pair, f"federation grant scope {grant} -g work --scope", TASKS, code=1)
    assert "is revoked, which is final" in final.err
    run(pair, "federation peer remove s1 -g home")


def test_removing_a_user_revokes_every_grant(pair: GatewayProcesses) -> None:
    """Every grant of the user has a receipt; memberships are removed, owned rows and other users' grants stay."""
    bobs, other = enroll(pair, "u1", user="bob", subject="bob"), enroll(pair, "u2", user="ada", subject="ada")
    listed(pair, "u1", "bob")
    never_used = json.loads(
        run(pair, "federation grant create -g work --peer x.example --subject bob --json --scope", TASKS).out
    )["grant"]["id"]

    done = run(pair, "user remove bob -g work --json").json

    removal = done["removal"]
    assert (removal["user"], set(removal["grants"]), removal["teams"]) == ("bob", {bobs, never_used}, ["T2"])
    assert (removal["owned_rows"], removal["from_data"], removal["peers"]) == (1, True, [])
    assert {one["grant_id"] for one in done["receipts"]} == {bobs, never_used}
    assert all(one["effective_at"] and one["reason"] == "the user was removed" for one in done["receipts"])
    assert "GRANT_REVOKED" in listed(pair, "u1", "bob", code=1).err
    assert listed(pair, "u2").json["rows"]
    until = time.monotonic() + 5
    while "user.remove" not in run(pair, "federation audit -g work --json").out:  # written off the request path
        assert time.monotonic() < until
    words = run(pair, "user remove bob -g work")
    assert "0 revoked" in words.out
    assert "1 rows keep this user" in words.out
    peers = run(pair, "user remove bob -g home")
    assert "still enrolled for this user: mosaic federation peer remove u1 --user bob" in peers.err
    unknown = run(pair, "user remove nobody -g work", code=1)
    assert unknown.err.startswith("error: no user 'nobody'")
    run(pair, f"federation grant revoke {other} -g work")
    for name in ("u1", "u2"):
        run(pair, f"federation peer remove {name} -g home")
