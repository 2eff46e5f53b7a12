"""Parsing and formatting of `traceparent` (W3C Trace Context, level 1)."""

import re
from typing import Final, NamedTuple

SAMPLED: Final = 0x01
_FORM: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII | re.DOTALL)
MAX_LENGTH: Final = 512
"""Maximum length of a parsed value, well above that of any version."""


class TraceParent(NamedTuple):
    """A remote span. `str()` returns the header in version 00."""

    trace_id: int
    span_id: int
    sampled: bool = False

    def __str__(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.sampled:02x}"


def parse_traceparent(value: str | None) -> TraceParent | None:
    """Parse a `traceparent` or `traceresponse`; return `None` if the specification calls it invalid.

    As the specification requires, later versions are parsed like version 00 and flags except `sampled` are dropped.
    """
    found = _FORM.fullmatch(value) if value is not None and len(value) <= MAX_LENGTH else None
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest is not None):
        return None
    parsed = TraceParent(int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & SAMPLED))
    return parsed if parsed.trace_id and parsed.span_id else None
