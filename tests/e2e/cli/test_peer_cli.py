"""`peer list|show|rotate|reset|remove`, against two gateways in separate processes."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.cli_runner import Cli
from tests.support.schemas import validator

pytestmark = pytest.mark.e2e


@pytest.fixture
def peer(cli: Cli) -> Iterator[str]:
    """Ada's peer `adas-work`; returns its grant's id."""
    yield cli.enroll("adas-work")
    if "adas-work" in cli("federation peer list -g home --json").out:
        cli("federation peer remove adas-work -g home")


def facts(text: str) -> dict[str, str]:
    """The printed names and values of a command."""
    pairs = (line.split("  ", 1) for line in text.splitlines() if "  " in line)
    return {name.strip(): value.strip() for name, value in pairs if name.strip()}


def test_a_peer_is_shown_with_all_its_properties(cli: Cli, peer: str) -> None:
    """Endpoint, user, grant, certificate with fingerprint and times, renewal, circuit, watch, cache, last calls."""
    ask = "federation query list notes --user ada --source federated:adas-work -g home"
    for _ in range(2):
        cli(ask)

    shown = facts(cli("federation peer show adas-work -g home").out)
    shape = cli("federation peer show adas-work --user ada -g home --json").json

    assert (shown["state"], shown["user"], shown["grant"]) == ("● active", "ada", peer)
    assert shown["endpoint"] == shape["peer"]["endpoint"]
    assert shown["fingerprint"] == shape["peer"]["certificate"]["fingerprint"]
    assert shown["ends"].endswith("UTC (in 24 h)")
    assert "UTC (in " in shown["renewal"]
    assert (shown["circuit"], shown["watch"].split()[0]) == ("closed", "armed")
    assert shown["cache"].startswith("50% hits (1 of 2 since the start), 1 answer stored")
    assert "s ago (" in shown["last success"]
    assert shown["last seen"].endswith("s ago)")
    assert "last failure" not in shown
    validator("peer-show").validate(shape)
    assert shape["live"] is None


def test_a_peer_is_called_only_with_live(cli: Cli, peer: str) -> None:
    """`--live` shows the peer's current resources; without it no call is made."""
    quiet = cli("federation peer show adas-work -g home --json").json["peer"]
    assert quiet["last_success"] is None

    live = cli("federation peer show adas-work -g home --live --json").json
    human = facts(cli("federation peer show adas-work -g home --live").out)

    assert live["peer"]["last_success"] is not None
    assert live["live"]["capabilities"]["resources"] == ["tasks", "notes"]
    assert (live["live"]["error"], live["live"]["reason"]) == (None, None)
    assert (human["opens"], human["rows a query"]) == ("tasks, notes", "100")


def test_an_offline_peer_is_shown(cli: Cli, peer: str) -> None:
    """The reason is shown with the properties, and the exit code is 1."""
    cli(f"federation grant revoke {peer} -g work --reason over")

    live = cli("federation peer show adas-work -g home --live --json", code=1).json
    human = cli("federation peer show adas-work -g home --live", code=1)

    assert live["live"]["capabilities"] is None
    assert live["live"]["reason"] == "GRANT_REVOKED"
    assert live["peer"]["state"] == "revoked"
    assert "live probe  GRANT_REVOKED: " in human.out
    assert facts(human.out)["revoked"].endswith(": over")
    assert human.err == ""


def test_peers_are_filtered(cli: Cli, peer: str) -> None:
    """Filters by user and by state; a user without a peer has an empty list, an unknown user is an error."""
    cli.enroll("bobs-work", user="bob")

    def names(line: str) -> list[str]:
        return [one["name"] for one in cli(f"federation peer list -g home --json {line}").json["peers"]]

    assert names("") == ["adas-work", "bobs-work"]
    assert names("--user bob") == ["bobs-work"]
    assert names("--state active") == ["adas-work", "bobs-work"]
    assert names("--state offline") == []
    assert names("--user bob --state active") == ["bobs-work"]
    empty = cli("federation peer list -g home --state revoked")
    assert (empty.out, empty.err) == ("", "no peer matches these filters\n")
    assert cli("federation peer list -g home --user adda", code=1).err == "error: no user 'adda'; did you mean ada?\n"
    assert (
        "'ofline' is not a known value; did you mean offline?"
        in cli("federation peer list -g home --state ofline", code=2).err
    )
    cli("federation peer remove bobs-work -g home")


def test_a_rotation_shows_both_certificates(cli: Cli, peer: str) -> None:
    """The new certificate is on stdout, the end of the old one on stderr."""
    before = cli("federation peer show adas-work -g home --json").json["peer"]["certificate"]

    ran = cli("federation peer rotate adas -g home")

    after = cli("federation peer show adas-work -g home --json").json["peer"]["certificate"]
    assert facts(ran.out)["fingerprint"] == after["fingerprint"] != before["fingerprint"]
    assert ran.err.splitlines() == [
        "adas is adas-work, enrolled for ada",
        f"calls to adas-work now use a new key; the previous certificate was {before['serial']}",
        "the peer refuses the previous certificate in ten minutes or sooner",
    ]


def test_a_reset_shows_the_circuits_previous_state(cli: Cli, peer: str) -> None:
    """A closed circuit stays closed, and the output says so."""
    ran = cli("federation peer reset adas-work -g home")

    assert ran.err.splitlines() == [
        "the circuit of adas-work, enrolled for ada, was already closed",
        "adas-work is active",
    ]


def test_a_removal_shows_what_is_lost_and_what_remains(cli: Cli, peer: str) -> None:
    """A prefix selects the peer, its full name is printed; the output has the command that revokes the grant."""
    cli("federation query list notes --user ada --source federated:adas-work -g home")

    ran = cli("federation peer remove adas -g home")

    assert ran.out == ""
    words = ran.err.splitlines()
    assert words[:2] == [
        "adas is adas-work, enrolled for ada",
        "removed adas-work, enrolled for ada: its key and certificate are deleted",
    ]
    assert words[2].startswith("also discarded: its cache (1 answer, ")
    assert words[3].endswith(f"operator revokes it with: mosaic federation grant revoke {peer}")
    assert cli(f"federation grant show {peer} -g work --json").json["grant"]["status"] == "active"
    gone = cli("federation peer show adas-work -g home", code=1)
    assert gone.err.startswith("error: no peer 'adas-work'")


def test_a_removal_is_printed_as_json(cli: Cli, peer: str) -> None:
    """`removed` is the name; the JSON also has the removed peer and the command that revokes its grant."""
    shape: Any = cli("federation peer remove adas-work -g home --json").json

    assert shape["removed"] == "adas-work"
    assert shape["peer"]["grant_id"] == peer
    assert shape["revoke_there"] == f"mosaic federation grant revoke {peer}"


def test_the_removal_of_a_revoked_peer_has_no_next_step(cli: Cli, peer: str) -> None:
    """If the peer has revoked the grant, no further step is named."""
    cli(f"federation grant revoke {peer} -g work")

    words = cli("federation peer remove adas-work -g home").err

    assert f"its grant {peer} had already been revoked by the peer" in words
    assert "grant revoke" not in words


@pytest.mark.parametrize("command", ["show", "rotate", "reset", "remove"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("adas-wrok", "error: no peer 'adas-wrok'; did you mean adas-work?"),
        ("adas-work --user bob", "error: no enrollment at adas-work for user 'bob'"),
        ("ada", "error: no peer 'ada'"),
    ],
)
def test_a_wrong_name_changes_nothing(cli: Cli, peer: str, command: str, arguments: str, words: str) -> None:
    """A misspelled name gives a suggestion, a prefix of three is refused, and other users' peers are not selected."""
    ran = cli(f"federation peer {command} {arguments} -g home", code=1)

    assert ran.err.startswith(words)
    assert (ran.out, ran.err.count("\n")) == ("", 1)
    assert json.loads(cli("federation peer list -g home --json").out)["peers"]


@pytest.mark.parametrize("command", ["show", "rotate", "reset", "remove"])
def test_an_empty_user_is_a_usage_error(cli: Cli, peer: str, command: str) -> None:
    """An empty variable selects no user, and nothing happens."""
    ran = cli(f"federation peer {command} adas-work -g home --user", "", code=2)

    assert "--user" in ran.err
    assert "is empty; name a user, or omit the option" in ran.err
    assert cli("federation peer list -g home --json").json["peers"]


def test_an_ambiguous_prefix_names_the_peers(cli: Cli, peer: str) -> None:
    """Two peers with the same prefix are both named, and neither is removed."""
    cli.enroll("adas-home")

    ran = cli("federation peer remove adas -g home", code=1)

    assert ran.err == "error: peer: 'adas' matches 2: adas-home, adas-work; give more characters\n"
    assert len(cli("federation peer list -g home --json").json["peers"]) == 2
    cli("federation peer remove adas-home -g home")
