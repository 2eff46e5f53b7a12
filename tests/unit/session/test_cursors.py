"""Page tokens of a session: what they hold, and to what they are bound."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import InputError
from federation.session.paging.cursors import ListPlace, Place, PlaceTokens, SearchPlace
from federation.session.paging.query_plans import ListCourse, SearchCourse
from federation.v1 import federation_pb2 as pb
from federation.wire.signed_tokens import context_of

TOKENS = PlaceTokens(b"k" * 32)
CONTEXT = context_of("list", "ada", "all", "tasks")
PLACES: dict[str, Place] = {
    "local": ListPlace(1_750_000_000_000_000_000, "t1"),
    "federated:work": None,
    "federated:lab": SearchPlace("own", 3, 50, 0.5),
}


places = st.one_of(
    st.none(),
    st.builds(ListPlace, st.integers(-(10**20), 10**20), st.text()),
    st.builds(SearchPlace, st.text(), st.integers(0, 1_000), st.integers(0, 1_000), st.floats(1e-9, 1.0)),
)


@given(st.dictionaries(st.text(min_size=1), places, min_size=1))
def test_a_token_brings_back_what_it_was_made_of(given_places: dict[str, Place]) -> None:
    """Any place of any source, in the same order; far dates and odd names too."""
    opened = TOKENS.open(CONTEXT, TOKENS.seal(CONTEXT, given_places))
    assert list(opened.items()) == list(given_places.items())


def test_no_place_is_no_token() -> None:
    """The end of an answer is an empty token."""
    assert TOKENS.seal(CONTEXT, {}) == ""


def test_a_token_survives_a_restart_and_no_other_gateway_takes_it() -> None:
    """The same key reads it again; another key does not."""
    token = TOKENS.seal(CONTEXT, PLACES)
    assert PlaceTokens(b"k" * 32).open(CONTEXT, token) == PLACES
    with pytest.raises(InputError, match="page_token"):
        PlaceTokens(b"x" * 32).open(CONTEXT, token)


@pytest.mark.parametrize(
    "token",
    ["forged", "", "=", "a" * 40, "\udcff", "ä", "A" * (1 << 21), base64.urlsafe_b64encode(b"\0" * 64).decode()],
)
def test_a_forged_token_is_a_fault_of_its_field(token: str) -> None:
    """Whatever was not made here is refused by the name of the field, and never by a trace."""
    with pytest.raises(InputError) as caught:
        TOKENS.open(CONTEXT, token)
    assert caught.value.field == "page_token"


def test_every_changed_character_is_found() -> None:
    """No part of a token may be altered, not even to another spelling of the same bytes."""
    token = TOKENS.seal(CONTEXT, PLACES)
    for index, character in enumerate(token):
        changed = token[:index] + ("A" if character != "A" else "B") + token[index + 1 :]
        with pytest.raises(InputError):
            TOKENS.open(CONTEXT, changed)
    with pytest.raises(InputError):
        TOKENS.open(CONTEXT, token + "=")


LIST = pb.ListRequest(resource="tasks", where={"status": "open"}, page_size=5)
SEARCH = pb.SearchRequest(query="report", resources=["tasks", "notes"])


@pytest.mark.parametrize(
    "other",
    [
        ListCourse(LIST, "bob", "all"),
        ListCourse(LIST, "ada", "local"),
        ListCourse(pb.ListRequest(resource="notes", where={"status": "open"}), "ada", "all"),
        ListCourse(pb.ListRequest(resource="tasks", where={"status": "done"}), "ada", "all"),
        ListCourse(pb.ListRequest(resource="tasks"), "ada", "all"),
        SearchCourse(SEARCH, "ada", "all"),
    ],
)
def test_a_token_is_bound_to_user_source_and_query(other: ListCourse | SearchCourse) -> None:
    """Another user, source, resource, filter or verb does not take it; another page size does."""
    token = TOKENS.seal(ListCourse(LIST, "ada", "all").context, PLACES)

    with pytest.raises(InputError):
        TOKENS.open(other.context, token)
    larger = pb.ListRequest(resource="tasks", where={"status": "open"}, page_size=50)
    assert TOKENS.open(ListCourse(larger, "ada", "all").context, token) == PLACES


@pytest.mark.parametrize(
    "other",
    [
        SearchCourse(SEARCH, "bob", "all"),
        SearchCourse(SEARCH, "ada", "federated:work"),
        SearchCourse(pb.SearchRequest(query="reports", resources=["tasks", "notes"]), "ada", "all"),
        SearchCourse(pb.SearchRequest(query="report", resources=["tasks"]), "ada", "all"),
    ],
)
def test_a_token_of_a_search_is_bound_likewise(other: SearchCourse) -> None:
    """Another user, source, text or choice of resources does not take it; another order of resources does."""
    token = TOKENS.seal(SearchCourse(SEARCH, "ada", "all").context, PLACES)

    with pytest.raises(InputError):
        TOKENS.open(other.context, token)
    turned = pb.SearchRequest(query="report", resources=["notes", "tasks"])
    assert TOKENS.open(SearchCourse(turned, "ada", "all").context, token) == PLACES


def test_parts_of_a_context_do_not_run_into_each_other() -> None:
    """`ab, c` and `a, bc` are two contexts."""
    assert context_of("ab", "c") != context_of("a", "bc")
