"""Opaque tokens: a payload with a MAC that binds it to a context. Pure."""

import hashlib
import hmac
from typing import Final

from federation import base64url

MAC_BYTES: Final = 16


class TokenSeal:
    """Creates and opens tokens under one secret key: MAC and payload in unpadded base64url."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, context: bytes, payload: bytes) -> str:
        """Return the token for a payload in a context."""
        return base64url.encode(self._mac(context, payload) + payload)

    def open(self, context: bytes, token: str) -> bytes | None:
        """Return the payload, or `None` for a malformed token or a token of another key or context."""
        try:
            raw = base64url.decode(token)
        except ValueError:
            return None
        mac, payload = raw[:MAC_BYTES], raw[MAC_BYTES:]
        return payload if hmac.compare_digest(mac, self._mac(context, payload)) else None

    def _mac(self, context: bytes, payload: bytes) -> bytes:
        return hmac.digest(self._key, context + payload, "sha256")[:MAC_BYTES]


def context_of(*parts: str) -> bytes:
    """Return a SHA-256 hash of the parts, each with its length, so that their boundaries are unambiguous."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(4, "big"))
        digest.update(encoded)
    return digest.digest()
