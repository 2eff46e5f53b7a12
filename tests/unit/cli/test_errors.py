"""Messages of errors and remedies."""

import pytest

from federation.errors import Action, Actor, GatewayUnavailableError, InputError, Reason, Refusal, Remedy
from mosaic_cli.output.errors import ADVICE, CURES, advised, clean, command, explain
from mosaic_cli.output.times import distance, duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-3, "0 s"), (0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7_199, "120 min"), (7_200, "2 h"), (172_800, "2 d")],
)
def test_a_duration_has_the_largest_unit_that_fits(seconds: float, words: str) -> None:
    """Small enough to be exact, large enough to be read."""
    assert duration(seconds) == words


def test_instants_are_printed_relative_to_now() -> None:
    """Past and future have different texts."""
    assert distance(-5) == "5 s ago"
    assert distance(7 * 3_600) == "in 7 h"


@pytest.mark.parametrize("bad", ["\x1b[2J", "\x07", "\x9b31m", "\r", "\u202e", "\x7f"])
def test_text_of_a_peer_cannot_control_the_terminal(bad: str) -> None:
    """Control and bidirectional characters are replaced."""
    assert bad[0] not in clean(f"title{bad}")


def test_printable_text_is_unchanged() -> None:
    """Letters of every script, tabs and newlines pass."""
    assert clean("Grüße, 你好 🙂\n\tok") == "Grüße, 你好 🙂\n\tok"


def test_an_error_is_one_line() -> None:
    """Line breaks of a message are removed."""
    assert explain(InputError("scope", "not JSON:\nline 2")) == "scope: not JSON: line 2"


def test_a_refusal_names_its_reason_and_a_cure() -> None:
    """A refusal has its reason and the next step."""
    assert explain(Refusal(Reason.SCOPE_VIOLATION, "no")).startswith("SCOPE_VIOLATION: no; see what the grant opens:")


def test_a_retry_delay_replaces_the_general_cure() -> None:
    """The message ends with the delay that the peer asks for."""
    assert explain(Refusal(Reason.CIRCUIT_OPEN, "resting", retry_after_s=29.6)) == (
        "CIRCUIT_OPEN: resting; try again in 30 s"
    )


def test_a_retry_delay_in_the_message_is_not_repeated() -> None:
    """A delay in the peer's message is not added a second time."""
    said = "more than 1 calls a minute under this grant; try again in 29.2 s"

    assert explain(Refusal(Reason.RATE_LIMITED, said, retry_after_s=29.2)) == f"RATE_LIMITED: {said}"


def test_every_reason_has_a_cure_or_is_listed_here() -> None:
    """A new reason needs a cure, or an entry here."""
    assert set(Reason) - set(CURES) == {
        Reason.ROW_NOT_FOUND,
        Reason.INVALID_REQUEST,
        Reason.RATE_LIMITED,
        Reason.INTERNAL,
    }


def test_every_action_has_its_commands() -> None:
    """A new action needs its commands."""
    assert set(ADVICE) == set(Action)


@pytest.mark.parametrize(
    ("remedy", "words"),
    [
        (Remedy(action=Action.LIST_GRANTS), "mosaic federation grant list"),
        (Remedy(action=Action.LIST_GRANTS, actor=Actor.PEER_OPERATOR), "`mosaic federation grant list` there"),
        (Remedy(action=Action.START_GATEWAY, directory="my gateway"), "mosaic gateway serve --gateway 'my gateway'"),
        (Remedy(action=Action.START_GATEWAY), "mosaic gateway serve"),
        (Remedy(action=Action.ROTATE_PEER, peer="work", user="a;b"), "mosaic federation peer rotate work --user 'a;b'"),
        (
            Remedy(action=Action.SHOW_CAPABILITIES, peer="work", user="ada"),
            "mosaic federation query capabilities --user ada --source federated:work",
        ),
        (Remedy(action=Action.SHOW_CAPABILITIES), "mosaic federation query capabilities"),
        (
            Remedy(action=Action.SHOW_GRANT, actor=Actor.PEER_OPERATOR, grant_id="g-1"),
            "`mosaic federation grant show g-1` and `mosaic federation audit --grant g-1` there",
        ),
        (
            Remedy(action=Action.ENROLL_AGAIN, peer="work", user="ada", grant_id="g-1"),
            (
                "`mosaic federation grant token g-1` there, then `mosaic federation peer remove work --user ada` and "
                "`mosaic federation peer add --user ada TOKEN`"
            ),
        ),
        (Remedy(action=Action.ALLOW_MORE_TIME), "--timeout SECONDS"),
    ],
)
def test_a_remedy_becomes_a_command(remedy: Remedy, words: str) -> None:
    """Each parameter is quoted for a shell; an empty parameter is omitted with its option."""
    assert command(remedy) == words
    assert advised("do it", remedy) == f"do it: {words}"
    assert advised("do it", None) == "do it"


def test_an_error_with_a_remedy_ends_with_the_command() -> None:
    """The command follows the library's message and replaces the reason's general cure."""
    start = Remedy(action=Action.START_GATEWAY, directory="home")
    rotate = Remedy(action=Action.ROTATE_PEER, peer="work", user="ada")

    assert explain(GatewayUnavailableError("it does not run; start it", remedy=start)) == (
        "it does not run; start it: mosaic gateway serve --gateway home"
    )
    assert explain(Refusal(Reason.CERTIFICATE_INVALID, "it ended; rotate it", remedy=rotate)) == (
        "CERTIFICATE_INVALID: it ended; rotate it: mosaic federation peer rotate work --user ada"
    )
