"""`grant revoke`, `grant scope` and `user remove` against two gateways in separate processes, with leases of 2 s."""

import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.cli_runner import TASKS_AND_NOTES, Cli, CommandResult
from tests.support.gateway_processes import MOSAIC, GatewayProcesses, environment

pytestmark = pytest.mark.e2e

NARROWER = '{"resources": ["tasks"], "filters": {"tasks": {"include_teams": ["T1"]}}, "max_rows_per_query": 3}'
LEASE_S = 2.0


@pytest.fixture(scope="module")
def served() -> Iterator[GatewayProcesses]:
    """`home` and `work`; work gives leases of 2 s."""
    with GatewayProcesses.temporary() as served:
        for name in ("home", "work"):
            served.init(name)
        config = served.directory / "work" / "gateway.toml"
        config.write_text(config.read_text().replace("[server]", f"[server]\nmax_lease_s = {LEASE_S}"))
        served.start_all("home", "work")
        yield served


def listed(cli: Cli, peer: str, user: str = "ada", code: int = 0) -> CommandResult:
    """List tasks of a peer."""
    return cli(f"federation query list tasks --user {user} --source federated:{peer} -g home --json", code=code)


def receipt(cli: Cli, grant: str) -> dict[str, Any]:
    """The receipt of a revoked grant."""
    return dict(cli(f"federation grant revoke {grant} -g work --json").json["receipt"])


def test_revoking_a_connected_peers_grant_prints_a_receipt(cli: Cli) -> None:
    """The receipt has the effective time and each cache's acknowledgement; the next query is refused."""
    grant = cli.enroll("r1")
    listed(cli, "r1")
    assert listed(cli, "r1").json["rows"][0]["_cached"] is True

    done = cli(f"federation grant revoke {grant} -g work --reason", "contract ended")

    assert "effective" in done.out
    assert "contract ended" in done.out
    assert "its acknowledgement" in done.out
    assert done.err.endswith("no cache of the peer can serve anything of this grant\n")
    refused = listed(cli, "r1", code=1)
    assert "GRANT_REVOKED" in refused.err
    assert "contract ended" in refused.err
    shape = receipt(cli, grant)
    assert shape["kind"] == "revoked"
    assert shape["effective_at"] >= shape["revoked_at"]
    assert [one["how"] for one in shape["instances"]] == ["acked"]
    cli("federation peer remove r1 -g home")


def test_an_unreachable_peer_is_named_and_awaited(cli: Cli, served: GatewayProcesses) -> None:
    """The lines name the awaited caches and the latest end; with --no-wait the pending receipt is printed."""
    grant = cli.enroll("r2")
    listed(cli, "r2")
    with served.suspended("home"):
        begun = time.monotonic()
        quick = cli(f"federation grant revoke {grant} -g work --no-wait --json")
        pending = quick.json["receipt"]
        done = cli(f"federation grant revoke {grant} -g work")
        assert time.monotonic() - begun > LEASE_S - 1
    assert pending["effective_at"] is None
    assert pending["revoked_at"] is not None
    assert [(one["how"], one["at"]) for one in pending["instances"]] == [("awaited", None)]
    assert pending["instances"][0]["until"] is not None
    assert "waiting for one cache of the peer" in done.err
    assert "UTC at the latest" in done.err
    assert "the end of its lease" in done.out
    assert listed(cli, "r2", code=1).err.startswith("error: GRANT_REVOKED")
    cli("federation peer remove r2 -g home")


def test_no_wait_prints_the_state_of_the_revocation(cli: Cli, served: GatewayProcesses) -> None:
    """The output says that new calls are refused, and names the awaited caches."""
    grant = cli.enroll("r3")
    listed(cli, "r3")
    with served.suspended("home"):
        done = cli(f"federation grant revoke {grant} -g work --no-wait")
    assert "revoked" in done.out
    assert done.err.startswith("in force for every new call; waiting for one cache of the peer")
    cli("federation peer remove r3 -g home")


def test_an_interrupted_command_does_not_stop_the_revocation(cli: Cli, served: GatewayProcesses) -> None:
    """Ctrl-C ends the wait and prints the command that shows the revocation; the receipt is stored later."""
    grant = cli.enroll("r4")
    listed(cli, "r4")
    with served.suspended("home"):
        command = subprocess.Popen(
            [*MOSAIC, "federation", "grant", "revoke", grant, "-g", "work"],
            cwd=served.directory,
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
        assert [one["how"] for one in receipt(cli, grant)["instances"]] == ["lease_ended"]
    cli("federation peer remove r4 -g home")


def test_a_terminal_shows_a_live_line(cli: Cli, served: GatewayProcesses) -> None:
    """A terminal shows a countdown in one line, which is erased before the receipt is printed."""
    grant = cli.enroll("r5")
    listed(cli, "r5")
    ours, theirs = pty.openpty()
    with served.suspended("home"):
        done = subprocess.run(
            [*MOSAIC, "federation", "grant", "revoke", grant, "-g", "work"],
            cwd=served.directory,
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
    cli("federation peer remove r5 -g home")


def test_a_killed_gateway_continues_its_revocations(cli: Cli, served: GatewayProcesses) -> None:
    """After a restart the grant is refused, the log says so, and the receipt waits for earlier leases."""
    grant = cli.enroll("r6")
    listed(cli, "r6")
    with served.suspended("home"):
        cli(f"federation grant revoke {grant} -g work --no-wait")
        served.stop("work", signal.SIGKILL)
        served.start("work")
        shape = receipt(cli, grant)
    assert [(one["instance_id"], one["how"]) for one in shape["instances"]] == [(None, "lease_ended")]
    log = (served.directory / "work.log").read_text()
    assert "left a revocation or scope reduction unfinished; continuing it" in log
    assert receipt(cli, grant) == shape
    cli("federation peer remove r6 -g home")


def test_a_dry_run_of_a_refused_scope_edit_is_refused(cli: Cli) -> None:
    """A dry run on a revoked grant fails with the same error as the edit."""
    create = "federation grant create --peer home.example --subject ada --json -g work --scope"
    grant = cli(create, TASKS_AND_NOTES).json["grant"]["id"]
    cli(f"federation grant revoke {grant} -g work")
    edit = f"federation grant scope {grant} -g work --scope"

    tried = cli(edit, NARROWER, "--dry-run", code=1)
    done = cli(edit, NARROWER, code=1)

    assert tried == done
    assert done == CommandResult(1, "", f"error: grant {grant} is revoked, which is final; make a new one\n")


def test_a_scope_edit_shows_gains_and_losses(cli: Cli) -> None:
    """A dry run changes nothing; the edit is in force for the next query, has a receipt, and can be repeated."""
    grant = cli.enroll("s1")
    assert len(listed(cli, "s1").json["rows"]) > 3

    dry = cli(f"federation grant scope {grant} -g work --dry-run --scope", NARROWER)
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
    assert len(listed(cli, "s1").json["rows"]) > 3

    tried = cli(f"federation grant scope {grant} -g work --dry-run --json --scope", NARROWER).json
    assert [(one["resource"], one["rows"]) for one in tried["opened"]] == [("tasks", 12), ("notes", 1)]
    assert [(one["resource"], one["rows"]) for one in tried["opens"]] == [("tasks", 6)]

    edited = cli(f"federation grant scope {grant} -g work --json --scope", NARROWER).json
    assert (edited["opened"], edited["opens"]) == ([], [])
    assert (edited["applied"], edited["gains"], len(edited["losses"])) == (True, [], 4)
    assert edited["receipt"]["kind"] == "narrowed"
    assert edited["receipt"]["effective_at"] is not None
    rows = listed(cli, "s1").json["rows"]
    assert {row["team"] for row in rows} == {"T1"}
    assert len(rows) == 3

    again = cli(f"federation grant scope {grant} -g work --scope", NARROWER)
    assert again.err.splitlines()[0] == "this scope is already in force"
    assert "narrowed" in again.out

    wider = cli(f"federation grant scope {grant} -g work --scope", TASKS_AND_NOTES)
    assert "gains  tasks: personal rows" in wider.out
    assert wider.err.splitlines()[0] == "the new scope is in force from the next call on"
    assert "reads tasks and notes: all that ada may" in wider.err
    assert len(listed(cli, "s1").json["rows"]) > 3

    faulty = cli(f"federation grant scope {grant} -g work --scope", '{"resources": ["tsks"]}', code=1)
    assert faulty.err.startswith("error: scope.resources: unknown resource")
    cli(f"federation grant revoke {grant} -g work")
    final = cli(f"federation grant scope {grant} -g work --scope", TASKS_AND_NOTES, code=1)
    assert "is revoked, which is final" in final.err
    cli("federation peer remove s1 -g home")


def test_removing_a_user_revokes_every_grant(cli: Cli) -> None:
    """Every grant of the user has a receipt; memberships are removed, owned rows and other users' grants stay."""
    bobs, other = cli.enroll("u1", user="bob"), cli.enroll("u2")
    listed(cli, "u1", "bob")
    create = "federation grant create -g work --peer x.example --subject bob --json --scope"
    never_used = cli(create, TASKS_AND_NOTES).json["grant"]["id"]

    done = cli("user remove bob -g work --json").json

    removal = done["removal"]
    assert (removal["user"], set(removal["grants"]), removal["teams"]) == ("bob", {bobs, never_used}, ["T2"])
    assert (removal["owned_rows"], removal["from_data"], removal["peers"]) == (1, True, [])
    assert {one["grant_id"] for one in done["receipts"]} == {bobs, never_used}
    assert all(one["effective_at"] and one["reason"] == "the user was removed" for one in done["receipts"])
    assert "GRANT_REVOKED" in listed(cli, "u1", "bob", code=1).err
    assert listed(cli, "u2").json["rows"]
    until = time.monotonic() + 5
    while "user.remove" not in cli("federation audit -g work --json").out:  # written off the request path
        assert time.monotonic() < until
    words = cli("user remove bob -g work")
    assert "0 revoked" in words.out
    assert "1 rows keep this user" in words.out
    peers = cli("user remove bob -g home")
    assert "still enrolled for this user: mosaic federation peer remove u1 --user bob" in peers.err
    unknown = cli("user remove nobody -g work", code=1)
    assert unknown.err.startswith("error: no user 'nobody'")
    cli(f"federation grant revoke {other} -g work")
    for name in ("u1", "u2"):
        cli(f"federation peer remove {name} -g home")
