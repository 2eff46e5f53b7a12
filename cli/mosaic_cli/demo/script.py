"""What the demo tells, step by step; every claim is checked against what the command did."""

import json
import socket
from contextlib import ExitStack
from typing import Final

from mosaic_cli.demo.data import HOME, WORK
from mosaic_cli.demo.environment import DemoEnvironment

__all__ = ["run_script"]

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
    """Play the whole story. Raises `StepError` where a step did something else than told."""
    _create_gateways(env)
    _enroll(env)
    task = _read(env)
    _show_operators(env)
    _query_all(env)
    _stop_work(env, task)
    _restart_work(env)
    env.say(
        "That was all of it. `mosaic --help` shows the rest; README.md tells how to run two gateways by hand, and how "
        "an agent asks them."
    )


def _create_gateways(env: DemoEnvironment) -> None:
    env.say("Two gateways on this machine: Ada's own at home, and the one of the company she works for.")
    work_listen, work_enroll, home_listen, home_enroll = _free_ports()
    at_work = f"--listen 127.0.0.1:{work_listen} --enroll 127.0.0.1:{work_enroll}"
    at_home = f"--listen 127.0.0.1:{home_listen} --enroll 127.0.0.1:{home_enroll}"
    env.run(f"mosaic gateway init work --name work.example {at_work}")
    env.run(f"mosaic gateway init home --name home.example {at_home}")
    env.say("Each has data of its own: users, teams, tasks, notes. Here it comes from a file.")
    env.write_file("work.jsonl", WORK.read_bytes())
    env.write_file("home.jsonl", HOME.read_bytes())
    env.run("mosaic gateway import work.jsonl --gateway work", expect=["3 users", "2 teams"])
    env.run("mosaic gateway import home.jsonl --gateway home", expect=["1 users"])
    env.say("Each runs in a process of its own, as it would on two machines.")
    env.serve("work")
    env.serve("home")


def _enroll(env: DemoEnvironment) -> None:
    env.say("At work, the operator decides what Ada's home gateway may read: tasks and notes of team T1, five at once.")
    env.show_file("scope.json", SCOPE)
    create = "mosaic federation grant create --peer home.example --subject ada --expires 90d --scope scope.json"
    env.run(f"{create} --gateway work", expect=["pending", "home.example"])
    grants = env.run("mosaic federation grant list --json --gateway work", quiet=True)
    grant = json.loads(grants.out)["grants"][0]["id"]
    env.say("A token lets one gateway enroll, once, within 15 minutes. It goes to Ada the way a password would.")
    env.run(f"mosaic federation grant token {grant} --gateway work > token", expect=["it works once"])
    env.say("At home, the token is redeemed: a key made here, a certificate issued there, mutual TLS from now on.")
    env.export("home")
    env.run("mosaic federation peer add --user ada - < token", expect=["work.example", "fingerprint"])


def _read(env: DemoEnvironment) -> str:
    env.say("Ada reads her tasks at work. Her personal ones and those of other teams stay there, whatever she asks.")
    listing = f"mosaic federation query list tasks {ASK}"
    env.run(listing, expect=["federated:work.example", "T1", "5 rows"])
    rows = json.loads(env.run(f"{listing} --json", quiet=True).out)["rows"]
    env.check(all(row["team"] == "T1" for row in rows), "only rows of team T1 crossed")
    env.say("The same question again is answered from memory (CACHED), without asking work.")
    env.run(listing, expect=["yes"])
    env.say("One row, and a search over all that the grant opens. A search is never answered from memory.")
    task = str(rows[0]["id"])
    env.run(f"mosaic federation query get tasks {task} {ASK}", expect=[task, "title"])
    word = max(str(rows[0]["data"]["title"]).split(), key=len).strip(".,:")
    env.run(f"mosaic federation query search {word} {ASK}", expect=["["])
    env.say("What the grant does not open is refused, and says so.")
    env.run(f"mosaic federation query list credentials {ASK}", code=1, expect=["SCOPE_VIOLATION"])
    env.run(f"mosaic federation query capabilities {ASK}", expect=["tasks", "rows a query  5"])
    return task


def _show_operators(env: DemoEnvironment) -> None:
    env.say("Both operators see what goes on. At home:")
    env.run("mosaic federation status", expect=["● active", "work.example"])
    env.say("And at work, who read what (never what was read):")
    env.run("mosaic federation audit --limit 8 --gateway work")
    # A narrow terminal cuts words of the table off.
    full = "mosaic federation audit --limit 8 --gateway work --json"
    env.run(full, quiet=True, expect=["home.example", "SCOPE_VIOLATION"])


def _query_all(env: DemoEnvironment) -> None:
    env.say(
        "An agent's session asks its own data and every peer at once: one list, and each row says where it is from."
    )
    ran = env.run(f"mosaic federation query list tasks --page-size 6 {ALL}", expect=["from 2 of 2 sources"])
    env.check("  local  " in ran.out and "  federated:work.example  " in ran.out, "rows of both are in the list")


def _stop_work(env: DemoEnvironment, task: str) -> None:
    env.say("Now the gateway at work stops.")
    get = f"mosaic federation query get notes {_note(env)} {ASK}"
    env.run(get, quiet=True)
    env.stop("work")
    env.say("What Ada read a moment ago is still there, for at most 30 seconds.")
    kept = env.run(get, expect=["_cached"])
    env.check("_cached     true" in kept.out, "it was answered from memory")
    env.say("The session goes on with what is here, and is told once.")
    search = f"mosaic federation query search budget {ALL}"
    env.run(search, expect=["local", OFFLINE])
    env.say("From now on it does not even try, until work is back.")
    again = env.run(search, expect=["local", "skipped"])
    env.check(OFFLINE not in again.err, "a session is told once")
    env.say("Whoever asks work alone is told why it fails, with exit code 1.")
    search = f"mosaic federation query search {task} {ASK}"
    env.run(search, code=1, expect=["PEER_UNREACHABLE"])
    env.say(
        f"After {FAILURES} failures in a row the circuit opens: no call, no packet, no wait, until it is tried again."
    )
    for _ in range(FAILURES - 2):  # the session has met one, and Ada another
        env.run(search, code=1, quiet=True)
    env.run(search, code=1, expect=["CIRCUIT_OPEN"])
    env.run("mosaic federation status", code=3, expect=["○ offline", "PEER_UNREACHABLE"])


def _restart_work(env: DemoEnvironment) -> None:
    env.say("Work comes back. The circuit would try it again by itself; the operator at home can say so at once.")
    env.serve("work")
    env.run("mosaic federation peer reset work.example", expect=["active"])
    env.run(f"mosaic federation query search budget {ASK}", quiet=True)
    env.say("The session is told that, too, and has the rows of both again.")
    env.run(f"mosaic federation query search budget {ALL}", expect=["from 2 of 2 sources", RESTORED])


def _note(env: DemoEnvironment) -> str:
    rows = json.loads(env.run(f"mosaic federation query list notes {ASK} --json", quiet=True).out)["rows"]
    return str(rows[0]["id"])


def _free_ports() -> tuple[int, ...]:
    """Return four ports that nobody has, so that demos can run side by side."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(PORTS)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return tuple(int(probe.getsockname()[1]) for probe in probes)
