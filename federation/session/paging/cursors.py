"""Where a session's next page begins at every source, and the opaque token that says it. Pure."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from federation.errors import InputError
from federation.wire.signed_tokens import TokenSeal

__all__ = ["ListPlace", "Place", "PlaceTokens", "SearchPlace"]

MAX_TOKEN: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class ListPlace:
    """Behind a row of a list: `created_ns` is nanoseconds since the Unix epoch."""

    created_ns: int
    id: str


@dataclass(frozen=True, slots=True)
class SearchPlace:
    """Behind `skip` hits of the page that a source's own `token` and `size` bring; `top` is its very best score."""

    token: str
    skip: int
    size: int
    top: float


Place: TypeAlias = ListPlace | SearchPlace | None
"""`None` is the beginning."""


class PlaceTokens:
    """Makes and reads page tokens under one secret key; a token belongs to the context that it was made for."""

    def __init__(self, key: bytes) -> None:
        self._seal = TokenSeal(key)

    def seal(self, context: bytes, places: Mapping[str, Place]) -> str:
        """Return the token of these places; the empty one where there is none."""
        if not places:
            return ""
        packed = json.dumps([[source, *_packed(place)] for source, place in places.items()])
        return self._seal.seal(context, zlib.compress(packed.encode()))

    def open(self, context: bytes, token: str) -> dict[str, Place]:
        """Return the places of a token. Raises `InputError` for one that was not made here for this context."""
        payload = self._seal.open(context, token) if len(token) <= MAX_TOKEN else None
        if payload is None:
            raise InputError("page_token", "not a token of this very query, user and source; ask again without it")
        return {source: _unpacked(rest) for source, *rest in json.loads(zlib.decompress(payload))}


def _packed(place: Place) -> tuple[Any, ...]:
    match place:
        case ListPlace(created_ns, row_id):
            return created_ns, row_id
        case SearchPlace(token, skip, size, top):
            return token, skip, size, top
        case None:
            return ()


def _unpacked(parts: list[Any]) -> Place:
    if not parts:
        return None
    return ListPlace(*parts) if len(parts) == len(ListPlace.__slots__) else SearchPlace(*parts)
