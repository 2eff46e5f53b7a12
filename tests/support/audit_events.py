"""Audit events for tests: of which day they are, and what stands in a file of the history."""

import gzip
from pathlib import Path
from typing import Any

import orjson

from federation.store.audit.archive import DAY_US
from federation.store.audit.model import AuditEvent

TODAY = 20_000
"""A day, counted from 1970: 2024-10-04."""


def event(day: int, second: int = 0, **changes: Any) -> AuditEvent:
    """An allowed read at a second of a day; every field is said, each with a value of its own."""
    defaults: dict[str, Any] = {
        "verb": "list",
        "outcome": "ok",
        "grant_id": "g",
        "peer": "home.example",
        "subject": "ada",
        "resource": "tasks",
        "query_hash": "a" * 64,
        "bytes_out": 2**40,
        "latency_ms": 0.1 + second,
        "trace_id": "b" * 32,
        "source": "127.0.0.1",
    }
    return AuditEvent(at_us=day * DAY_US + second * 1_000_000 + 1, **{**defaults, **changes})


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, as whoever reads it without this software sees them."""
    return [orjson.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def numbers(path: Path) -> list[int]:
    """The events' numbers in a file."""
    return [line["id"] for line in lines_of(path)]
