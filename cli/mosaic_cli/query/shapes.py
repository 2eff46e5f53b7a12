"""The JSON objects of what `query` and the MCP tools print."""

from typing import Final

from federation.v1 import admin_pb2 as pb
from mosaic_cli.output import shapes
from mosaic_cli.output.errors import advised, remedy_in
from mosaic_cli.output.models import Shape, Signal, SourceCapabilities, SourceReport, fill
from mosaic_cli.query.answers import Answers

__all__ = ["capabilities", "found", "report", "rows", "signal"]

DECIMALS: Final = 3


def rows(answers: Answers, *, search: bool = False) -> Shape:
    """Return the rows of all sources, what became of each source, and how to go on."""
    return {
        "rows": [shapes.row(row, search=search) for row in answers.rows],
        **_sources(answers),
        "next_page_token": answers.next_page_token or None,
    }


def found(answers: Answers) -> Shape:
    """Return the row that was asked for by its id; in `rows` as often as there are sources which have such a row."""
    found = [shapes.row(row) for row in answers.rows]
    return {"row": found[0] if found else None, "rows": found, **_sources(answers)}


def capabilities(answers: Answers, source: str) -> Shape:
    """Return what each source opens. `capabilities` is that of a single source which was named, else `None`."""
    opened = answers.capabilities
    return {
        "capabilities": shapes.capabilities(opened[source]) if source in opened else None,
        "_source": source,
        "by_source": [fill(SourceCapabilities, one, _source=name) for name, one in opened.items()],
        **_sources(answers),
    }


def report(message: pb.SourceReport) -> Shape:
    """Return the outcome at one source."""
    return fill(
        SourceReport,
        message,
        next_step=advised(message.next_step, remedy_in(message)) or None,
        latency_ms=round(message.latency_ms, DECIMALS),
        retry_after_s=round(message.retry_after_s, DECIMALS) or None,
    )


def signal(message: pb.PeerSignal) -> Shape:
    """Return a signal of the session about one peer."""
    return fill(Signal, message, next_step=advised(message.next_step, remedy_in(message)) or None)


def _sources(answers: Answers) -> Shape:
    return {
        "sources": [report(one) for one in answers.sources],
        "signals": [signal(one) for one in answers.signals],
        "partial": answers.partial,
    }
