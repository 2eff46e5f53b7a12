import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import Reason, Refusal
from federation.resources.provider import Position
from federation.verbs.page_tokens import PageTokens, list_context, search_context

TOKENS = PageTokens(b"k" * 32)
CONTEXT = list_context("g", "tasks", {"owner": "ada"})
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
PLACE = Position(1_750_000_000_000_123, "t1")


@given(st.integers(-(2**62), 2**62), st.text(st.characters(exclude_categories=["Cs"]), max_size=500))
def test_a_place_survives_its_token(created_at_us: int, row_id: str) -> None:
    """Any instant and id come back, and the token is plain ASCII without padding."""
    token = TOKENS.of_position(CONTEXT, Position(created_at_us, row_id))

    assert TOKENS.position(CONTEXT, token) == Position(created_at_us, row_id)
    assert token.isascii()
    assert "=" not in token


def test_an_offset_survives_its_token() -> None:
    """The offset of a search comes back."""
    context = search_context("g", "report", ("tasks",))

    assert TOKENS.offset(context, TOKENS.of_offset(context, 150)) == 150


@pytest.mark.parametrize(
    "context",
    [
        list_context("h", "tasks", {"owner": "ada"}),
        list_context("g", "notes", {"owner": "ada"}),
        list_context("g", "tasks", {"owner": "eve"}),
        list_context("g", "tasks", {}),
        list_context("g", "tasks", {"ownera": "da"}),
        search_context("g", "tasks", ("owner", "ada")),
    ],
)
def test_a_token_of_another_query_is_refused(context: bytes) -> None:
    """Grant, resource and filter bind a token; so does the verb."""
    with pytest.raises(Refusal) as caught:
        TOKENS.position(context, TOKENS.of_position(CONTEXT, PLACE))

    assert caught.value.reason is Reason.INVALID_REQUEST
    assert caught.value.message.startswith("page_token")


@pytest.mark.parametrize(
    "context",
    [
        search_context("h", "report", ("tasks",)),
        search_context("g", "reports", ("tasks",)),
        search_context("g", "report", ("tasks", "notes")),
        list_context("g", "report", {}),
    ],
)
def test_a_token_of_another_search_is_refused(context: bytes) -> None:
    """Grant, query and resources bind the token of a search."""
    with pytest.raises(Refusal) as caught:
        TOKENS.offset(context, TOKENS.of_offset(search_context("g", "report", ("tasks",)), 50))

    assert caught.value.reason is Reason.INVALID_REQUEST


def test_the_order_of_filters_and_resources_does_not_matter() -> None:
    """The token is valid for the same query with its parts in another order."""
    assert list_context("g", "t", {"a": "1", "b": "2"}) == list_context("g", "t", {"b": "2", "a": "1"})
    assert search_context("g", "q", ("a", "b")) == search_context("g", "q", ("b", "a"))


def test_a_token_of_another_key_is_refused() -> None:
    """A gateway refuses a token that it did not create."""
    with pytest.raises(Refusal):
        PageTokens(b"x" * 32).position(CONTEXT, TOKENS.of_position(CONTEXT, PLACE))


@pytest.mark.parametrize(
    "token", ["x", "====", "ü", "A" * 5_000, "AAAA", base64.urlsafe_b64encode(b"\0" * 24).decode()]
)
def test_what_is_no_token_is_refused(token: str) -> None:
    """Garbage, too short, too long, and a well-formed forgery end as one refusal."""
    with pytest.raises(Refusal) as caught:
        TOKENS.position(CONTEXT, token)

    assert caught.value.reason is Reason.INVALID_REQUEST


@given(st.data())
def test_no_single_changed_character_passes(data: st.DataObject) -> None:
    """Every character of a token is under the MAC, and a truncated token is none."""
    token = TOKENS.of_position(CONTEXT, PLACE)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("ABCxyz019-_").filter(lambda c: c != token[at]))
    forged = [token[:at] + other + token[at + 1 :], token[:at]]

    for candidate in forged:
        with pytest.raises(Refusal):
            TOKENS.position(CONTEXT, candidate)


@pytest.mark.parametrize("row_id", ["?", "??", "???"])
def test_another_spelling_of_a_token_is_refused(row_id: str) -> None:
    """Padding, the other alphabet of Base64 and the unused bits at a token's end make no second token."""
    token = TOKENS.of_position(CONTEXT, Position(PLACE.created_at_us, row_id))
    padding = "=" * (-len(token) % 4)
    spare = ALPHABET[ALPHABET.index(token[-1]) ^ 1]
    spellings = {token + padding, token.replace("-", "+").replace("_", "/"), token[:-1] + spare} - {token}

    for other in spellings:
        with pytest.raises(Refusal):
            TOKENS.position(CONTEXT, other)
