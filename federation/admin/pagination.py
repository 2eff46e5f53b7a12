"""Pages of what is held in memory."""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import orjson
from google.protobuf.message import Message

from federation import base64url
from federation.errors import InputError

__all__ = ["page_of"]

T = TypeVar("T")
DEFAULT: Final = 100
LARGEST: Final = 1_000
Place = tuple[int | str, str]
"""Where an item stands: what it is sorted by, and what tells it from others there."""


def page_of(items: Sequence[T], place: Callable[[T], Place], request: Any) -> tuple[Sequence[T], str]:
    """Return one page and the token of the next one, empty on the last.

    `items` are sorted by their `place`, where a token goes on: whatever comes or goes between two pages, no other item
    is shown twice or left out. A token belongs to the filters of its `request`. Raises `InputError` that names the
    field.
    """
    if not 0 <= request.page_size <= LARGEST:
        raise InputError("page_size", f"must be from 0 to {LARGEST}")
    filters = _filters(request)
    start = 0
    if request.page_token:
        behind = _place_of(request.page_token, filters)
        try:
            start = bisect_right(items, behind, key=place)
        except TypeError:
            raise _foreign() from None
    end = start + (request.page_size or DEFAULT)
    page = items[start:end]
    return page, _token(place(page[-1]), filters) if end < len(items) else ""


def _filters(request: Message) -> str:
    """Return what tells a question from another one: all of it but which page is wanted."""
    question = type(request)()
    question.CopyFrom(request)
    for name in ("page_size", "page_token"):
        question.ClearField(name)
    named = question.DESCRIPTOR.full_name.encode() + question.SerializeToString(deterministic=True)
    return hashlib.sha256(named).hexdigest()[:16]


def _token(place: Place, filters: str) -> str:
    return base64url.encode(orjson.dumps([filters, *place]))


def _place_of(token: str, filters: str) -> Place:
    try:
        bound, first, second = orjson.loads(base64url.decode(token))
    except (ValueError, TypeError):
        bound = first = second = None
    if bound != filters or not isinstance(first, int | str) or not isinstance(second, str):
        raise _foreign()
    return first, second


def _foreign() -> InputError:
    return InputError("page_token", "is not a token of an earlier page with these filters; ask again without it")
