"""Page tokens: opaque positions in an answer, bound by a MAC to a grant and a query. Pure."""

import struct
from collections.abc import Iterable, Mapping
from typing import Final

from federation.errors import Reason, Refusal
from federation.resources.provider import Position
from federation.wire.signed_tokens import TokenSeal, context_of

MAX_TOKEN: Final = 4_096
_INSTANT: Final = struct.Struct(">q")
_OFFSET: Final = struct.Struct(">I")


class PageTokens:
    """Creates and reads page tokens under one secret key. Tokens of another key, grant or query are refused."""

    def __init__(self, key: bytes) -> None:
        self._seal = TokenSeal(key)

    def of_position(self, context: bytes, position: Position) -> str:
        """Return the token of the page of a list that starts after `position`."""
        return self._seal.seal(context, _INSTANT.pack(position.created_at_us) + position.id.encode())

    def position(self, context: bytes, token: str) -> Position:
        """Return the position in a list's token; raise `Refusal` INVALID_REQUEST."""
        payload = self._open(context, token)
        return Position(_INSTANT.unpack_from(payload)[0], payload[_INSTANT.size :].decode())

    def of_offset(self, context: bytes, offset: int) -> str:
        """Return the token of the page of a search that skips `offset` hits."""
        return self._seal.seal(context, _OFFSET.pack(offset))

    def offset(self, context: bytes, token: str) -> int:
        """Return the offset in a search's token; raise `Refusal` INVALID_REQUEST."""
        offset: int = _OFFSET.unpack(self._open(context, token))[0]
        return offset

    def _open(self, context: bytes, token: str) -> bytes:
        payload = self._seal.open(context, token) if len(token) <= MAX_TOKEN else None
        if payload is None:
            raise Refusal(
                Reason.INVALID_REQUEST,
                "page_token: not a token of this gateway for this query; start again without a page token",
            )
        return payload


def list_context(grant_id: str, resource: str, where: Mapping[str, str]) -> bytes:
    """Return the context that binds a token to one list: every parameter but the size and position of the page."""
    return context_of("list", grant_id, resource, *(part for pair in sorted(where.items()) for part in pair))


def search_context(grant_id: str, query: str, resources: Iterable[str]) -> bytes:
    """Return the context that binds a token to one search: every parameter but the size and position of the page."""
    return context_of("search", grant_id, query, *sorted(resources))
