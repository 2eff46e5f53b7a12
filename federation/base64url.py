"""base64url without padding (RFC 4648, section 5): the encoding of tokens."""

import base64


def encode(raw: bytes) -> str:
    """Return the text of some bytes."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """Return the bytes of a text; raise `ValueError` if the text is not the canonical encoding.

    base64 has several texts for the same bytes. A checksum or MAC of the bytes does not distinguish the texts.
    """
    raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if encode(raw) != text:
        raise ValueError("is not the canonical base64url of its bytes")
    return raw
