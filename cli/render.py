"""Tables for people. Data goes to standard output, words to standard error; colour only on a terminal."""

import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.words import ago, clean

__all__ = ["facts", "flush", "out", "say", "state_text", "table", "when"]

WIDE: Final = 110
"""Columns of a table that no terminal bounds."""
LOOKS: Final = {
    "active": ("green", "●"),
    "closed": ("green", "●"),
    "pending": ("yellow", "◌"),
    "half_open": ("yellow", "◐"),
    "degraded": ("yellow", "◐"),
    "offline": ("red", "○"),
    "open": ("red", "○"),
    "revoked": ("red", "✕"),
    "expired": ("red", "✕"),
}
Cell = str | Text


def console() -> Console:
    """Return the console of standard output as it is now."""
    bounded = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False, width=None if bounded else WIDE)


def out(text: str) -> None:
    """Print data as it is."""
    sys.stdout.write(f"{text}\n")


def flush() -> None:
    """Let what was printed be read now."""
    sys.stdout.flush()


def say(text: str) -> None:
    """Print words for the person at the terminal, out of the way of the data."""
    sys.stdout.flush()
    sys.stderr.write(f"{clean(text)}\n")


def table(columns: Sequence[str], lines: Iterable[Sequence[Cell]], *, whole: Sequence[str] = ()) -> None:
    """Print a table. Cells of the columns in `whole` are folded, never cut: they are there to be copied."""
    grid = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for name in columns:
        grid.add_column(name.upper(), overflow="fold" if name in whole else "ellipsis", no_wrap=name not in whole)
    for cells in lines:
        grid.add_row(*(clean(cell) if isinstance(cell, str) else cell for cell in cells))
    console().print(grid)


def facts(pairs: Iterable[tuple[str, Cell]]) -> None:
    """Print names and values, one pair a line."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(name, clean(value) if isinstance(value, str) else value)
    console().print(grid)


def state_text(state: str) -> Text:
    """Return a state with its symbol, in its colour: the colour alone never tells anything."""
    colour, symbol = LOOKS.get(state, ("", "·"))
    return Text(f"{symbol} {state}", style=colour)


def when(message: Message, field: str, absent: str = "-") -> str:
    """Return a timestamp field as a distance from now."""
    if not message.HasField(field):
        return absent
    stamp: Any = getattr(message, field)
    try:
        return ago(datetime.fromtimestamp(stamp.seconds, UTC))
    except (OverflowError, ValueError, OSError):  # a peer's row may hold any number
        return "?"
