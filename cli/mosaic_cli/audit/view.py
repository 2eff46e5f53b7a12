"""The table of audit events: one line each, with the reason in the last column or on a second line."""

import sys
from collections.abc import Iterable, Sequence
from typing import Final

from rich.text import Text

from federation.v1 import admin_pb2 as pb
from mosaic_cli.output import console, models
from mosaic_cli.output.errors import clean

LOOKS: Final = {
    "ok": ("green", "✓"),
    "denied": ("bold red", "✕"),
    "error": ("bold red", "✕"),
    "rate_limited": ("yellow", "◐"),
    "invalid": ("yellow", "!"),
    "not_found": ("yellow", "○"),
    "offline": ("red", "○"),
    "timeout": ("red", "○"),
    "cancelled": ("dim", "·"),
}
COLUMNS: Final = ("AT (UTC)", "OUTCOME", "WHO", "WHAT", "REASON")
AT_WIDTH: Final = 19
GAP: Final = "  "
LEAST: Final = 12
"""Least width of a shrunk column."""
HERE: Final = {"admin": "operator", "gateway": "gateway"}
"""Sources of acts of this gateway and its operator, and their names in the column WHO."""


class AuditLines:
    """Prints events under one heading. Columns widen with later events, within the terminal's width."""

    def __init__(self) -> None:
        self._console = console.stdout_console()
        self._bounded = self._console.width if console.is_bounded() else 0
        self._widths = [AT_WIDTH, len(COLUMNS[1]), len(COLUMNS[2]), len(COLUMNS[3])]
        self._heading_printed = False

    def show(self, events: Iterable[pb.AuditEvent]) -> None:
        """Print events on one or two lines each."""
        lines = [_cells(event) for event in events]
        if not lines:
            return
        self._fit(lines)
        if not self._heading_printed:
            self._print([Text(name, style="bold") for name in COLUMNS], heading=True)
            self._heading_printed = True
        for cells in lines:
            self._print(cells)
        console.flush()

    def _fit(self, lines: Sequence[Sequence[Text]]) -> None:
        for index in range(1, len(self._widths)):
            self._widths[index] = max(self._widths[index], *(line[index].cell_len for line in lines))
        if self._bounded:
            left = self._bounded - sum(self._widths[:2]) - 3 * len(GAP)
            # Shrink WHO before WHAT: a name is recognizable by its start.
            self._widths[2] = max(LEAST, min(self._widths[2], left - self._widths[3]))
            self._widths[3] = max(LEAST, min(self._widths[3], left - self._widths[2]))

    def _print(self, cells: Sequence[Text], *, heading: bool = False) -> None:
        line = Text()
        for cell, width in zip(cells, self._widths, strict=False):
            shown = cell.copy()
            shown.truncate(width, overflow="ellipsis", pad=True)
            line.append_text(shown).append(GAP)
        reason = cells[-1]
        if not self._bounded or reason.cell_len <= self._bounded - line.cell_len:
            self._write(line.append_text(reason))
            return
        self._write(line)
        if not heading:
            self._write(Text(" " * (AT_WIDTH + len(GAP))).append_text(reason))

    def _write(self, line: Text) -> None:
        line.rstrip()
        with self._console.capture() as captured:
            self._console.print(line, soft_wrap=True)
        sys.stdout.write(captured.get())


def _cells(event: pb.AuditEvent) -> list[Text]:
    who, what = _who_and_what(event)
    colour, symbol = LOOKS.get(event.outcome, ("", "·"))
    times = f" x{event.count}" if event.count > 1 else ""
    return [
        Text((models.instant(event, "at") or "?")[:AT_WIDTH].replace("T", " ")),
        Text(clean(f"{symbol} {event.outcome}{times}"), style=colour),
        Text(clean(who)),
        Text(clean(what)),
        Text(clean(event.reason), style="" if event.outcome == "ok" else colour),
    ]


def _who_and_what(event: pb.AuditEvent) -> tuple[str, str]:
    """Return the columns WHO and WHAT."""
    party = "/".join(filter(None, (event.peer, event.subject)))
    if event.source in HERE:
        return HERE[event.source], " ".join(filter(None, (event.verb, event.resource or party)))
    what = " ".join(filter(None, (event.verb, event.resource)))
    return party or (f"from {event.source}" if event.source else "-"), what
