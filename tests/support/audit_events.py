"""Audit events for tests, and readers of archived audit files."""

import gzip
from pathlib import Path
from typing import Any

import orjson

from federation.store.audit.archive import DAY_US
from federation.store.audit.model import AuditEvent

TODAY = 20_000
"""Days since 1970-01-01: 2024-10-04."""


def audit_event(at_us: int, **changes: Any) -> AuditEvent:
    """An allowed read; every field has a distinct value."""
    defaults: dict[str, Any] = {
        "verb": "list",
        "outcome": "ok",
        "grant_id": "g",
        "peer": "home.example",
        "subject": "ada",
        "resource": "tasks",
        "query_hash": "a" * 64,
        "bytes_out": 2**40,
        "latency_ms": 1.5,
        "trace_id": "b" * 32,
        "source": "127.0.0.1",
    }
    return AuditEvent(at_us=at_us, **{**defaults, **changes})


def event(day: int, second: int = 0, **changes: Any) -> AuditEvent:
    """An allowed read at a second of a day."""
    return audit_event(day * DAY_US + second * 1_000_000 + 1, **{"latency_ms": 0.1 + second, **changes})


def archived_events(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of an archived file, read without the project's code."""
    return [orjson.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def archived_ids(path: Path) -> list[int]:
    """The ids of the events in an archived file."""
    return [line["id"] for line in archived_events(path)]
