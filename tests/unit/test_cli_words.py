"""What the command line says, in words."""

from datetime import UTC, datetime, timedelta

import pytest

from cli.words import CURES, ago, clean, duration, explain
from federation.errors import InputError, Reason, Refusal


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-3, "0 s"), (0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7_199, "120 min"), (7_200, "2 h"), (172_800, "2 d")],
)
def test_a_length_of_time_has_its_largest_fitting_unit(seconds: float, words: str) -> None:
    """Small enough to be exact, large enough to be read."""
    assert duration(seconds) == words


def test_instants_are_told_as_distances() -> None:
    """Past and future are told apart."""
    now = datetime(2027, 1, 1, tzinfo=UTC)

    assert ago(now - timedelta(seconds=5), now) == "5 s ago"
    assert ago(now + timedelta(hours=7), now) == "in 7 h"


@pytest.mark.parametrize("bad", ["\x1b[2J", "\x07", "\x9b31m", "\r", "\u202e", "\x7f"])
def test_a_peers_words_cannot_steer_the_terminal(bad: str) -> None:
    """Control and direction characters are made visible."""
    assert bad[0] not in clean(f"title{bad}")


def test_text_is_left_as_it_is() -> None:
    """Letters of every script, tabs and newlines pass."""
    assert clean("Grüße, 你好 🙂\n\tok") == "Grüße, 你好 🙂\n\tok"


def test_an_error_is_one_line() -> None:
    """Whatever the message holds, the operator gets one line."""
    assert explain(InputError("scope", "not JSON:\nline 2")) == "scope: not JSON: line 2"


def test_a_refusal_names_its_reason_and_a_cure() -> None:
    """What a peer refused comes with what to do next."""
    assert explain(Refusal(Reason.SCOPE_VIOLATION, "no")).startswith("SCOPE_VIOLATION: no; what the grant opens:")


def test_a_refusal_that_says_when_is_told_with_the_time() -> None:
    """Patience that the peer asks for replaces the general cure."""
    assert explain(Refusal(Reason.CIRCUIT_OPEN, "resting", retry_after_s=29.6)) == (
        "CIRCUIT_OPEN: resting; try again in 30 s"
    )


def test_a_refusal_that_names_the_time_itself_is_not_told_twice() -> None:
    """A peer's own words about when to ask again are enough."""
    said = "more than 1 calls a minute under this grant; try again in 29.2 s"

    assert explain(Refusal(Reason.RATE_LIMITED, said, retry_after_s=29.2)) == f"RATE_LIMITED: {said}"


def test_reasons_without_a_cure_are_those_that_speak_for_themselves() -> None:
    """A new reason has to be thought about."""
    assert set(Reason) - set(CURES) == {
        Reason.ROW_NOT_FOUND,
        Reason.INVALID_REQUEST,
        Reason.RATE_LIMITED,
        Reason.INTERNAL,
    }
