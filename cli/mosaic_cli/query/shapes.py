"""JSON objects of `query` and the MCP tools."""

from typing import Final

from federation.v1 import admin_pb2 as pb
from mosaic_cli.output import shapes
from mosaic_cli.output.errors import advised, remedy_in
from mosaic_cli.output.models import Shape, Signal, SourceCapabilities, SourceReport, fill
from mosaic_cli.query.answers import Answers

DECIMALS: Final = 3


def rows(answers: Answers, *, search: bool = False) -> Shape:
    """Return the rows of all sources, the report of each source, and the next page token."""
    return {
        "rows": [shapes.row(row, search=search) for row in answers.rows],
        **_sources(answers),
        "next_page_token": answers.next_page_token or None,
    }


def found(answers: Answers) -> Shape:
    """Return the row found by its id. `rows` has it once for each source that has such a row."""
    rows = [shapes.row(row) for row in answers.rows]
    return {"row": rows[0] if rows else None, "rows": rows, **_sources(answers)}


def capabilities(answers: Answers, source: str) -> Shape:
    """Return the capabilities of each source. The key `capabilities` is `None` unless a single source was named."""
    opened = answers.capabilities
    return {
        "capabilities": shapes.capabilities(opened[source]) if source in opened else None,
        "_source": source,
        "by_source": [fill(SourceCapabilities, one, _source=name) for name, one in opened.items()],
        **_sources(answers),
    }


def report(message: pb.SourceReport) -> Shape:
    """Return the report of one source."""
    return fill(
        SourceReport,
        message,
        next_step=advised(message.next_step, remedy_in(message)) or None,
        latency_ms=round(message.latency_ms, DECIMALS),
        retry_after_s=round(message.retry_after_s, DECIMALS) or None,
    )


def signal(message: pb.PeerSignal) -> Shape:
    """Return a signal on one peer."""
    return fill(Signal, message, next_step=advised(message.next_step, remedy_in(message)) or None)


def _sources(answers: Answers) -> Shape:
    return {
        "sources": [report(one) for one in answers.sources],
        "signals": [signal(one) for one in answers.signals],
        "partial": answers.partial,
    }
