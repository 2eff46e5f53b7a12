"""Where a session's next page begins at every source, and the opaque token that says it. Pure."""

import base64
import binascii
import hashlib
import hmac
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from federation.errors import InputError

__all__ = ["ListPlace", "Place", "PlaceTokens", "SearchPlace", "context_of"]

MAC_BYTES: Final = 16
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
        self._key = key

    def seal(self, context: bytes, places: Mapping[str, Place]) -> str:
        """Return the token of these places; the empty one where there is none."""
        if not places:
            return ""
        payload = zlib.compress(json.dumps([[source, *_packed(place)] for source, place in places.items()]).encode())
        return _spelled(self._mac(context, payload) + payload)

    def open(self, context: bytes, token: str) -> dict[str, Place]:
        """Return the places of a token. Raises `InputError` for one that was not made here for this context."""
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
        return {source: _unpacked(rest) for source, *rest in json.loads(zlib.decompress(payload))}

    def _mac(self, context: bytes, payload: bytes) -> bytes:
        return hmac.digest(self._key, context + payload, "sha256")[:MAC_BYTES]


def context_of(*parts: str) -> bytes:
    """Return what binds a token to verb, query, user and source: a hash in which no part runs into the next."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "big"))
        digest.update(encoded)
    return digest.digest()


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


def _spelled(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _foreign() -> InputError:
    return InputError("page_token", "not a token of this very query, user and source; ask again without it")
