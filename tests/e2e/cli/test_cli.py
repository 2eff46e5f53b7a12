"""The `mosaic` command against two gateways in separate processes."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mosaic_cli.main import main
from tests.support.cli_runner import Cli, CommandResult
from tests.support.gateway_pair import SCOPE
from tests.support.gateway_processes import MOSAIC, GatewayProcesses, environment, mosaic
from tests.support.schemas import validator

pytestmark = pytest.mark.e2e

SOURCE = "federated:work.example"


@pytest.fixture
def enrolled(cli: Cli) -> str:
    """The grant's id of ada's enrollment at work, made once in this file."""
    return cli.enrolled(json.dumps(SCOPE))


def query(cli: Cli, verb: str, *more: str, code: int = 0) -> CommandResult:
    """Query the peer as ada, with `--json`."""
    return cli(f"federation query {verb} --user ada --source {SOURCE} -g home --json", *more, code=code)


def test_a_grant_is_created_shown_and_listed(cli: Cli) -> None:
    """The grant has the given values as text and as JSON; the next step is on stderr."""
    made = cli(
        "federation grant create -g work --peer x.example --subject bob --expires 90d --scope", json.dumps(SCOPE)
    )
    grants = cli("federation grant list -g work --json").json["grants"]
    grant = next(grant for grant in grants if grant["peer"] == "x.example")
    shown = cli(f"federation grant show {grant['id']} -g work --json").json["grant"]

    assert "◌ pending" in made.out
    assert "mosaic federation grant token" in made.err
    assert shown == grant
    assert (grant["subject"], grant["status"], grant["scope"]["max_rows_per_query"]) == ("bob", "pending", 5)
    assert set(grant) == {
        "id", "peer", "subject", "status", "scope", "created_at", "expires_at", "revoked_at", "revoked_reason",
        "certificate", "last_used", "words", "leases", "watches", "requests", "denials", "last_denied",
        "last_denied_reason",
    }  # fmt: skip
    assert grant["expires_at"] is not None
    assert "x.example" in cli("federation grant list -g work").out


def test_only_the_token_is_on_stdout(cli: Cli) -> None:
    """The token can be piped; all other output is on stderr."""
    made = cli("federation grant create -g work --peer y.example --subject ada --json --scope", json.dumps(SCOPE))

    token = cli(f"federation grant token {made.json['grant']['id']} -g work")

    assert token.out.count("\n") == 1
    assert token.out.startswith("mosaic1_")
    assert "works once" in token.err


def test_scope_and_token_are_read_from_a_file_or_a_pipe(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` reads standard input, a file name reads the file."""
    Path("scope.json").write_text(json.dumps(SCOPE))
    by_file = cli("federation grant create -g work --peer f.example --subject ada --scope scope.json --json")
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(SCOPE)))
    by_pipe = cli("federation grant create -g work --peer f.example --subject ada --scope - --json")
    monkeypatch.setattr("sys.stdin", io.StringIO("mosaic1_nonsense\n"))
    token = cli("federation peer add -g home --user ada -", code=1)

    assert by_file.json["grant"]["scope"] == by_pipe.json["grant"]["scope"]
    assert token.err.startswith("error: token: is garbled")


def test_a_sensitive_resource_gives_a_warning(cli: Cli) -> None:
    """The grant is created, and stderr names the sensitive resource."""
    made = cli(
        'federation grant create -g work --peer z.example --subject ada --json --scope {"resources":["api_keys"]}'
    )

    assert made.err.startswith("warning: scope.resources opens api_keys")
    assert made.json["warnings"]


def test_rows_have_their_tags(cli: Cli, enrolled: str) -> None:
    """With `--json` rows have `_source` and `_cached`, for a hit and a miss, and the data as an object."""
    first, again = query(cli, "list tasks --page-size 3").json, query(cli, "list tasks --page-size 3").json

    row = first["rows"][0]
    assert set(row) == {
        "id", "resource", "owner", "team", "created_at", "updated_at", "data", "_source", "_cached", "age_s"
    }  # fmt: skip
    assert [row["id"] for row in first["rows"]] == ["task-10", "task-8", "task-6"]
    assert (row["_source"], row["_cached"], row["data"]["title"]) == (SOURCE, False, "task number 10")
    assert row["created_at"] == "2026-01-11T00:00:00.000Z"
    assert {row["_cached"] for row in again["rows"]} == {True}


def test_a_page_token_returns_the_next_page(cli: Cli, enrolled: str) -> None:
    """The token of an answer is the option of the next command."""
    first = query(cli, "list tasks").json
    rest = query(cli, "list tasks", "--page-token", first["next_page_token"]).json

    assert [row["id"] for row in rest["rows"]] == ["task-0"]
    assert rest["next_page_token"] is None


def test_get_search_and_capabilities_answer(cli: Cli, enrolled: str) -> None:
    """Every verb has its command."""
    row = query(cli, "get tasks task-4").json["row"]
    hits = query(cli, "search number --resource tasks").json["rows"]
    opened = query(cli, "capabilities").json

    assert (row["id"], row["_source"]) == ("task-4", SOURCE)
    assert {"score", "snippet"} <= set(hits[0])
    assert opened["capabilities"]["max_rows_per_query"] == 5
    assert opened["_source"] == SOURCE


def test_rows_are_shown_as_a_table(cli: Cli, enrolled: str) -> None:
    """The table shows id, tags and title of the rows; the summary is on stderr."""
    listed = cli(f"federation query list tasks --user ada --source {SOURCE} --where status=done -g home")

    assert "task number 6" in listed.out
    assert SOURCE in listed.out
    assert "2 rows from" in listed.err


def test_a_row_is_shown_field_by_field(cli: Cli, enrolled: str) -> None:
    """`get` prints names and values."""
    shown = cli(f"federation query get tasks task-6 --user ada --source {SOURCE} -g home")

    assert ["title", "task number 6"] in [line.split(maxsplit=1) for line in map(str.rstrip, shown.out.splitlines())]


@pytest.mark.parametrize("line", ["federation grant list -g work", "federation peer list -g home"])
def test_a_pipe_gets_no_colour(cli: Cli, enrolled: str, line: str) -> None:
    """Only a terminal gets escape sequences."""
    assert "\x1b" not in cli(line).out


def test_an_operator_rotates_a_certificate(cli: Cli, enrolled: str) -> None:
    """Each rotation shows another fingerprint; queries continue, and the peer lists the new certificate."""
    before = cli("federation peer list -g home --json").json["peers"][0]["certificate"]
    shown = cli("federation peer rotate work.example -g home")
    rotated = cli("federation peer rotate work.example --user ada -g home --json")

    after = rotated.json["peer"]["certificate"]
    granted = cli(f"federation grant show {enrolled} -g work --json").json["grant"]["certificate"]
    query(cli, "list notes")
    assert "fingerprint" in shown.out
    assert len({before["fingerprint"], after["fingerprint"]}) == 2
    assert after["fingerprint"] not in shown.out
    assert granted["fingerprint"] == after["fingerprint"]


def test_status_matches_its_schema(cli: Cli, enrolled: str) -> None:
    """The JSON of `status` at both gateways matches the published schema."""
    query(cli, "list notes")
    status = cli("federation status -g home --json")

    for shape in (status.json, cli("federation status -g work --json").json):
        validator("status").validate(shape)
    peer = status.json["peers"][0]
    assert (peer["name"], peer["state"], peer["circuit"]["state"]) == ("work.example", "active", "closed")
    assert 80_000 < peer["certificate"]["expires_in_s"] <= 86_400


def test_status_is_shown_as_a_table(cli: Cli, enrolled: str) -> None:
    """The table shows the state with its symbol, the peer and the gateway, also at 80 columns."""
    wide = cli("federation status -g home").out
    os.environ["COLUMNS"] = "80"
    narrow = cli("federation status -g home").out

    for text in (wide, narrow):
        assert "● active" in text
        assert "work.example" in text
        assert "home.example" in text
    assert max(len(line) for line in narrow.splitlines()) <= 80


def test_the_audit_shows_a_read(cli: Cli, enrolled: str) -> None:
    """A read by home is in work's audit within a second, with its grant."""
    query(cli, "list tasks --page-size 2")
    deadline = time.monotonic() + 5
    events: list[dict[str, Any]] = []
    while not events and time.monotonic() < deadline:
        events = cli(f"federation audit -g work --grant {enrolled} --verb list --json").json["events"]

    assert {"id", "at", "grant_id", "peer", "subject", "verb", "resource", "outcome", "reason"} <= set(events[0])
    assert (events[0]["peer"], events[0]["subject"], events[0]["outcome"]) == ("home.example", "ada", "ok")
    assert "home.example" in cli("federation audit -g work").out


def test_the_gateway_is_an_option_of_every_level(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway comes from the environment, the group or the command; the innermost takes precedence."""
    monkeypatch.setenv("MOSAIC_GATEWAY", "home")

    names = [
        cli(line).json["gateway"]["name"]
        for line in (
            "federation status --json",
            "federation -g work status --json",
            "federation -g work status -g home --json",
        )
    ]
    assert names == ["home.example", "work.example", "home.example"]


BAD = [
    ("federation status", 2, "error: Invalid value for '--gateway' / '-g': name the gateway's directory, or set"),
    ("federation status -g nowhere", 1,
     "error: gateway: nowhere is not a gateway's directory; make one: mosaic gateway init nowhere"),
    ("federation status -g home --peer wrok.example", 1, "error: no peer 'wrok.example'"),
    ("federation grant show 0000 -g work", 1, "error: no grant '0000'"),
    ("federation grant token 0000 -g work", 1, "error: no grant '0000'"),
    ("federation grant revoke 0000 -g work", 1, "error: no grant '0000'"),
    ('federation grant create -g work --peer h.example --subject adda --scope {"resources":["tasks"]}', 1,
     "error: no user 'adda'; did you mean ada?"),
    ('federation grant create -g work --peer Nope! --subject ada --scope {"resources":["tasks"]}', 1, "error: peer: "),
    ("federation grant create -g work --peer h.example --subject ada --scope missing.json", 1,
     "error: scope: there is no file missing.json; give a file, - for standard input, or the JSON"),
    ("federation grant create -g work --peer h.example --subject ada --scope {", 1, "error: scope: not JSON"),
    ('federation grant create -g work --peer h.example --subject ada --scope {"resources":["taks"]}', 1,
     "error: scope.resources: unknown resource 'taks'"),
    ("federation grant create -g work --peer h.example --subject ada --expires soon --scope {}", 2,
     "error: Invalid value for --expires: 'soon' is not a duration; use one such as 90d, 12h or 30m; see: mosaic"),
    ('federation grant create -g work --peer h.example --subject ada --expires 99999w --scope {"resources":["tasks"]}',
     1, "error: expires_in_s: "),
    ("federation peer add nonsense --user ada -g home", 1, "error: token: is not an enrollment token"),
    ("federation peer add -g home mosaic1_x", 2, "error: Missing option '--user'"),
    ("federation peer remove nobody.example -g home", 1, "error: no peer 'nobody.example'"),
    ("federation peer reset nobody.example -g home", 1, "error: no peer 'nobody.example'"),
    ("federation peer rotate nobody.example -g home", 1, "error: no peer 'nobody.example'"),
    ("federation query list tasks -g home", 2, "error: Missing option '--user'"),
    ("federation query list tasks --user adda -g home", 1, "error: no user 'adda'; did you mean ada?"),
    ("federation query list tasks --user ada --source federated:wrok.example -g home", 1,
     "error: no peer 'wrok.example'"),
    ("federation query list tasks --user ada --source elsewhere -g home", 1,
     "error: source: 'elsewhere' is none of local, federated:PEER and all"),
    ("federation query list nonsense --user ada -g home", 1, "error: resource: unknown here; known are"),
    ("federation query list tasks --user ada --where status -g home", 2, "error: Invalid value for --where: 'status'"),
    ("federation query list tasks --user ada --where a=1 --where a=2 -g home", 2,
     "error: Invalid value for --where: a"),
    ("federation query list tasks --user ada --page-token forged -g home", 1, "error: page_token: not a token of this"),
    ("federation query get tasks nothing --user ada -g home", 1, "error: ROW_NOT_FOUND: no such row"),
    ("federation query list t\udcffsks --user ada -g home", 2, r"error: the argument 't\udcffsks' is not UTF-8 text"),
    ("federation grant show \udcff -g work", 2, r"error: the argument '\udcff' is not UTF-8 text"),
    ("federation audit --limit 0 -g work", 2, "error: Invalid value for '--limit'"),
    ("federation nonsense", 2, "error: No such command 'nonsense'"),
    ("gateway import missing.jsonl -g home", 1, "error: FILE: there is no file missing.jsonl"),
    ("gateway import . -g home", 1, "error: FILE: . is a directory"),
    ("gateway init home --name home.example", 1, "is a gateway's directory already"),
    ("gateway init new --name Not_A_Name", 1, "error: --name: 'Not_A_Name' is not a DNS name in lower case"),
    ("gateway init new --name a.example --listen nonsense", 1, "error: --listen: 'nonsense' is not host:port"),
    ("gateway init new --name a.example --database mysql://x", 1, "error: --database: must begin with"),
    (f"gateway init {'d' * 110} --name a.example", 1,
     "a Unix socket may have; choose a shorter DIR, or --admin-socket with a short absolute path"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "code", "words"), BAD, ids=[line[:60] for line, _, _ in BAD])
def test_a_mistake_gives_one_line_and_an_exit_code(cli: Cli, enrolled: str, line: str, code: int, words: str) -> None:
    """One line on stderr names the field and the fix; nothing is printed on stdout, and nothing changes."""
    before = sorted(Path().iterdir())

    ran = cli(line, code=code)

    assert words in ran.err
    assert (ran.out, ran.err.count("\n")) == ("", 1)
    assert sorted(Path().iterdir()) == before


def test_a_denied_resource_names_reason_and_next_step(cli: Cli, enrolled: str) -> None:
    """A refusal of the peer is shown with its reason."""
    ran = query(cli, "list credentials", code=1)

    assert ran.err.startswith(f"error: SCOPE_VIOLATION: {SOURCE}: the grant does not open the resource 'credentials'")
    assert "query capabilities" in ran.err


@pytest.mark.parametrize("gateway", ["home", "stopped"])
def test_an_invalid_line_of_an_import_changes_nothing(cli: Cli, served: GatewayProcesses, gateway: str) -> None:
    """Through the gateway or directly into the database: line and field are named, and no row is imported."""
    if gateway == "stopped" and not Path("stopped").exists():
        served.init("stopped")
    Path("bad.jsonl").write_text('{"kind": "user", "id": "carol"}\n{"kind": "row", "resource": "taks"}\n{"kind"\n')

    ran = cli(f"gateway import bad.jsonl -g {gateway}", code=1)

    assert "line 2, " in ran.err
    assert "line 3, " in ran.err
    assert "nothing was imported" in ran.err
    if gateway == "home":
        unknown = cli("federation query list tasks --user carol -g home", code=1)
        assert unknown.err.startswith("error: no user 'carol'")


def test_an_import_prints_counts(cli: Cli) -> None:
    """An import prints counts by kind, as text and as JSON."""
    Path("more.jsonl").write_text('{"kind": "user", "id": "dora"}\n{"kind": "team", "id": "T9"}\n')

    assert cli("gateway import more.jsonl -g home").out == "1 users, 1 teams, 0 members, 0 rows\n"
    assert cli("gateway import more.jsonl -g home --json").json == {
        "imported": {"users": 1, "teams": 1, "members": 0, "rows": 0}
    }


def test_a_stopped_gateway_is_unreachable(cli: Cli, served: GatewayProcesses) -> None:
    """The exit code is 4, and the error says how to start the gateway."""
    if not Path("stopped").exists():
        served.init("stopped")

    ran = cli("federation status -g stopped", code=4)

    line = "error: the gateway stopped.example does not run; start it: mosaic gateway serve --gateway stopped\n"
    assert (ran.out, ran.err) == ("", line)


def test_a_second_serve_is_refused_in_one_line(served: GatewayProcesses) -> None:
    """The first gateway continues."""
    ran = mosaic("gateway", "serve", "--gateway", "work", cwd=served.directory)

    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("error: the gateway work.example is already served by process ")
    assert ran.stderr.count("\n") == 1
    assert mosaic("federation", "status", "--gateway", "work", cwd=served.directory).returncode == 0


@pytest.mark.parametrize("command", ["federation grant create --peer p.example --subject ada --scope -",
                                     "federation peer add --user ada -"])  # fmt: skip
def test_input_that_is_not_utf8_is_an_error(cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Standard input that is not UTF-8 gives one line, not a traceback."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8"))

    ran = cli(f"{command} -g home", code=1)

    assert (ran.out, ran.err.count("\n")) == ("", 1)
    assert ran.err.endswith(": standard input is not UTF-8 text\n")


def test_output_without_unicode_escapes_symbols(served: GatewayProcesses, enrolled: str) -> None:
    """A symbol that the output's encoding lacks is written by its number, and the command succeeds."""
    ran = mosaic("federation", "status", "-g", "home", cwd=served.directory, PYTHONIOENCODING="ascii")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert r"\u25cf active" in ran.stdout


def test_a_closed_stdout_is_no_error(served: GatewayProcesses) -> None:
    """A command with a closed standard output succeeds."""
    closed = f"{sys.executable} -m mosaic_cli federation grant list -g home >&-"
    ran = subprocess.run(
        closed, shell=True, cwd=served.directory, env=environment(), capture_output=True, timeout=60, check=False
    )

    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("field", ["listen", "enroll"])
def test_a_port_in_use_is_named(served: GatewayProcesses, field: str) -> None:
    """The error names the setting and the fix; the gateway starts once the port is free."""
    address = _listening(served, "home")
    name = f"blocked-{field}"
    served.init(name, **{field: address})

    ran = mosaic("gateway", "serve", "--gateway", name, cwd=served.directory)

    assert ran.returncode == 1
    assert ran.stderr.startswith(
        f"error: {field}: cannot listen on {address}: Address already in use; stop the program"
    )
    assert ran.stderr.count("\n") == 1
    assert not (served.directory / name / "run" / "admin.sock").exists()


def _listening(served: GatewayProcesses, name: str) -> str:
    human = mosaic("federation", "status", "--gateway", name, cwd=served.directory)
    return next(line.split()[1] for line in human.stdout.splitlines() if line.startswith("listens"))


def test_a_standby_takes_over(served: GatewayProcesses) -> None:
    """A standby waits for the first process, says so, and serves when the first process has ended."""
    served.init("twin")
    served.start("twin")
    first = served.processes.pop("twin")
    standby = subprocess.Popen(
        [*MOSAIC, "gateway", "serve", "--gateway", "twin", "--standby"],
        cwd=served.directory,
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert standby.stdout is not None
    assert standby.stderr is not None
    assert standby.stderr.readline() == "another process serves twin.example; waiting for it to exit\n"

    first.terminate()

    assert standby.stdout.readline() == "twin.example serves\n"
    standby.send_signal(signal.SIGINT)
    assert standby.wait(20) == 0
    assert first.wait(20) == 0
    for process in (first, standby):
        process.communicate()


def test_a_killed_gateway_starts_again(served: GatewayProcesses) -> None:
    """After SIGKILL the next start needs no manual cleanup."""
    served.init("phoenix")
    served.start("phoenix")
    assert served.stop("phoenix", signal.SIGKILL) == -signal.SIGKILL
    assert (served.directory / "phoenix" / "run" / "admin.sock").exists()

    served.start("phoenix")

    assert mosaic("federation", "status", "--gateway", "phoenix", cwd=served.directory).returncode == 0
    assert served.stop("phoenix") == 0
    assert not (served.directory / "phoenix" / "run" / "admin.sock").exists()


def test_only_the_user_may_open_the_socket(served: GatewayProcesses) -> None:
    """The socket has mode 0600, its directory mode 0700."""
    run = served.directory / "work" / "run"

    assert (run.stat().st_mode & 0o777, (run / "admin.sock").stat().st_mode & 0o777) == (0o700, 0o600)


def test_a_revoked_grant_changes_the_exit_code(cli: Cli) -> None:
    """The revocation prints a receipt, the next query is refused, and `status` exits with 3."""
    grant = cli.enroll("bobs-work", user="bob", scope='{"resources":["tasks"]}')
    before = cli("federation query list tasks --user bob --source federated:bobs-work -g home --json")
    assert before.json["rows"]

    revoked = cli(f"federation grant revoke {grant} --reason ended -g work --json")
    refused = cli("federation query list tasks --user bob --source federated:bobs-work --page-size 7 -g home", code=1)
    status = cli("federation status -g home --json", code=3)

    assert revoked.json["receipt"]["reason"] == "ended"
    assert revoked.json["receipt"]["revoked_at"] is not None
    assert revoked.json["receipt"]["effective_at"] >= revoked.json["receipt"]["revoked_at"]
    assert refused.err.startswith("error: GRANT_REVOKED: ")
    states = {peer["name"]: peer["state"] for peer in status.json["peers"]}
    assert states["bobs-work"] == "revoked"
    cli("federation peer remove bobs-work -g home")
    cli("federation status -g home")


def test_a_bug_shows_no_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error gives one line; MOSAIC_DEBUG shows the traceback."""

    def breaks(_: Path) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("federation.admin.client.connect", breaks)

    ran = cli("federation status -g home", code=1)

    assert ran.err == "error: ZeroDivisionError: oops; set MOSAIC_DEBUG=1 for the traceback\n"
    monkeypatch.setenv("MOSAIC_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["federation", "status", "-g", "home"])


def test_an_interrupt_prints_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends with exit code 130 and no output."""

    def interrupted(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("federation.admin.client.connect", interrupted)

    assert cli("federation status -g home", code=130) == CommandResult(130, "", "")


def test_a_closed_pipe_is_no_error(served: GatewayProcesses) -> None:
    """`mosaic … | head` ends without a message."""
    command = f"{' '.join(MOSAIC)} federation audit --json --limit 1000 --gateway work | head -c 1"
    ran = subprocess.run(
        command, shell=True, cwd=served.directory, env=environment(), capture_output=True, text=True, check=False
    )

    assert (ran.stdout, ran.stderr) == ("{", "")


def test_texts_of_a_peer_are_sanitized(cli: Cli, enrolled: str) -> None:
    """A row of a hostile peer is shown without its escape sequences, and so is an error."""
    line = {
        "kind": "row", "resource": "notes", "id": "evil", "owner": "ada", "data": {"text": "a\x1b[2J\x07b"},
    }  # fmt: skip
    Path("evil.jsonl").write_text(json.dumps(line))
    cli("gateway import evil.jsonl -g work")

    for command in ("list notes --page-size 4", "get notes evil"):
        shown = cli(f"federation query {command} --user ada --source {SOURCE} -g home")
        assert "\x1b" not in shown.out
        assert "\x07" not in shown.out


@pytest.mark.parametrize("serving", [True, False])
def test_an_import_can_be_interrupted(served: GatewayProcesses, serving: bool) -> None:
    """Ctrl-C while reading standard input ends the command without a message, and imports nothing."""
    if not serving:
        served.init("idle")
    gateway = "home" if serving else "idle"
    with subprocess.Popen(
        [*MOSAIC, "gateway", "import", "-", "--gateway", gateway],
        cwd=served.directory,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"\n" * (1 << 20))  # more than a pipe holds, so it reads by now
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(20) == 130
        finally:
            process.kill()
        assert process.stdout.read() == b""
        assert process.stderr.read() == b""
