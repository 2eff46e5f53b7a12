"""base64url without padding: one text for the same bytes, and no other text is read."""

import pytest

from federation import base64url


@pytest.mark.parametrize("raw", [b"", b"\xff", b"\xfb\xff", b"abc", bytes(range(256))])
def test_bytes_come_back(raw: bytes) -> None:
    """The text has no padding and none of the characters that a URL escapes."""
    text = base64url.encode(raw)

    assert base64url.decode(text) == raw
    assert not {"=", "+", "/"} & set(text)


@pytest.mark.parametrize("text", ["_x", "_w==", "+w", "é", "a", "_w\n", "_w _w"])
def test_other_texts_are_refused(text: str) -> None:
    """Spare bits, padding, the other alphabet, blanks and characters that are not ASCII are errors."""
    with pytest.raises(ValueError):  # noqa: PT011 - the base64 module words the message
        base64url.decode(text)
