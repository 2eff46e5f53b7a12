"""Lines of text with styles: laid out by plain functions, printed with colour where a terminal shows it."""

import sys
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from mosaic_cli.output.errors import clean

__all__ = [
    "GAP",
    "Line",
    "Span",
    "cells",
    "columns",
    "labelled",
    "plain",
    "plural",
    "print_lines",
    "span",
    "state",
    "summary",
    "wrapped",
]

GAP: Final = 2
"""Blanks between columns."""
LEAST: Final = 10
"""Characters that a line of text keeps, however narrow the terminal is."""


LOOKS: Final = {
    "active": ("green", "●"),
    "closed": ("green", "●"),
    "pending": ("yellow", "◌"),
    "not seen": ("yellow", "◌"),
    "failing": ("yellow", "◑"),
    "degraded": ("yellow", "◐"),
    "half_open": ("yellow", "◐"),
    "offline": ("red", "○"),
    "open": ("red", "○"),
    "revoked": ("red", "✕"),
    "expired": ("red", "✕"),
}
"""Colour and symbol of each state of a peer, a grant and a circuit."""


class Span(NamedTuple):
    """Text in one style; an empty style is the terminal's own."""

    text: str
    style: str = ""


Line = tuple[Span, ...]


def span(text: str, style: str = "") -> Span:
    """Return text that cannot steer a terminal."""
    return Span(clean(text).replace("\n", " ").replace("\t", " "), style)


def state(word: str) -> Span:
    """Return the word of a state with its symbol, in its colour: the colour alone never tells anything."""
    colour, symbol = LOOKS.get(word, ("", "·"))
    return Span(f"{symbol} {word}", colour)


def summary(noun: str, words: Sequence[str], order: Iterable[str]) -> list[Span]:
    """Return how often each word of a state comes, in an order: `50 peers: 47 active, 2 offline, 1 revoked`."""
    counts = Counter(words)
    parts = [Span(plural(len(words), noun), "bold")]
    for word in (word for word in order if counts[word]):
        parts += [Span(": " if len(parts) == 1 else ", "), Span(f"{counts[word]} {word}", LOOKS[word][0])]
    return parts


def plain(line: Line) -> str:
    """Return a line without its styles."""
    return "".join(part.text for part in line).rstrip()


def cells(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def wrapped(text: str, width: int, *, indent: int = 0, style: str = "") -> list[Line]:
    """Return a text in as many lines as it takes, every one indented; nothing of it is cut off."""
    text = span(text).text
    # A wide character takes two columns; to count every one as two is simple and never too much.
    room = (
        max(width - indent, LEAST) if text.isascii() or cells(text) == len(text) else max((width - indent) // 2, LEAST)
    )
    blank = Span(" " * indent)
    return [(blank, Span(part, style)) for part in textwrap.wrap(text, room, break_on_hyphens=False)]


def labelled(label: Span, text: str, width: int, style: str = "") -> list[Line]:
    """Return a text in lines beside its label, which is as wide as the column; no lines where there is no text."""
    lines = wrapped(text, width, indent=cells(label.text), style=style)
    return [(label, *lines[0][1:]), *lines[1:]] if lines else []


def plural(count: int, noun: str, many: str = "") -> str:
    """Return a count with its noun."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def columns(rows: Sequence[Sequence[Span]], *, indent: int = 0) -> list[Line]:
    """Return rows with their columns one under the other; numbers and words alike begin at the left."""
    widths = [max(cells(row[at].text) for row in rows) for at in range(len(rows[0]))] if rows else []
    return [_padded(row, widths, indent) for row in rows]


def _padded(row: Sequence[Span], widths: Sequence[int], indent: int) -> Line:
    parts = [Span(" " * indent)] if indent else []
    for part, width in zip(row, widths, strict=True):
        parts += [part, Span(" " * (width - cells(part.text) + GAP))]
    return tuple(parts)


def print_lines(lines: Iterable[Line]) -> None:
    """Print lines as data: with their styles on a terminal, as plain text elsewhere."""
    if not sys.stdout.isatty():
        sys.stdout.write("".join(f"{plain(line)}\n" for line in lines))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    for line in lines:
        text = Text.assemble(*line)
        text.rstrip()
        console.print(text, soft_wrap=True)
