"""Page tokens: opaque places in an answer, bound by a MAC to the grant and the query that they belong to. Pure."""

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Iterable, Mapping
from typing import Final

from federation.errors import Reason, Refusal
from federation.resources.provider import Position

__all__ = ["PageTokens", "list_context", "search_context"]

MAC_BYTES: Final = 16
MAX_TOKEN: Final = 4_096
_INSTANT: Final = struct.Struct(">q")
_OFFSET: Final = struct.Struct(">I")


class PageTokens:
    """Makes and reads page tokens under one secret key. A token of another key, grant or query is refused."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of_position(self, context: bytes, position: Position) -> str:
        """Return the token of the list that goes on behind `position`."""
        return self._seal(context, _INSTANT.pack(position.created_at_us) + position.id.encode())

    def position(self, context: bytes, token: str) -> Position:
        """Return the place that a list's token names; raise `Refusal` INVALID_REQUEST."""
        payload = self._open(context, token)
        return Position(_INSTANT.unpack_from(payload)[0], payload[_INSTANT.size :].decode())

    def of_offset(self, context: bytes, offset: int) -> str:
        """Return the token of the search that passes over `offset` hits."""
        return self._seal(context, _OFFSET.pack(offset))

    def offset(self, context: bytes, token: str) -> int:
        """Return the offset that a search's token names; raise `Refusal` INVALID_REQUEST."""
        offset: int = _OFFSET.unpack(self._open(context, token))[0]
        return offset

    def _seal(self, context: bytes, payload: bytes) -> str:
        return _spelled(self._mac(context, payload) + payload)

    def _open(self, context: bytes, token: str) -> bytes:
        if len(token) > MAX_TOKEN:
            raise _foreign()
        try:
            raw = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise _foreign() from None
        mac, payload = raw[:MAC_BYTES], raw[MAC_BYTES:]
        # Base64 has several spellings of the same bytes, of which the MAC sees nothing: only the one made here counts.
        if _spelled(raw) != token or not hmac.compare_digest(mac, self._mac(context, payload)):
            raise _foreign()
        return payload

    def _mac(self, context: bytes, payload: bytes) -> bytes:
        return hmac.digest(self._key, context + payload, "sha256")[:MAC_BYTES]


def list_context(grant_id: str, resource: str, where: Mapping[str, str]) -> bytes:
    """Return what binds a token to one list: everything but the size and the place of the page."""
    return _context("list", grant_id, resource, *(part for pair in sorted(where.items()) for part in pair))


def search_context(grant_id: str, query: str, resources: Iterable[str]) -> bytes:
    """Return what binds a token to one search: everything but the size and the place of the page."""
    return _context("search", grant_id, query, *sorted(resources))


def _spelled(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _context(*parts: str) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "big"))
        digest.update(encoded)
    return digest.digest()


def _foreign() -> Refusal:
    return Refusal(
        Reason.INVALID_REQUEST,
        "page_token: not a token of this gateway for this very query; ask again without it",
    )
