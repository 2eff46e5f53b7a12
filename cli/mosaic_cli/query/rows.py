"""Tables of rows, and messages on the sources of the rows."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from federation.v1 import admin_pb2 as pb
from federation.v1 import federation_pb2
from mosaic_cli.output import console, shapes
from mosaic_cli.output.errors import advised, remedy_in, simplify_grpc_error
from mosaic_cli.output.layout import plural
from mosaic_cli.output.times import duration, when
from mosaic_cli.query.answers import ANSWERED, Answers

HEADLINES: Final = ("title", "name", "subject", "summary", "text", "body", "content")
"""Fields that hold the title of a row, in the order of preference."""


def table(rows: Iterable[pb.QueryRow], *, search: bool, tagged: bool = True) -> None:
    """Print rows; `tagged` adds the column of their source."""
    last = "match" if search else "about"
    console.table(
        ("id", *(("source",) if tagged else ()), "cached", "owner", "team", last),
        (
            (
                row.row.id,
                *((row.source,) if tagged else ()),
                "yes" if row.cached else "no",
                row.row.owner,
                row.row.team or "-",
                _one_line(row.snippet) if search else _headline(row.row.data),
            )
            for row in rows
        ),
        shrink=last,
    )


class LiveTable:
    """Prints the answer of each source as it arrives, under its own heading."""

    def __init__(self, *, search: bool) -> None:
        self._search, self._started = search, False
        self._rows: dict[str, list[pb.QueryRow]] = {}

    def show(self, part: pb.QueryResponse) -> None:
        """Add a message. Prints a source's rows when its answer is complete, or a message if it did not answer."""
        rows = self._rows.setdefault(part.source, [])
        rows.extend(part.rows)
        if not part.HasField("report"):
            return
        del self._rows[part.source]
        if part.report.state not in ANSWERED:
            _print_missing(part.report)
            return
        if self._started:
            console.write("")
        self._started = True
        console.heading(part.source, _outcome(part.report, rows))
        if rows:
            table(rows, search=self._search, tagged=False)
        console.flush()


def show(rows: Iterable[pb.QueryRow]) -> None:
    """Print rows field by field."""
    for number, row in enumerate(rows):
        if number:
            console.write("")
        shape = shapes.row(row)
        data: Any = shape.pop("data")
        pairs = [(name, _text(value)) for name, value in shape.items()]
        own = data.items() if isinstance(data, dict) else [("data", str(data))]
        console.facts(pairs + [(name, _text(value)) for name, value in own])


def print_capabilities(capabilities: federation_pb2.CapabilitiesResponse) -> None:
    """Print the capabilities of a source."""
    console.facts(
        (
            ("gateway", f"{capabilities.gateway} ({capabilities.gateway_version or 'version unknown'})"),
            ("resources", ", ".join(capabilities.resources) or "-"),
            ("excluded", ", ".join(capabilities.excluded_resources) or "-"),
            ("rows a query", str(capabilities.max_rows_per_query)),
            ("verbs", ", ".join(capabilities.verbs)),
        )
    )


def close(answers: Answers, *, reported: bool = False, count: bool = True) -> None:
    """Print the number of rows, the signals, the missing sources with the reasons, and the next page token.

    With `reported`, the missing sources have been reported before and are omitted.
    """
    if count:
        console.message(f"{plural(len(answers.rows), 'row')} from {_origin(answers)}")
    print_signals(answers)
    for report in [] if reported else answers.missing:
        _print_missing(report)
    if answers.next_page_token:
        console.message(f"more: --page-token {answers.next_page_token}")


def print_signals(answers: Answers) -> None:
    """Print the signals of this query."""
    for signal in answers.signals:
        console.message(_signal_text(signal))


def _outcome(report: pb.SourceReport, rows: Sequence[pb.QueryRow]) -> str:
    if report.state == "cached" and rows:
        return f"{plural(len(rows), 'row')} from the cache, {duration(rows[0].age_s)} old"
    return f"{plural(len(rows), 'row')} in {report.latency_ms:.0f} ms"


def _origin(answers: Answers) -> str:
    slowest = max((report.latency_ms for report in answers.sources), default=0.0)
    if len(answers.sources) == 1:
        return f"{answers.sources[0].source} in {slowest:.0f} ms"
    present = len(answers.sources) - len(answers.missing)
    return f"{present} of {len(answers.sources)} sources in {slowest:.0f} ms"


def _print_missing(report: pb.SourceReport) -> None:
    """Print in one line why a source is missing, and the next step."""
    skipped = report.state == "skipped"  # reported in full before, and queried again automatically
    message = "" if skipped else simplify_grpc_error(report.message.removeprefix(f"{report.source}: "))
    line = f"{report.source}: {': '.join(part for part in (report.state, report.reason, message) if part)}"
    if report.retry_after_s:
        line += f"; {'queried' if skipped else 'try'} again in {duration(report.retry_after_s)}"
    elif report.next_step and not skipped:
        line += f"; {advised(report.next_step, remedy_in(report))}"
    console.message(line)


def _signal_text(signal: pb.PeerSignal) -> str:
    if signal.kind != "offline" or not signal.HasField("retry_at"):
        return signal.text
    return f"{signal.text}; queried again {when(signal, 'retry_at')}"


def _headline(text: str) -> str:
    try:
        data = orjson.loads(text)
    except orjson.JSONDecodeError:  # a peer may send anything
        return _one_line(text)
    if isinstance(data, dict):
        for name in HEADLINES:
            if isinstance(data.get(name), str):
                return _one_line(data[name])
    return _one_line(text)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _text(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return value if isinstance(value, str) else orjson.dumps(value).decode()
