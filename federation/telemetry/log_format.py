"""Log formatters for text and JSON, with the ids of the current trace.

A line contains its message and the exception, never the rows of a request or answer. Control characters are escaped, so
that data from a peer can neither forge a line nor move a terminal's cursor.
"""

import logging
import sys
from datetime import UTC, datetime
from typing import Final, TextIO

import orjson
from opentelemetry import trace

from federation.config import TelemetryConfig

_ESCAPES: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_ESCAPES_OF_LINE: Final = {code: text for code, text in _ESCAPES.items() if code not in {9, 10}}


class TextFormatter(logging.Formatter):
    """`2026-11-23T18:13:48.123Z WARNING federation.x: message [trace 0af7…]`, then the traceback, if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        trace_id = _trace_fields().get("trace_id")
        line = f"{_instant(record)} {record.levelname} {record.name}: {record.getMessage()}".translate(_ESCAPES)
        if trace_id:
            line += f" [trace {trace_id}]"
        fault = self._fault(record)
        return f"{line}\n{fault}" if fault else line

    def _fault(self, record: logging.LogRecord) -> str:
        fault = self.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""
        return "\n".join(f"  {line}" for line in fault.translate(_ESCAPES_OF_LINE).splitlines())


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `time, level, logger, message`, and within a span `trace_id, span_id, trace_flags`.

    `exception` holds the traceback, if any.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        fields = {
            "time": _instant(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_trace_fields(),
        }
        if record.exc_info and record.exc_info[0]:
            fields["exception"] = self.formatException(record.exc_info)
        return orjson.dumps({key: encodable(value) for key, value in fields.items()}).decode()


def setup_logging(config: TelemetryConfig, stream: TextIO = sys.stderr, level: int = logging.INFO) -> None:
    """Send the log of the whole process to `stream` in the configured format, replacing existing handlers."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if config.log_format == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=level, force=True)


def _instant(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _trace_fields() -> dict[str, str]:
    """Return the ids of the current span in the W3C format; an empty dict without a span."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "trace_flags": f"{context.trace_flags:02x}",
    }


def encodable(text: str) -> str:
    """Return text that UTF-8 can encode: lone surrogates, as in undecodable file names, become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
