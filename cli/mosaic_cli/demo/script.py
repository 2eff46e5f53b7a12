"""The steps of the demo. Each claim of the narration is checked against the output of the command."""

import json
import socket
from contextlib import ExitStack
from typing import Final

from mosaic_cli.demo.data import HOME, WORK
from mosaic_cli.demo.environment import DemoEnvironment

SCOPE: Final = """\
{
  "resources": ["tasks", "notes"],
  "excluded_resources": ["credentials"],
  "max_rows_per_query": 5,
  "filters": {
    "tasks": {"include_teams": ["T1"], "include_personal": false},
    "notes": {"include_teams": ["T1"], "include_personal": false}
  }
}
"""
PORTS: Final = 4
ASK: Final = "--user ada --source federated:work.example"
ALL: Final = "--user ada --source all --session morning"
OFFLINE: Final = "federation offline for work.example"
RESTORED: Final = "federation restored for work.example"
FAILURES: Final = 5
"""Failures in a row that open a circuit, by default."""


def run_script(env: DemoEnvironment) -> None:
    """Run all steps of the demo. Raises `StepError` if the result of a step differs from the narration."""
    _create_gateways(env)
    _enroll(env)
    task = _read(env)
    _show_operators(env)
    _query_all(env)
    _stop_work(env, task)
    _restart_work(env)
    env.say(
        "That is all. `mosaic --help` lists all commands; README.md shows how to run two gateways by hand, "
        "and how an agent queries them."
    )


def _create_gateways(env: DemoEnvironment) -> None:
    env.say("Two gateways run on this machine: Ada's own at home, and that of the company she works for.")
    work_listen, work_enroll, home_listen, home_enroll = _free_ports()
    at_work = f"--listen 127.0.0.1:{work_listen} --enroll 127.0.0.1:{work_enroll}"
    home_ports = f"--listen 127.0.0.1:{home_listen} --enroll 127.0.0.1:{home_enroll}"
    env.run(f"mosaic gateway init work --name work.example {at_work}")
    env.run(f"mosaic gateway init home --name home.example {home_ports}")
    env.say("Each gateway has its own data: users, teams, tasks, notes. The demo imports them from files.")
    env.write_file("work.jsonl", WORK.read_bytes())
    env.write_file("home.jsonl", HOME.read_bytes())
    env.run("mosaic gateway import work.jsonl --gateway work", expect=["3 users", "2 teams"])
    env.run("mosaic gateway import home.jsonl --gateway home", expect=["1 users"])
    env.say("Each gateway runs as a separate process, as on two machines.")
    env.serve("work")
    env.serve("home")


def _enroll(env: DemoEnvironment) -> None:
    env.say(
        "At work, the operator decides what Ada's home gateway may read: tasks and notes of team T1, five rows a page."
    )
    env.show_file("scope.json", SCOPE)
    create = "mosaic federation grant create --peer home.example --subject ada --expires 90d --scope scope.json"
    env.run(f"{create} --gateway work", expect=["pending", "home.example"])
    grants = env.run("mosaic federation grant list --json --gateway work", quiet=True)
    grant = json.loads(grants.stdout)["grants"][0]["id"]
    env.say("A token lets one gateway enroll, once, within 15 minutes. Send it to Ada as securely as a password.")
    env.run(f"mosaic federation grant token {grant} --gateway work > token", expect=["it works once"])
    env.say(
        "At home, the token is redeemed: home generates a key, work issues a certificate, and all calls use mutual TLS."
    )
    env.export("home")
    env.run("mosaic federation peer add --user ada - < token", expect=["work.example", "fingerprint"])


def _read(env: DemoEnvironment) -> str:
    env.say("Ada reads her tasks at work. Her personal tasks and those of other teams never leave work.")
    listing = f"mosaic federation query list tasks {ASK}"
    env.run(listing, expect=["federated:work.example", "T1", "5 rows"])
    rows = json.loads(env.run(f"{listing} --json", quiet=True).stdout)["rows"]
    env.check(all(row["team"] == "T1" for row in rows), "only rows of team T1 crossed")
    env.say("The same query again is answered from the cache (CACHED), without a call to work.")
    env.run(listing, expect=["yes"])
    env.say("Next, one row, and a search over all that the grant opens. A search is never cached.")
    task = str(rows[0]["id"])
    env.run(f"mosaic federation query get tasks {task} {ASK}", expect=[task, "title"])
    word = max(str(rows[0]["data"]["title"]).split(), key=len).strip(".,:")
    env.run(f"mosaic federation query search {word} {ASK}", expect=["["])
    env.say("A resource outside the grant is refused, with the reason.")
    env.run(f"mosaic federation query list credentials {ASK}", code=1, expect=["SCOPE_VIOLATION"])
    env.run(f"mosaic federation query capabilities {ASK}", expect=["tasks", "rows a query  5"])
    return task


def _show_operators(env: DemoEnvironment) -> None:
    env.say("Both operators can see the state. At home:")
    env.run("mosaic federation status", expect=["● active", "work.example"])
    env.say("At work, the audit trail records who read what, without the rows:")
    env.run("mosaic federation audit --limit 8 --gateway work")
    # A narrow terminal truncates the table.
    full = "mosaic federation audit --limit 8 --gateway work --json"
    env.run(full, quiet=True, expect=["home.example", "SCOPE_VIOLATION"])


def _query_all(env: DemoEnvironment) -> None:
    env.say("An agent's session queries local data and every peer at once: one list, with the source of each row.")
    ran = env.run(f"mosaic federation query list tasks --page-size 6 {ALL}", expect=["from 2 of 2 sources"])
    env.check("  local  " in ran.stdout and "  federated:work.example  " in ran.stdout, "rows of both are in the list")


def _stop_work(env: DemoEnvironment, task: str) -> None:
    env.say("Now the gateway at work stops.")
    get = f"mosaic federation query get notes {_note_id(env)} {ASK}"
    env.run(get, quiet=True)
    env.stop("work")
    env.say("Rows that Ada has just read stay in the cache for at most 30 seconds.")
    cached = env.run(get, expect=["_cached"])
    env.check("_cached     true" in cached.stdout, "the row was answered from the cache")
    env.say("The session continues with local data, and reports the outage once.")
    search = f"mosaic federation query search budget {ALL}"
    env.run(search, expect=["local", OFFLINE])
    env.say("From now on the session skips work until it is reachable again.")
    again = env.run(search, expect=["local", "skipped"])
    env.check(OFFLINE not in again.stderr, "a session reports an outage once")
    env.say("A query of work alone fails with the reason and exit code 1.")
    search = f"mosaic federation query search {task} {ASK}"
    env.run(search, code=1, expect=["PEER_UNREACHABLE"])
    env.say(f"After {FAILURES} failures in a row the circuit opens: calls fail at once and send nothing until a probe.")
    for _ in range(FAILURES - 2):  # one failure came from the session, and one from the query above
        env.run(search, code=1, quiet=True)
    env.run(search, code=1, expect=["CIRCUIT_OPEN"])
    env.run("mosaic federation status", code=3, expect=["○ offline", "PEER_UNREACHABLE"])


def _restart_work(env: DemoEnvironment) -> None:
    env.say("Work starts again. The circuit would probe it later; the operator at home can close the circuit at once.")
    env.serve("work")
    env.run("mosaic federation peer reset work.example", expect=["active"])
    env.run(f"mosaic federation query search budget {ASK}", quiet=True)
    env.say("The session reports the recovery, and has the rows of both gateways again.")
    env.run(f"mosaic federation query search budget {ALL}", expect=["from 2 of 2 sources", RESTORED])


def _note_id(env: DemoEnvironment) -> str:
    rows = json.loads(env.run(f"mosaic federation query list notes {ASK} --json", quiet=True).stdout)["rows"]
    return str(rows[0]["id"])


def _free_ports() -> tuple[int, ...]:
    """Return four free loopback ports, so that several demos can run at once."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(PORTS)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return tuple(int(probe.getsockname()[1]) for probe in probes)
