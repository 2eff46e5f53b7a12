"""Layout of styled lines by pure functions, and their output with colours on a terminal."""

import sys
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from mosaic_cli.output.errors import clean

WIDE: Final = 110
"""Width in columns if standard output is no terminal."""
GAP: Final = 2
"""Blanks between columns."""
LEAST: Final = 10
"""Least width of wrapped text and of a shrunk column."""
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
    """Text in one style of rich; an empty style is the terminal's default."""

    text: str
    style: str = ""


TextLine = tuple[Span, ...]


def span(text: str, style: str = "") -> Span:
    """Return a span of untrusted text on one line, without control characters."""
    return Span(clean(text).replace("\n", " ").replace("\t", " "), style)


def state(name: str) -> Span:
    """Return a state's symbol and name in its colour. Colour is never the only sign of a state."""
    colour, symbol = LOOKS.get(name, ("", "·"))
    return Span(f"{symbol} {name}", colour)


def summary(noun: str, names: Sequence[str], order: Iterable[str]) -> list[Span]:
    """Return the number of each state in an order: `50 peers: 47 active, 2 offline, 1 revoked`."""
    counts = Counter(names)
    parts = [Span(plural(len(names), noun), "bold")]
    for name in (name for name in order if counts[name]):
        parts += [Span(": " if len(parts) == 1 else ", "), Span(f"{counts[name]} {name}", LOOKS[name][0])]
    return parts


def plain(line: TextLine) -> str:
    """Return a line without its styles."""
    return "".join(part.text for part in line).rstrip()


def cells(text: str) -> int:
    """Return the width of a text in terminal columns."""
    if text.isascii():
        return len(text)
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def wrapped(text: str, width: int, *, indent: int = 0, style: str = "") -> list[TextLine]:
    """Return a text wrapped to a width, with every line indented. Nothing is truncated."""
    text = span(text).text
    # Wide characters take two columns. Counting every character as two is simple and never exceeds the width.
    room = (
        max(width - indent, LEAST) if text.isascii() or cells(text) == len(text) else max((width - indent) // 2, LEAST)
    )
    blank = Span(" " * indent)
    return [(blank, Span(part, style)) for part in textwrap.wrap(text, room, break_on_hyphens=False)]


def labelled(label: Span, text: str, width: int, style: str = "") -> list[TextLine]:
    """Return a text wrapped to the right of its label; no lines for an empty text."""
    lines = wrapped(text, width, indent=cells(label.text), style=style)
    return [(label, *lines[0][1:]), *lines[1:]] if lines else []


def plural(count: int, noun: str, many: str = "") -> str:
    """Return a count with its noun."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def columns(rows: Sequence[Sequence[Span]]) -> list[TextLine]:
    """Return rows as lines with aligned columns, all left-aligned."""
    widths = column_widths(rows)
    lines = []
    for row in rows:
        line: list[Span] = []
        for cell, width in zip(row, widths, strict=True):
            line += [cell, Span(" " * (width - cells(cell.text)))]
        lines.append(tuple(line))
    return lines


def column_widths(rows: Sequence[Sequence[Span]]) -> list[int]:
    """Return the width of each column, with the gap after it."""
    return [max(cells(cell.text) for cell in column) + GAP for column in zip(*rows, strict=True)]


def print_lines(lines: Iterable[TextLine]) -> None:
    """Print lines to standard output, with styles on a terminal and as plain text otherwise."""
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
