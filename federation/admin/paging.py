"""Pages of what is held in memory."""

from collections.abc import Sequence
from typing import Final, TypeVar

from federation.errors import InputError

__all__ = ["page_of"]

T = TypeVar("T")
DEFAULT: Final = 100
LARGEST: Final = 1_000


def page_of(items: Sequence[T], page_size: int, page_token: str) -> tuple[Sequence[T], str]:
    """Return one page and the token of the next one, empty on the last. Raises `InputError` that names the field."""
    if not 0 <= page_size <= LARGEST:
        raise InputError("page_size", f"must be from 0 to {LARGEST}")
    if page_token and not (page_token.isascii() and page_token.isdigit() and len(page_token) <= 9):  # noqa: PLR2004
        raise InputError("page_token", "is not a token of an earlier page; ask again without it")
    start = int(page_token or 0)
    end = start + (page_size or DEFAULT)
    return items[start:end], str(end) if end < len(items) else ""
