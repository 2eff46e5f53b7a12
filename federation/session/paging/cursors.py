"""Page cursors: where each source continues, encoded as an opaque signed token. Pure."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from federation.errors import InputError
from federation.wire.signed_tokens import TokenSeal

MAX_TOKEN: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class ListCursor:
    """The position after a row of a list. `created_ns` is in nanoseconds since the Unix epoch."""

    created_ns: int
    id: str


@dataclass(frozen=True, slots=True)
class SearchCursor:
    """The position after `skip` hits of the page that a source returns for its own `token` and `size`.

    `top` is the best score of the source's first page.
    """

    token: str
    skip: int
    size: int
    top: float


Cursor: TypeAlias = ListCursor | SearchCursor | None
"""`None` is the beginning of the list."""


class CursorTokens:
    """Encodes and decodes page tokens under one secret key. A token is valid only in the context it was made for."""

    def __init__(self, key: bytes) -> None:
        self._seal = TokenSeal(key)

    def seal(self, context: bytes, cursors: Mapping[str, Cursor]) -> str:
        """Return the token of these cursors, empty without cursors."""
        if not cursors:
            return ""
        packed = json.dumps([[source, *_pack(cursor)] for source, cursor in cursors.items()])
        return self._seal.seal(context, zlib.compress(packed.encode()))

    def open(self, context: bytes, token: str) -> dict[str, Cursor]:
        """Return the cursors of a token. Raises `InputError` unless `seal` made the token for this context."""
        payload = self._seal.open(context, token) if len(token) <= MAX_TOKEN else None
        if payload is None:
            raise InputError("page_token", "not a token of this very query, user and source; ask again without it")
        return {source: _unpack(rest) for source, *rest in json.loads(zlib.decompress(payload))}


def _pack(cursor: Cursor) -> tuple[Any, ...]:
    match cursor:
        case ListCursor(created_ns, row_id):
            return created_ns, row_id
        case SearchCursor(token, skip, size, top):
            return token, skip, size, top
        case None:
            return ()


def _unpack(values: list[Any]) -> Cursor:
    if not values:
        return None
    return ListCursor(*values) if len(values) == len(ListCursor.__slots__) else SearchCursor(*values)
