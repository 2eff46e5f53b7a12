"""Tables for people. Data goes to standard output, words to standard error; colour only on a terminal."""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mosaic_cli.output.errors import clean
from mosaic_cli.output.layout import state

__all__ = ["facts", "flush", "heading", "is_bounded", "message", "state_text", "stdout_console", "table", "write"]

WIDE: Final = 110
"""Columns of a table that no terminal bounds."""
GAP: Final = 2
"""Blanks between columns."""
LEAST: Final = 10
"""Characters that a column keeps, however narrow the terminal is."""
Cell = str | Text


def stdout_console() -> Console:
    """Return the console of standard output as it is now."""
    width = None if is_bounded() else WIDE
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False, width=width)


def is_bounded() -> bool:
    """Tell whether lines of standard output may only be so long: there is a terminal, or `COLUMNS` says so."""
    return sys.stdout.isatty() or "COLUMNS" in os.environ


def write(text: str) -> None:
    """Print data as it is."""
    sys.stdout.write(f"{text}\n")


def flush() -> None:
    """Let what was printed be read now."""
    sys.stdout.flush()


def message(text: str) -> None:
    """Print words for the person at the terminal, out of the way of the data."""
    sys.stdout.flush()
    sys.stderr.write(f"{clean(text)}\n")


def heading(name: str, text: str) -> None:
    """Print the name of a part of the output, and words about it."""
    grid = Table.grid(padding=(0, 2))
    grid.add_row(Text(clean(name), style="bold"), Text(clean(text), style="dim"))
    _print(stdout_console(), grid)


def table(
    columns: Sequence[str], lines: Iterable[Sequence[Cell]], *, fold: Sequence[str] = (), shrink: str = ""
) -> None:
    """Print a table. Where it is too wide, the column `shrink` is cut, and those in `fold` are broken into lines."""
    screen = stdout_console()
    cells = [[Text(clean(cell)) if isinstance(cell, str) else cell for cell in line] for line in lines]
    if shrink:
        _cut(columns, cells, shrink, screen.width)
    grid = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for name in columns:
        grid.add_column(name.upper(), overflow="fold" if name in fold else "ellipsis", no_wrap=name not in fold)
    for line in cells:
        grid.add_row(*line)
    _print(screen, grid)


def facts(pairs: Iterable[tuple[Cell, Cell]]) -> None:
    """Print names and values, one pair a line."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(name, clean(value) if isinstance(value, str) else value)
    _print(stdout_console(), grid)


def _cut(columns: Sequence[str], cells: list[list[Text]], shrink: str, width: int) -> None:
    """Cut the cells of one column to what the others leave of a line."""
    at = columns.index(shrink)
    others = [index for index in range(len(columns)) if index != at]
    used = sum(max([len(columns[index]), *(line[index].cell_len for line in cells)]) + GAP for index in others)
    for line in cells:
        line[at].truncate(max(LEAST, width - used), overflow="ellipsis")


def _print(screen: Console, grid: Table) -> None:
    """Print without the blanks by which rich fills its lines."""
    with screen.capture() as captured:
        screen.print(grid)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def state_text(word: str) -> Text:
    """Return the word of a state with its symbol, in its colour."""
    return Text(*state(word))
