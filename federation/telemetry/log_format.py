"""Log lines for people (text) and for machines (JSON), each with the ids of the trace it belongs to.

A line holds what its author wrote and the exception, never a request or an answer: no caller of these loggers passes
rows. Control characters are escaped, so that what a peer sent can neither forge a line nor move a cursor.
"""

import logging
import sys
from datetime import UTC, datetime
from typing import Final, TextIO

import orjson
from opentelemetry import trace

from federation.config import TelemetryConfig

__all__ = ["JsonFormatter", "TextFormatter", "encodable", "setup_logging"]

_ESCAPES: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_ESCAPES_OF_LINE: Final = {code: text for code, text in _ESCAPES.items() if code not in {9, 10}}


class TextFormatter(logging.Formatter):
    """`2026-11-23T18:13:48.123Z WARNING federation.x: words [trace 0af7…]`, then the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record."""
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
    """One JSON object a line: `time, level, logger, message`; within a span `trace_id, span_id, trace_flags`.

    `exception` where there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
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
    """Send the log of the whole process to `stream` in the configured format, instead of where it went before."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if config.log_format == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=level, force=True)


def _instant(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _trace_fields() -> dict[str, str]:
    """Return what names the current span, by the names and in the form of the standard; nothing without a span."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "trace_flags": f"{context.trace_flags:02x}",
    }


def encodable(text: str) -> str:
    """Return text that JSON can hold: lone surrogates, as from undecodable file names, become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
