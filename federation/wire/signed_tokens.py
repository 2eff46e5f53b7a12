"""Opaque tokens: a payload with a MAC that binds it to a context. Pure."""

import base64
import binascii
import hashlib
import hmac
from typing import Final

__all__ = ["MAC_BYTES", "TokenSeal", "context_of"]

MAC_BYTES: Final = 16


class TokenSeal:
    """Creates and opens tokens under one secret key: MAC and payload in unpadded base64url."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, context: bytes, payload: bytes) -> str:
        """Return the token for a payload in a context."""
        return _b64url(self._mac(context, payload) + payload)

    def open(self, context: bytes, token: str) -> bytes | None:
        """Return the payload, or `None` for a malformed token or a token of another key or context."""
        try:
            raw = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        mac, payload = raw[:MAC_BYTES], raw[MAC_BYTES:]
        # Several base64 texts decode to the same bytes, which the MAC cannot tell apart; accept only the canonical one.
        if _b64url(raw) != token or not hmac.compare_digest(mac, self._mac(context, payload)):
            return None
        return payload

    def _mac(self, context: bytes, payload: bytes) -> bytes:
        return hmac.digest(self._key, context + payload, "sha256")[:MAC_BYTES]


def context_of(*parts: str) -> bytes:
    """Return a SHA-256 hash of the parts, each with its length, so that their boundaries are unambiguous."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "big"))
        digest.update(encoded)
    return digest.digest()


def _b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
