"""Text that another party wrote, made safe for messages, logs and terminals."""

from typing import Final

MAX_MESSAGE: Final = 300
"""Characters of another party's message that are shown or kept."""
MAX_NAME: Final = 64


def printable(text: str, most: int = MAX_MESSAGE) -> str:
    """Return the first `most` characters of a text, with `?` for every character that is not printable."""
    text = text[:most]
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def escaped(name: str) -> str:
    """Return a name from a request or a file as short ASCII, with escapes for all other characters."""
    return name[:MAX_NAME].encode("unicode_escape").decode() or "(empty)"
