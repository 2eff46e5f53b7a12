"""Page tokens of a session: what they hold, and to what they are bound."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import InputError
from federation.session.paging.cursors import Cursor, CursorTokens, ListCursor, SearchCursor
from federation.session.paging.query_plans import ListPlan, SearchPlan
from federation.v1 import federation_pb2 as pb
from federation.wire.signed_tokens import context_of

TOKENS = CursorTokens(b"k" * 32)
CONTEXT = context_of("list", "ada", "all", "tasks")
CURSORS: dict[str, Cursor] = {
    "local": ListCursor(1_750_000_000_000_000_000, "t1"),
    "federated:work": None,
    "federated:lab": SearchCursor("own", 3, 50, 0.5),
}


cursors = st.one_of(
    st.none(),
    st.builds(ListCursor, st.integers(-(10**20), 10**20), st.text()),
    st.builds(SearchCursor, st.text(), st.integers(0, 1_000), st.integers(0, 1_000), st.floats(1e-9, 1.0)),
)


@given(st.dictionaries(st.text(min_size=1), cursors, min_size=1))
def test_a_token_decodes_to_its_cursors(given_cursors: dict[str, Cursor]) -> None:
    """Cursors of every kind survive encoding in order, also with extreme dates and odd names."""
    opened = TOKENS.open(CONTEXT, TOKENS.seal(CONTEXT, given_cursors))
    assert list(opened.items()) == list(given_cursors.items())


def test_no_cursors_give_an_empty_token() -> None:
    """The end of an answer is an empty token."""
    assert TOKENS.seal(CONTEXT, {}) == ""


def test_a_token_survives_a_restart_and_is_invalid_at_another_gateway() -> None:
    """The same key decodes the token; another key does not."""
    token = TOKENS.seal(CONTEXT, CURSORS)
    assert CursorTokens(b"k" * 32).open(CONTEXT, token) == CURSORS
    with pytest.raises(InputError, match="page_token"):
        CursorTokens(b"x" * 32).open(CONTEXT, token)


@pytest.mark.parametrize(
    "token",
    ["forged", "", "=", "a" * 40, "\udcff", "ä", "A" * (1 << 21), base64.urlsafe_b64encode(b"\0" * 64).decode()],
)
def test_a_forged_token_is_refused_by_its_field(token: str) -> None:
    """A forged token raises an `InputError` that names the field."""
    with pytest.raises(InputError) as caught:
        TOKENS.open(CONTEXT, token)
    assert caught.value.field == "page_token"


def test_every_changed_character_is_detected() -> None:
    """Every altered character is detected, even one that decodes to the same bytes."""
    token = TOKENS.seal(CONTEXT, CURSORS)
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
        ListPlan(LIST, "bob", "all"),
        ListPlan(LIST, "ada", "local"),
        ListPlan(pb.ListRequest(resource="notes", where={"status": "open"}), "ada", "all"),
        ListPlan(pb.ListRequest(resource="tasks", where={"status": "done"}), "ada", "all"),
        ListPlan(pb.ListRequest(resource="tasks"), "ada", "all"),
        SearchPlan(SEARCH, "ada", "all"),
    ],
)
def test_a_token_is_bound_to_user_source_and_query(other: ListPlan | SearchPlan) -> None:
    """A token is invalid for another user, source, resource, filter or verb, but valid for another page size."""
    token = TOKENS.seal(ListPlan(LIST, "ada", "all").context, CURSORS)

    with pytest.raises(InputError):
        TOKENS.open(other.context, token)
    larger = pb.ListRequest(resource="tasks", where={"status": "open"}, page_size=50)
    assert TOKENS.open(ListPlan(larger, "ada", "all").context, token) == CURSORS


@pytest.mark.parametrize(
    "other",
    [
        SearchPlan(SEARCH, "bob", "all"),
        SearchPlan(SEARCH, "ada", "federated:work"),
        SearchPlan(pb.SearchRequest(query="reports", resources=["tasks", "notes"]), "ada", "all"),
        SearchPlan(pb.SearchRequest(query="report", resources=["tasks"]), "ada", "all"),
    ],
)
def test_a_search_token_is_bound_to_user_source_and_query(other: SearchPlan) -> None:
    """A token is invalid for another user, source, text or set of resources, but valid for another order of them."""
    token = TOKENS.seal(SearchPlan(SEARCH, "ada", "all").context, CURSORS)

    with pytest.raises(InputError):
        TOKENS.open(other.context, token)
    reordered = pb.SearchRequest(query="report", resources=["notes", "tasks"])
    assert TOKENS.open(SearchPlan(reordered, "ada", "all").context, token) == CURSORS


def test_parts_of_a_context_do_not_run_into_each_other() -> None:
    """`ab, c` and `a, bc` are two contexts."""
    assert context_of("ab", "c") != context_of("a", "bc")
