"""Page tokens: opaque places in an answer, bound by a MAC to the grant and the query that they belong to. Pure."""

import struct
from collections.abc import Iterable, Mapping
from typing import Final

from federation.errors import Reason, Refusal
from federation.resources.provider import Position
from federation.wire.signed_tokens import TokenSeal, context_of

__all__ = ["PageTokens", "list_context", "search_context"]

MAX_TOKEN: Final = 4_096
_INSTANT: Final = struct.Struct(">q")
_OFFSET: Final = struct.Struct(">I")


class PageTokens:
    """Makes and reads page tokens under one secret key. A token of another key, grant or query is refused."""

    def __init__(self, key: bytes) -> None:
        self._seal = TokenSeal(key)

    def of_position(self, context: bytes, position: Position) -> str:
        """Return the token of the list that goes on behind `position`."""
        return self._seal.seal(context, _INSTANT.pack(position.created_at_us) + position.id.encode())

    def position(self, context: bytes, token: str) -> Position:
        """Return the place that a list's token names; raise `Refusal` INVALID_REQUEST."""
        payload = self._open(context, token)
        return Position(_INSTANT.unpack_from(payload)[0], payload[_INSTANT.size :].decode())

    def of_offset(self, context: bytes, offset: int) -> str:
        """Return the token of the search that passes over `offset` hits."""
        return self._seal.seal(context, _OFFSET.pack(offset))

    def offset(self, context: bytes, token: str) -> int:
        """Return the offset that a search's token names; raise `Refusal` INVALID_REQUEST."""
        offset: int = _OFFSET.unpack(self._open(context, token))[0]
        return offset

    def _open(self, context: bytes, token: str) -> bytes:
        payload = self._seal.open(context, token) if len(token) <= MAX_TOKEN else None
        if payload is None:
            raise Refusal(
                Reason.INVALID_REQUEST,
                "page_token: not a token of this gateway for this very query; ask again without it",
            )
        return payload


def list_context(grant_id: str, resource: str, where: Mapping[str, str]) -> bytes:
    """Return what binds a token to one list: everything but the size and the place of the page."""
    return context_of("list", grant_id, resource, *(part for pair in sorted(where.items()) for part in pair))


def search_context(grant_id: str, query: str, resources: Iterable[str]) -> bytes:
    """Return what binds a token to one search: everything but the size and the place of the page."""
    return context_of("search", grant_id, query, *sorted(resources))
