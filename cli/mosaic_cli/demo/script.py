"""What the demo tells, step by step; every claim is checked against what the command did."""

import json
import socket
from contextlib import ExitStack
from typing import Final

from mosaic_cli.demo.data import HOME, WORK
from mosaic_cli.demo.environment import DemoEnvironment

__all__ = ["tell"]

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


def tell(stage: DemoEnvironment) -> None:
    """Play the whole story. Raises `StepError` where a step did something else than told."""
    _found(stage)
    _enroll(stage)
    task = _read(stage)
    _look(stage)
    _together(stage)
    _lose(stage, task)
    _restore(stage)
    stage.say(
        "That was all of it. `mosaic --help` shows the rest; README.md tells how to run two gateways by hand, and how "
        "an agent asks them."
    )


def _found(stage: DemoEnvironment) -> None:
    stage.say("Two gateways on this machine: Ada's own at home, and the one of the company she works for.")
    work_listen, work_enroll, home_listen, home_enroll = _free_ports()
    at_work = f"--listen 127.0.0.1:{work_listen} --enroll 127.0.0.1:{work_enroll}"
    at_home = f"--listen 127.0.0.1:{home_listen} --enroll 127.0.0.1:{home_enroll}"
    stage.run(f"mosaic gateway init work --name work.example {at_work}")
    stage.run(f"mosaic gateway init home --name home.example {at_home}")
    stage.say("Each has data of its own: users, teams, tasks, notes. Here it comes from a file.")
    stage.put("work.jsonl", WORK.read_bytes())
    stage.put("home.jsonl", HOME.read_bytes())
    stage.run("mosaic gateway import work.jsonl --gateway work", expect=["3 users", "2 teams"])
    stage.run("mosaic gateway import home.jsonl --gateway home", expect=["1 users"])
    stage.say("Each runs in a process of its own, as it would on two machines.")
    stage.serve("work")
    stage.serve("home")


def _enroll(stage: DemoEnvironment) -> None:
    stage.say(
        "At work, the operator decides what Ada's home gateway may read: tasks and notes of team T1, five at once."
    )
    stage.show_file("scope.json", SCOPE)
    create = "mosaic federation grant create --peer home.example --subject ada --expires 90d --scope scope.json"
    stage.run(f"{create} --gateway work", expect=["pending", "home.example"])
    grants = stage.run("mosaic federation grant list --json --gateway work", quiet=True)
    grant = json.loads(grants.out)["grants"][0]["id"]
    stage.say("A token lets one gateway enroll, once, within 15 minutes. It goes to Ada the way a password would.")
    stage.run(f"mosaic federation grant token {grant} --gateway work > token", expect=["it works once"])
    stage.say("At home, the token is redeemed: a key made here, a certificate issued there, mutual TLS from now on.")
    stage.export("home")
    stage.run("mosaic federation peer add --user ada - < token", expect=["work.example", "fingerprint"])


def _read(stage: DemoEnvironment) -> str:
    stage.say("Ada reads her tasks at work. Her personal ones and those of other teams stay there, whatever she asks.")
    listing = f"mosaic federation query list tasks {ASK}"
    stage.run(listing, expect=["federated:work.example", "T1", "5 rows"])
    rows = json.loads(stage.run(f"{listing} --json", quiet=True).out)["rows"]
    stage.check(all(row["team"] == "T1" for row in rows), "only rows of team T1 crossed")
    stage.say("The same question again is answered from memory (CACHED), without asking work.")
    stage.run(listing, expect=["yes"])
    stage.say("One row, and a search over all that the grant opens. A search is never answered from memory.")
    task = str(rows[0]["id"])
    stage.run(f"mosaic federation query get tasks {task} {ASK}", expect=[task, "title"])
    word = max(str(rows[0]["data"]["title"]).split(), key=len).strip(".,:")
    stage.run(f"mosaic federation query search {word} {ASK}", expect=["["])
    stage.say("What the grant does not open is refused, and says so.")
    stage.run(f"mosaic federation query list credentials {ASK}", code=1, expect=["SCOPE_VIOLATION"])
    stage.run(f"mosaic federation query capabilities {ASK}", expect=["tasks", "rows a query  5"])
    return task


def _look(stage: DemoEnvironment) -> None:
    stage.say("Both operators see what goes on. At home:")
    stage.run("mosaic federation status", expect=["● active", "work.example"])
    stage.say("And at work, who read what (never what was read):")
    stage.run("mosaic federation audit --limit 8 --gateway work")
    # A narrow terminal cuts words of the table off.
    full = "mosaic federation audit --limit 8 --gateway work --json"
    stage.run(full, quiet=True, expect=["home.example", "SCOPE_VIOLATION"])


def _together(stage: DemoEnvironment) -> None:
    stage.say(
        "An agent's session asks its own data and every peer at once: one list, and each row says where it is from."
    )
    ran = stage.run(f"mosaic federation query list tasks --page-size 6 {ALL}", expect=["from 2 of 2 sources"])
    stage.check("  local  " in ran.out and "  federated:work.example  " in ran.out, "rows of both are in the list")


def _lose(stage: DemoEnvironment, task: str) -> None:
    stage.say("Now the gateway at work stops.")
    get = f"mosaic federation query get notes {_note(stage)} {ASK}"
    stage.run(get, quiet=True)
    stage.stop("work")
    stage.say("What Ada read a moment ago is still there, for at most 30 seconds.")
    kept = stage.run(get, expect=["_cached"])
    stage.check("_cached     true" in kept.out, "it was answered from memory")
    stage.say("The session goes on with what is here, and is told once.")
    search = f"mosaic federation query search budget {ALL}"
    stage.run(search, expect=["local", OFFLINE])
    stage.say("From now on it does not even try, until work is back.")
    again = stage.run(search, expect=["local", "skipped"])
    stage.check(OFFLINE not in again.words, "a session is told once")
    stage.say("Whoever asks work alone is told why it fails, with exit code 1.")
    search = f"mosaic federation query search {task} {ASK}"
    stage.run(search, code=1, expect=["PEER_UNREACHABLE"])
    stage.say(
        f"After {FAILURES} failures in a row the circuit opens: no call, no packet, no wait, until it is tried again."
    )
    for _ in range(FAILURES - 2):  # the session has met one, and Ada another
        stage.run(search, code=1, quiet=True)
    stage.run(search, code=1, expect=["CIRCUIT_OPEN"])
    stage.run("mosaic federation status", code=3, expect=["○ offline", "PEER_UNREACHABLE"])


def _restore(stage: DemoEnvironment) -> None:
    stage.say("Work comes back. The circuit would try it again by itself; the operator at home can say so at once.")
    stage.serve("work")
    stage.run("mosaic federation peer reset work.example", expect=["active"])
    stage.run(f"mosaic federation query search budget {ASK}", quiet=True)
    stage.say("The session is told that, too, and has the rows of both again.")
    stage.run(f"mosaic federation query search budget {ALL}", expect=["from 2 of 2 sources", RESTORED])


def _note(stage: DemoEnvironment) -> str:
    rows = json.loads(stage.run(f"mosaic federation query list notes {ASK} --json", quiet=True).out)["rows"]
    return str(rows[0]["id"])


def _free_ports() -> tuple[int, ...]:
    """Return four ports that nobody has, so that demos can run side by side."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(PORTS)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return tuple(int(probe.getsockname()[1]) for probe in probes)
