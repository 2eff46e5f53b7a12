"""Parsing of instants that operators type, and formatting of instants and durations."""

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

FORMS: Final = "2h, 3d, 1w, today, yesterday, 2026-05-03 or 2026-05-03T10:00:00Z"
_AGO: Final = re.compile(r"(?:\d{1,6}[smhdw])+\Z", re.ASCII)
_PART: Final = re.compile(r"(\d+)([smhdw])")
UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}
"""Seconds of each unit that an operator types."""
_ABSOLUTE: Final = re.compile(
    r"\d{4}-\d\d-\d\d(?:[Tt ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:[Zz]|[+-]\d\d:?\d\d)?)?\Z", re.ASCII
)


def parse_instant(text: str, now: datetime) -> datetime:
    """Return the instant, in UTC, that a text names: a time before now, the start of a day, or RFC 3339.

    Raises `ValueError` with a message for the operator.
    """
    typed = text.strip()
    word = typed.lower()
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    try:
        if word in {"now", "today", "yesterday"}:
            return {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}[word]
        if _AGO.match(word):
            return now - timedelta(seconds=sum(int(count) * UNITS[unit] for count, unit in _PART.findall(word)))
        if _ABSOLUTE.match(typed):
            instant = datetime.fromisoformat(typed.upper())
            return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{text!r} is not a point in time; use {FORMS}")


MINUTE: Final = 60
HOUR: Final = 3_600
DAY: Final = 86_400


def duration(length_s: float) -> str:
    """Return a duration in the largest unit that fits: `12 s`, `4 min`, `7 h`, `3 d`."""
    for unit, unit_s in (("d", DAY), ("h", HOUR), ("min", MINUTE)):
        if length_s >= 2 * unit_s:
            return f"{round(length_s / unit_s)} {unit}"
    return f"{max(0, round(length_s))} s"


def distance(ahead_s: float) -> str:
    """Return a signed duration relative to now: `in 7 h`, `3 s ago`."""
    return f"in {duration(ahead_s)}" if ahead_s > 0 else f"{duration(-ahead_s)} ago"


def seconds(stamp: Timestamp) -> float:
    """Return an instant in Unix seconds."""
    return stamp.seconds + stamp.nanos / 1e9


def moment(stamp: Timestamp, now: float) -> str:
    """Return an instant relative to now and as clock time: `3 s ago (12:14:02 UTC)`."""
    then = _utc(stamp)
    if then is None:
        return "at an unknown time"
    today = then.date() == datetime.fromtimestamp(now, UTC).date()
    clock = f"{then:%H:%M:%S} UTC" if today else f"{then:%Y-%m-%d %H:%M} UTC"
    return f"{distance(seconds(stamp) - now)} ({clock})"


def when(message: Message, field: str, absent: str = "-") -> str:
    """Return a timestamp field relative to now, or `absent` if it is not set."""
    return distance(seconds(getattr(message, field)) - time.time()) if message.HasField(field) else absent


def dated(message: Message, field: str, absent: str = "-") -> str:
    """Return a timestamp field as `2026-01-31 12:00:00 UTC (3 h ago)`, or `absent` if it is not set."""
    then = _utc(getattr(message, field)) if message.HasField(field) else None
    return absent if then is None else f"{then:%Y-%m-%d %H:%M:%S} UTC ({when(message, field)})"


def _utc(stamp: Timestamp) -> datetime | None:
    """Return an instant to the second, or `None` if its number is out of range: a peer may send any number."""
    try:
        return datetime.fromtimestamp(stamp.seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return None
