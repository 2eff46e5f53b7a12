"""Tables and messages on the terminal.

Data goes to standard output and messages to standard error. Only a terminal gets colours.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from federation.v1 import admin_pb2 as pb
from mosaic_cli.output.errors import clean
from mosaic_cli.output.layout import GAP, LEAST, WIDE, state
from mosaic_cli.output.times import dated, duration

Cell = str | Text
Fact = tuple[Cell, Cell]
"""A name and its value."""


def stdout_console() -> Console:
    """Return a console on the current standard output."""
    width = None if is_bounded() else WIDE
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False, width=width)


def is_bounded() -> bool:
    """Return whether the width of standard output is limited, by a terminal or by `COLUMNS`."""
    return sys.stdout.isatty() or "COLUMNS" in os.environ


def write(text: str) -> None:
    """Write a line of data to standard output, unchanged."""
    sys.stdout.write(f"{text}\n")


def flush() -> None:
    """Flush standard output."""
    sys.stdout.flush()


def message(text: str) -> None:
    """Print a message to standard error, apart from the data."""
    sys.stdout.flush()
    sys.stderr.write(f"{clean(text)}\n")


def heading(name: str, text: str) -> None:
    """Print the heading of a section and its description."""
    grid = Table.grid(padding=(0, 2))
    grid.add_row(Text(clean(name), style="bold"), Text(clean(text), style="dim"))
    _print(stdout_console(), grid)


def table(
    columns: Sequence[str], lines: Iterable[Sequence[Cell]], *, fold: Sequence[str] = (), shrink: str = ""
) -> None:
    """Print a table. If it is too wide, the column `shrink` is truncated and the columns in `fold` are wrapped."""
    screen = stdout_console()
    cells = [[Text(clean(cell)) if isinstance(cell, str) else cell for cell in line] for line in lines]
    if shrink:
        _truncate(columns, cells, shrink, screen.width)
    grid = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for name in columns:
        grid.add_column(name.upper(), overflow="fold" if name in fold else "ellipsis", no_wrap=name not in fold)
    for line in cells:
        grid.add_row(*line)
    _print(screen, grid)


def facts(pairs: Iterable[Fact]) -> None:
    """Print names and values, one pair a line."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(name, clean(value) if isinstance(value, str) else value)
    _print(stdout_console(), grid)


def certificate_facts(message: pb.CertificateInfo) -> Iterator[Fact]:
    """Yield the facts of a certificate, which may be unreadable."""
    life = message.not_after.seconds - message.not_before.seconds
    yield "certificate", f"{message.serial}, for {duration(life)}" if message.serial else "cannot be read"
    yield "fingerprint", message.fingerprint or "-"
    yield "valid from", dated(message, "not_before")
    yield "ends", dated(message, "not_after")


def _truncate(columns: Sequence[str], cells: list[list[Text]], shrink: str, width: int) -> None:
    """Truncate the cells of one column to the width that the other columns leave."""
    at = columns.index(shrink)
    others = [index for index in range(len(columns)) if index != at]
    used = sum(max([len(columns[index]), *(line[index].cell_len for line in cells)]) + GAP for index in others)
    for line in cells:
        line[at].truncate(max(LEAST, width - used), overflow="ellipsis")


def _print(screen: Console, grid: Table) -> None:
    """Print without the trailing blanks that rich adds."""
    with screen.capture() as captured:
        screen.print(grid)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def state_text(name: str) -> Text:
    """Return a state's symbol and name in its colour."""
    return Text(*state(name))
