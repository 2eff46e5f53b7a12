"""Instants as a person types them."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.message import Message

from mosaic_cli.output import console as render
from mosaic_cli.output import shapes

__all__ = ["FORMS", "moment", "parse_instant"]


FORMS: Final = "2h, 3d, 1w, today, yesterday, 2026-05-03 or 2026-05-03T10:00:00Z"
_AGO: Final = re.compile(r"(?:\d{1,6}[smhdw])+\Z", re.ASCII)
_PART: Final = re.compile(r"(\d+)([smhdw])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}
_ABSOLUTE: Final = re.compile(
    r"\d{4}-\d\d-\d\d(?:[Tt ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:[Zz]|[+-]\d\d:?\d\d)?)?\Z", re.ASCII
)


def parse_instant(text: str, now: datetime) -> datetime:
    """Return the instant that a text means: so long ago, a day's beginning, or RFC 3339, all in UTC.

    Raises `ValueError` in words.
    """
    typed = text.strip()
    word = typed.lower()
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    try:
        if word in {"now", "today", "yesterday"}:
            return {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}[word]
        if _AGO.match(word):
            return now - timedelta(seconds=sum(int(count) * _SECONDS[unit] for count, unit in _PART.findall(word)))
        if _ABSOLUTE.match(typed):
            instant = datetime.fromisoformat(typed.upper())
            return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{text!r} is no instant; give {FORMS}")


def moment(message: Message, field: str, absent: str = "-") -> str:
    """Return a timestamp field as `2026-01-31 12:00:00 UTC (3 h ago)`."""
    text = shapes.instant(message, field)
    return f"{text[:19].replace('T', ' ')} UTC ({render.when(message, field)})" if text else absent
