"""`federation status` in every state, by the real command in a terminal of 80 columns."""

import json
import os
import signal
import subprocess
from typing import Any

import pytest

from tests.support.gateway_processes import MOSAIC, environment, mosaic
from tests.support.status_states import StatusOutput, StatusStates
from tests.support.terminal import Terminal

# The walk through all states is the set-up of the first test.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

HEAD = """\
gateway      home.example VERSION, started N ago (AT)
as of        NOW
listens      ADDRESS for peers, ADDRESS for enrollment
certificate  its own: renews in N, expires in N (AT)
"""
CODES = {
    "healthy": 0,
    "cached": 0,
    "watch down": 0,
    "peer stopped": 3,
    "circuit open": 3,
    "half-open": 3,
    "recovered": 0,
    "near expiry": 0,
    "renewal failing": 3,
    "expired": 3,
    "gateway down": 4,
    "not seen": 0,
    "revoked": 3,
    "serving": 0,
    "revoked here": 0,
}
ACTIVE = "● active  work.example for ada, seen N ago"
EXPLAIN = "find the broken link: mosaic federation status --explain work.example --user ada"
UNREACHABLE = "PEER_UNREACHABLE, no connection: the peer's gateway does not run, or the network does not reach it"


def card(outputs: StatusOutput) -> tuple[str, dict[str, list[str]]]:
    """The line about the peer, and the lines below it by label."""
    assert outputs.text.startswith(HEAD)
    title, *rest = outputs.text.removeprefix(HEAD).split("\n\n")[1].splitlines()
    facts: dict[str, list[str]] = {}
    label = ""
    for line in rest:
        label = line[2:16].strip() or label
        facts.setdefault(label, []).append(line[16:])
    return title, facts


def summary(outputs: StatusOutput) -> str:
    """The line that counts the peers."""
    return outputs.text.removeprefix(HEAD).split("\n")[1]


def peer(outputs: StatusOutput) -> dict[str, Any]:
    """The only peer of the JSON output."""
    found: dict[str, Any] = outputs.json["peers"][0]
    return found


def test_the_exit_code_depends_on_the_state(states: StatusStates) -> None:
    """0 without an unhealthy peer, 3 with one, 4 with a stopped gateway; the same for table and JSON."""
    assert {state: outputs.code for state, outputs in states.outputs.items()} == CODES
    assert {state: outputs.json_code for state, outputs in states.outputs.items()} == CODES


def test_no_line_is_wider_than_the_terminal(states: StatusStates) -> None:
    """Every output fits into 80 columns, and a terminal gets colour."""
    outputs = {state: one for state, one in states.outputs.items() if state != "gateway down"}

    assert {state: one.width for state, one in outputs.items() if one.width > 80} == {}
    assert all(one.colour for one in outputs.values())


def test_a_healthy_peer(states: StatusStates) -> None:
    """The complete page of one peer after one read."""
    outputs = states.outputs["healthy"]

    assert outputs.text == HEAD + (
        "\n1 peer: 1 active\n\n"
        f"{ACTIVE}\n"
        "  endpoint      ADDRESS, under grant ID\n"
        "  circuit       closed\n"
        "  watch         armed since N ago (AT)\n"
        "  certificate   renews in N, expires in N (AT)\n"
        "  cache         0% hits (0 of 1 since the start), 1 answer stored (N KiB)\n"
        "  latency       p50 N ms, p99 N ms, of the last answers (512 at most)\n"
        "  last success  N ago (AT)"
    )
    shape = peer(outputs)
    assert (shape["state"], shape["shown"], shape["healthy"]) == ("active", "active", True)
    assert (shape["why"], shape["next_step"], shape["last_failure"]) == (None, None, None)
    assert shape["seen_at"] >= shape["last_success"]
    assert outputs.json["serving"]["requests"] == []


def test_a_cache_hit_is_counted(states: StatusStates) -> None:
    """The second identical query is shown in the hit ratio, and does not change the last successful call."""
    outputs = states.outputs["cached"]

    assert card(outputs)[1]["cache"] == ["50% hits (1 of 2 since the start), 1 answer stored (N KiB)"]
    assert peer(outputs)["cache"] | {"bytes": 0} == {"entries": 1, "bytes": 0, "hits": 1, "misses": 1}
    assert peer(outputs)["last_success"] == peer(states.outputs["healthy"])["last_success"]


def test_a_lost_watch_does_not_make_an_answering_peer_unhealthy(states: StatusStates) -> None:
    """The peer is active, because it answered since; the watch says that revocations arrive late."""
    outputs = states.outputs["watch down"]
    title, facts = card(outputs)

    assert (title, summary(outputs)) == (ACTIVE, "1 peer: 1 active")
    assert facts["watch"] == ["connecting since N ago (AT); revocations arrive late"]
    assert (peer(outputs)["watch"]["state"], peer(outputs)["healthy"]) == ("connecting", True)
    assert peer(outputs)["seen_at"] > peer(outputs)["watch"]["since"]


def test_a_stopped_peer_is_failing_before_its_circuit_opens(states: StatusStates) -> None:
    """The state is active, and the table shows the failures with their meaning and the next step."""
    outputs = states.outputs["peer stopped"]
    title, facts = card(outputs)

    assert (title, summary(outputs)) == ("◑ failing  work.example for ada, seen N ago", "1 peer: 1 failing")
    assert facts["why"] == ["the last call failed"]
    assert facts["circuit"] == ["closed; 1 failure in a row"]
    assert facts["last failure"][0].startswith(f"N ago (AT): {UNREACHABLE}")
    assert facts["next step"] == [EXPLAIN]
    shape = peer(outputs)
    assert (shape["state"], shape["shown"], shape["healthy"]) == ("active", "failing", False)
    assert shape["last_failure"]["meaning"].startswith("no connection: ")
    assert shape["last_failure"]["reason"] == "PEER_UNREACHABLE"


def test_an_open_circuit_shows_the_time_of_the_next_probe(states: StatusStates) -> None:
    """Offline, with the start, the number of failures, and the seconds until the probe."""
    outputs = states.outputs["circuit open"]
    title, facts = card(outputs)

    assert (title, summary(outputs)) == ("○ offline  work.example for ada, seen N ago", "1 peer: 1 offline")
    assert facts["why"] == ["circuit open since N ago (AT) after 3 failures in a row; next probe in N"]
    assert facts["circuit"] == ["open since N ago (AT) after 3 failures in a row; next probe in N"]
    assert facts["watch"] == ["off since N ago (AT)"]
    assert facts["next step"] == [EXPLAIN]
    circuit = peer(outputs)["circuit"]
    assert (peer(outputs)["state"], circuit["state"], circuit["consecutive_failures"]) == ("offline", "open", 3)
    assert circuit["retry_at"] > outputs.json["gateway"]["now"]


def test_a_half_open_circuit_shows_that_the_next_call_is_the_probe(states: StatusStates) -> None:
    """The cooldown is over and no call was made since."""
    outputs = states.outputs["half-open"]
    title, facts = card(outputs)

    assert title == "○ offline  work.example for ada, seen N ago"
    words = "half-open, opened N ago (AT) after 3 failures in a row; the next call is the probe"
    assert (facts["why"], facts["circuit"]) == ([f"circuit {words}"], [words])
    assert (peer(outputs)["state"], peer(outputs)["circuit"]["state"]) == ("offline", "half_open")


def test_a_recovered_peer_is_active_and_shows_its_last_failure(states: StatusStates) -> None:
    """The failure is shown with its meaning, without a next step."""
    outputs = states.outputs["recovered"]
    title, facts = card(outputs)

    assert (title, facts["circuit"]) == (ACTIVE, ["closed"])
    assert facts["watch"] == ["armed since N ago (AT)"]
    assert facts["last failure"][0].startswith(f"N ago (AT): {UNREACHABLE}")
    assert not {"why", "next step"} & set(facts)
    assert peer(outputs)["last_failure"]["at"] < peer(outputs)["last_success"]


def test_a_certificate_near_its_end_is_shown(states: StatusStates) -> None:
    """The peer is healthy, and the certificate's line has a second line."""
    outputs = states.outputs["near expiry"]
    title, facts = card(outputs)

    assert title == ACTIVE
    assert facts["certificate"] == ["renews in N, expires in N (AT)"]
    assert facts["renewal"] == ["its certificate expires in N (AT) and is not renewed yet"]
    assert 0 < peer(outputs)["certificate"]["expires_in_s"] < 6 * 3_600
    assert peer(outputs)["renewal"]["last_failure"] is None


def test_a_failing_renewal_degrades_a_peer(states: StatusStates) -> None:
    """After three attempts: the reason of the last one and the time of the next."""
    outputs = states.outputs["renewal failing"]
    title, facts = card(outputs)

    assert (title, summary(outputs)) == ("◐ degraded  work.example for ada, seen N ago", "1 peer: 1 degraded")
    assert facts["why"] == ["renewing its certificate failed 3 times in a row; it expires in N (AT)"]
    renewal = "its certificate expires in N (AT) and is not renewed yet; renewal failed 3 times in a row, next attempt "
    assert facts["renewal"][0].startswith(renewal)
    assert UNREACHABLE in facts["renewal"][0]
    renewal = peer(outputs)["renewal"]
    assert (peer(outputs)["state"], renewal["consecutive_failures"]) == ("degraded", 3)
    assert renewal["last_failure"]["reason"] == "PEER_UNREACHABLE"


def test_an_expired_certificate_makes_a_peer_expired(states: StatusStates) -> None:
    """The text says that the certificate is renewed automatically with a proof by its old key."""
    outputs = states.outputs["expired"]
    title, facts = card(outputs)

    assert title == "✕ expired  work.example for ada, seen N ago"
    assert facts["why"] == ["this gateway's certificate for it expired N ago (AT)"]
    assert facts["certificate"][0].endswith("expired N ago (AT)")
    assert facts["next step"] == [f"it renews automatically once the peer is reachable; {EXPLAIN}"]
    assert (peer(outputs)["state"], peer(outputs)["certificate"]["expires_in_s"] < 0) == ("expired", True)


def test_a_stopped_gateway_is_one_line_with_a_next_step(states: StatusStates) -> None:
    """On stderr, also with --json, and nothing on stdout."""
    outputs = states.outputs["gateway down"]
    line = "error: the gateway home.example does not run; start it: mosaic gateway serve --gateway home"

    assert outputs.text == line
    assert outputs.json == f"{line}\n"


def test_an_unseen_peer_is_not_healthy(states: StatusStates) -> None:
    """After a start with the peer offline, the peer is not seen yet, which is neither healthy nor a fault."""
    outputs = states.outputs["not seen"]
    title, facts = card(outputs)

    assert (title, summary(outputs)) == ("◌ not seen  work.example for ada, not seen yet", "1 peer: 1 not seen")
    assert facts["why"] == ["the peer has not been seen since this gateway started N ago (AT)"]
    assert facts["last success"] == ["none since the start"]
    assert facts["next step"] == [
        "query it: mosaic federation query capabilities --user ada --source federated:work.example"
    ]
    shape = peer(outputs)
    assert (shape["state"], shape["shown"], shape["healthy"], shape["seen_at"]) == ("active", "not_seen", None, None)


def test_a_revoked_peer_shows_the_reason_of_its_operator(states: StatusStates) -> None:
    """Time, reason and next step of the revocation: ask the operator, or remove the peer."""
    outputs = states.outputs["revoked"]
    title, facts = card(outputs)

    assert (title, summary(outputs)) == ("✕ revoked  work.example for ada, seen N ago", "1 peer: 1 revoked")
    assert facts["why"] == ["the peer revoked the grant N ago (AT): project over"]
    assert facts["next step"] == [
        (
            "ask the peer's operator for a new grant; "
            "to remove this peer: mosaic federation peer remove work.example --user ada"
        )
    ]
    assert peer(outputs)["revocation"]["reason"] == "project over"


def test_the_serving_side_shows_its_readers(states: StatusStates) -> None:
    """The grant with its watchers, leases, calls and last denial, and all requests by verb and outcome."""
    outputs = states.outputs["serving"]

    summed, listed = outputs.text.split("\n\n")[1:]
    assert summed == (
        "1 grant: 1 active; 1 watch, 0 leases; 2 requests, the last N ago\n  since the start: list 1 denied; watch 1 ok"
    )
    assert listed == (
        "GRANT     PEER          AS USER  USED  WATCHES  LEASES  CALLS  DENIED\n"
        "● active  home.example  ada      N ago  1        0       2      1\n"
        "    ID\n"
        "    last denied N ago (AT): SCOPE_VIOLATION"
    )
    grant = outputs.json["grants"][0]
    assert (grant["status"], grant["watches"], grant["requests"], grant["denials"]) == ("active", 1, 2, 1)
    assert grant["last_denied"]["reason"] == "SCOPE_VIOLATION"
    assert outputs.json["serving"]["requests"] == [
        {"verb": "list", "outcome": "denied", "count": 1},
        {"verb": "watch", "outcome": "ok", "count": 1},
    ]
    assert outputs.json["serving"]["last_request"] is not None


def test_a_revoked_grant_is_shown_as_revoked(states: StatusStates) -> None:
    """On the serving side a revoked grant is not an unhealthy peer."""
    outputs = states.outputs["revoked here"]

    assert "1 grant: 1 revoked" in outputs.text
    assert "✕ revoked  home.example  ada" in outputs.text
    assert outputs.json["grants"][0]["status"] == "revoked"


def test_the_live_view_survives_a_restart_of_the_gateway(states: StatusStates) -> None:
    """It shows since when the gateway is unreachable above the last status, then the new status; q ends with 0."""
    with Terminal("federation", "status", "--watch", "-g", "home", cwd=states.directory) as terminal:
        terminal.until("✕ revoked  work.example for ada", "q quits")
        states.stop("home")
        unreachable = terminal.until("✕ gateway not reachable since", "(2 s ago)", "last status:", "✕ revoked")
        states.start_ahead("home")
        back = terminal.until("not seen yet", "q quits")
        terminal.type("q")

        assert terminal.wait() == 0
        assert terminal.restored
    assert unreachable[0].startswith("✕ gateway not reachable since ")
    assert not any("not reachable" in line for line in back)
    assert terminal.output.rstrip().endswith("\x1b[?1049l")


@pytest.mark.parametrize(
    ("how", "code"),
    [("\x03", 0), ("Q", 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["ctrl-c", "q", "term", "hup"],
)
def test_the_terminal_is_restored_after_the_live_view(states: StatusStates, how: Any, code: int) -> None:
    """Modes, cursor and screen are restored after every kind of end, also at a height of five lines."""
    with Terminal("federation", "status", "-w", "-g", "home", cwd=states.directory, rows=5) as terminal:
        frame = terminal.until("home.example, as of", "1 peer: 1 revoked", "✕ revoked  work.example", "q quits")
        terminal.signal(how) if isinstance(how, signal.Signals) else terminal.type(how)

        assert terminal.wait() == code
        assert terminal.restored
    assert len(frame) <= 6
    assert terminal.output.rstrip().endswith("\x1b[?25h\x1b[?1049l")


def test_a_suspended_live_view_restores_the_terminal(states: StatusStates) -> None:
    """Ctrl-Z restores the screen; a continued view draws again in the current size of the terminal."""
    with Terminal("federation", "status", "--watch", "-g", "home", cwd=states.directory) as terminal:
        terminal.until("✕ revoked")
        terminal.type("\x1a")
        assert terminal.stopped()
        assert terminal.restored
        before = len(terminal.output)
        terminal.resize(60, 4)
        terminal.goes_on()
        terminal.until("home.example, as of")
        terminal.type("q")

        assert terminal.wait() == 0
    assert terminal.output[before:].startswith("\x1b[?1049h")


def test_json_lines_continue_across_a_restart(states: StatusStates) -> None:
    """One object per line: the status, one for the stopped gateway, and the status again; Ctrl-C ends with 0."""
    command = [*MOSAIC, "federation", "status", "--watch", "--json", "-g", "home"]
    with subprocess.Popen(
        command, cwd=states.directory, env=environment(), stdout=subprocess.PIPE, text=True, process_group=0
    ) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        states.stop("home")
        lines = iter(process.stdout.readline, "")
        unreachable = next(shape for shape in map(json.loads, lines) if "unreachable" in shape)
        states.start_ahead("home")
        again = json.loads(next(lines))
        process.send_signal(signal.SIGINT)
        process.wait(10)

    assert first["peers"][0]["state"] == again["peers"][0]["state"] == "revoked"
    assert set(unreachable) == {"unreachable"}
    assert unreachable["unreachable"]["since"].endswith("Z")
    assert again["gateway"]["started_at"] > first["gateway"]["started_at"]
    assert process.returncode == 0


def test_the_live_view_needs_a_terminal(states: StatusStates) -> None:
    """Without a terminal one line says so and names the alternative."""
    ran = mosaic("federation", "status", "--watch", "-g", "home", cwd=states.directory)

    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == (
        "error: Invalid value for --watch: needs a terminal; with --json it prints one JSON object a line; "
        "see: mosaic federation status --help\n"
    )


def test_the_live_view_ends_at_a_permanent_error(states: StatusStates) -> None:
    """An unknown peer is an immediate error, and the terminal is restored."""
    with Terminal(
        "federation", "status", "--watch", "--peer", "wrok.example", "-g", "home", cwd=states.directory
    ) as one:
        code = one.wait()

        assert one.restored
    assert code == 1
    assert "error: no peer 'wrok.example'; did you mean work.example?" in one.text


def test_the_status_is_filtered_by_peer_or_user(states: StatusStates) -> None:
    """By peer on either side and by user; a user without peer and grant is distinguished from an unknown user."""

    def status(*more: str, gateway: str = "home") -> Any:
        return mosaic("federation", "status", "--json", "-g", gateway, *more, cwd=states.directory)

    served = json.loads(status("--peer", "home.example", gateway="work").stdout)
    assert ([one["peer"] for one in served["grants"]], served["peers"], served["serving"]) == (
        ["home.example"],
        [],
        None,
    )
    assert len(json.loads(status("--user", "ada").stdout)["peers"]) == 1
    nobody = status("--user", "bob")
    assert (nobody.returncode, json.loads(nobody.stdout)["peers"]) == (0, [])
    assert "no user 'adda'; did you mean ada?" in status("--user", "adda").stderr


def test_a_pipe_gets_no_escape_sequence(states: StatusStates) -> None:
    """Only a terminal gets colour; texts and symbols are the same."""
    ran = mosaic("federation", "status", "-g", "home", cwd=states.directory)

    assert "\x1b" not in ran.stdout
    assert "✕ revoked" in ran.stdout
    assert os.linesep + os.linesep in ran.stdout
