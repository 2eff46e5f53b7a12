"""Opaque tokens: bytes under a MAC that binds them to what they belong to. Pure."""

import base64
import binascii
import hashlib
import hmac
from typing import Final

__all__ = ["MAC_BYTES", "TokenSeal", "context_of"]

MAC_BYTES: Final = 16


class TokenSeal:
    """Makes and reads tokens under one secret key: base64url without padding of MAC and payload."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, context: bytes, payload: bytes) -> str:
        """Return the token of a payload in a context."""
        return _b64url(self._mac(context, payload) + payload)

    def open(self, context: bytes, token: str) -> bytes | None:
        """Return the payload; `None` for a token of another key or context, and for what is none at all."""
        try:
            raw = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        mac, payload = raw[:MAC_BYTES], raw[MAC_BYTES:]
        # Base64 has several spellings of the same bytes, of which the MAC sees nothing: only the one made here counts.
        if _b64url(raw) != token or not hmac.compare_digest(mac, self._mac(context, payload)):
            return None
        return payload

    def _mac(self, context: bytes, payload: bytes) -> bytes:
        return hmac.digest(self._key, context + payload, "sha256")[:MAC_BYTES]


def context_of(*parts: str) -> bytes:
    """Return a hash of parts, in which none runs into the next."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "big"))
        digest.update(encoded)
    return digest.digest()


def _b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
