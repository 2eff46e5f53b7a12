"""Pages of what is held in memory: a token names the place where a page ended, and the question that it answered."""

import base64
from collections.abc import Sequence

import orjson
import pytest

from federation.admin.pagination import page_of
from federation.errors import InputError
from federation.v1 import admin_pb2 as pb

Thing = tuple[int, str]


def list_request(token: str = "", size: int = 3, peer: str = "", subject: str = "") -> pb.ListGrantsRequest:
    """A request."""
    return pb.ListGrantsRequest(page_size=size, page_token=token, peer=peer, subject=subject)


def page(things: Sequence[Thing], request: pb.ListGrantsRequest) -> tuple[Sequence[Thing], str]:
    """One page of sorted items."""
    return page_of(sorted(things), lambda thing: thing, request)


def test_pages_are_the_whole_list_in_its_order() -> None:
    """Each item appears once, also items with equal sort values; the last page has no token."""
    things = [(number // 2, f"{number:02}") for number in range(10)]
    found: list[Thing] = []
    token = ""
    for _ in range(4):
        shown, token = page(things, list_request(token))
        found += shown
    assert (found, token) == (things, "")
    assert page(things, list_request(size=10)) == (things, "")
    assert page([], list_request()) == ([], "")


def test_items_added_or_removed_between_pages_move_no_other_item() -> None:
    """An item added before the position is not shown, and a removed item shifts no other item."""
    things = [(number, "x") for number in range(10, 20)]
    first, token = page(things, list_request())

    come = page([(1, "new"), *things], list_request(token))[0]
    gone = page(things[2:], list_request(token))[0]
    at_the_place = page([*things[:2], *things[3:]], list_request(token))[0]

    assert first == things[:3]
    assert come == gone == at_the_place == things[3:6]
    assert page(things[:3], list_request(token)) == ([], "")


def forged(place: object) -> str:
    """A forged token for the request without filters."""
    raw = base64.urlsafe_b64decode(page([(1, "a"), (2, "b")], list_request(size=1))[1] + "===")
    return base64.urlsafe_b64encode(orjson.dumps([orjson.loads(raw)[0], place, "a"])).decode().rstrip("=")


@pytest.mark.parametrize(
    "token", ["x", "2", "\N{PILE OF POO}", "W10", "====", forged("text"), forged(None), forged(1.5), forged([1])]
)
def test_an_invalid_token_is_refused(token: str) -> None:
    """The error is one sentence that names the field."""
    with pytest.raises(InputError, match="page_token: is not a token of an earlier page"):
        page([(1, "a"), (2, "b")], list_request(token))


def test_a_token_belongs_to_its_filters_and_its_list() -> None:
    """A token is valid with another page size, but not with another filter or another list."""
    things = [(number, "x") for number in range(10)]
    token = page(things, list_request(peer="a"))[1]

    assert page(things, list_request(token, size=2, peer="a"))[0] == things[3:5]
    for other in (list_request(token), list_request(token, peer="b"), list_request(token, peer="a", subject="ada")):
        with pytest.raises(InputError, match="page_token"):
            page(things, other)
    with pytest.raises(InputError, match="page_token"):
        page_of(things, lambda thing: thing, pb.ListPeersRequest(page_token=page(things, list_request())[1]))


@pytest.mark.parametrize("size", [-1, 1_001])
def test_a_size_out_of_range_is_refused(size: int) -> None:
    """The error names the field and the range."""
    with pytest.raises(InputError, match="page_size: must be from 0 to 1000"):
        page([], list_request(size=size))
