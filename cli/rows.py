"""Rows as people read them."""

from typing import Any, Final

import orjson

from cli import render, shapes
from federation.v1 import admin_pb2 as pb

__all__ = ["listing", "show"]

HEADLINES: Final = ("title", "name", "subject", "summary", "text", "body", "content")
"""Fields of a row that say what it is about, in the order of preference."""


def listing(reply: pb.QueryResponse, *, search: bool) -> None:
    """Print rows as a table, and where they came from."""
    columns = ("id", "source", "cached", "owner", "team", "match" if search else "about")
    render.table(
        columns,
        (
            (
                row.row.id,
                row.source,
                "yes" if row.cached else "no",
                row.row.owner,
                row.row.team or "-",
                _one_line(row.snippet) if search else _headline(row.row.data),
            )
            for row in reply.rows
        ),
        shrink=columns[-1],
    )
    count = f"{len(reply.rows)} row{'' if len(reply.rows) == 1 else 's'}"
    render.say(f"{count} from {reply.source} in {reply.latency_ms:.0f} ms")
    if reply.next_page_token:
        render.say(f"more: --page-token {reply.next_page_token}")


def show(row: pb.QueryRow) -> None:
    """Print one row, field by field."""
    shape = shapes.row(row)
    data: Any = shape.pop("data")
    pairs = [(name, _text(value)) for name, value in shape.items()]
    pairs += [(name, _text(value)) for name, value in data.items()] if isinstance(data, dict) else [("data", str(data))]
    render.facts(pairs)


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
