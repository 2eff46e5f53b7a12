"""Keyset pagination of lists in memory."""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import orjson
from google.protobuf.message import Message

from federation import base64url
from federation.errors import InputError

T = TypeVar("T")
DEFAULT_PAGE_SIZE: Final = 100
MAX_PAGE_SIZE: Final = 1_000
Position = tuple[int | str, str]
"""The sort key of an item: a value, and an id that makes the key unique."""


def page_of(items: Sequence[T], position: Callable[[T], Position], request: Any) -> tuple[Sequence[T], str]:
    """Return one page and the token of the next page, which is empty on the last page.

    `items` must be sorted by `position`. A token holds the position of the last item, so adding or removing items
    between two pages neither repeats nor skips another item. A token is valid only with the filters of its `request`.
    Raises `InputError` that names the field.
    """
    if not 0 <= request.page_size <= MAX_PAGE_SIZE:
        raise InputError("page_size", f"must be from 0 to {MAX_PAGE_SIZE}")
    filters = _filters(request)
    start = 0
    if request.page_token:
        after = _decode_token(request.page_token, filters)
        try:
            start = bisect_right(items, after, key=position)
        except TypeError:
            raise _invalid_token() from None
    end = start + (request.page_size or DEFAULT_PAGE_SIZE)
    page = items[start:end]
    return page, _encode_token(position(page[-1]), filters) if end < len(items) else ""


def _filters(request: Message) -> str:
    """Return a hash of every field of the request but `page_size` and `page_token`."""
    query = type(request)()
    query.CopyFrom(request)
    for name in ("page_size", "page_token"):
        query.ClearField(name)
    canonical = query.DESCRIPTOR.full_name.encode() + query.SerializeToString(deterministic=True)
    return hashlib.sha256(canonical).hexdigest()[:16]


def _encode_token(position: Position, filters: str) -> str:
    return base64url.encode(orjson.dumps([filters, *position]))


def _decode_token(token: str, filters: str) -> Position:
    try:
        token_filters, first, second = orjson.loads(base64url.decode(token))
    except (ValueError, TypeError):
        token_filters = first = second = None
    if token_filters != filters or not isinstance(first, int | str) or not isinstance(second, str):
        raise _invalid_token()
    return first, second


def _invalid_token() -> InputError:
    return InputError("page_token", "is not a token of an earlier page with these filters; ask again without it")
