"""Log lines: text and JSON, trace ids, nothing that a peer could forge."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace

from federation.config import TelemetryConfig
from federation.telemetry.log_format import JsonFormatter, TextFormatter, setup_logging
from tests.support.memory_exporters import SpanLog


def record(message: str, *arguments: Any, exception: BaseException | None = None) -> logging.LogRecord:
    """A record of a fixed instant."""
    info = (type(exception), exception, exception.__traceback__) if exception else None
    made = logging.LogRecord("federation.x", logging.WARNING, __file__, 1, message, arguments, info)
    made.created = 1_800_000_000.1234
    return made


def failing() -> ValueError:
    """An exception with a traceback."""
    try:
        int("nothing")
    except ValueError as e:
        return ValueError("first line\nsecond \x1b[31mline").with_traceback(e.__traceback__)


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield root
    root.handlers = handlers
    root.setLevel(level)


def test_text_is_one_line() -> None:
    """Time in UTC, level, logger, message."""
    line = TextFormatter().format(record("circuit of %s opened", "work.example"))

    assert line == "2027-01-15T08:00:00.123Z WARNING federation.x: circuit of work.example opened"


def test_json_is_one_object() -> None:
    """The same fields, as JSON, and no others."""
    line = JsonFormatter().format(record("circuit of %s opened", "work.example"))

    assert json.loads(line) == {
        "time": "2027-01-15T08:00:00.123Z",
        "level": "WARNING",
        "logger": "federation.x",
        "message": "circuit of work.example opened",
    }


def test_lines_carry_the_ids_of_the_current_span(span_log: SpanLog) -> None:
    """Within a span both formats name its trace."""
    with span_log.provider.get_tracer("x").start_as_current_span("served"):
        context = trace.get_current_span().get_span_context()
        text = TextFormatter().format(record("words"))
        fields = json.loads(JsonFormatter().format(record("words")))

    assert text.endswith(f"words [trace {context.trace_id:032x}]")
    assert (fields["trace_id"], fields["span_id"]) == (f"{context.trace_id:032x}", f"{context.span_id:016x}")
    assert int(fields["trace_flags"], 16) == context.trace_flags
    assert len(fields["trace_flags"]) == 2


def test_a_peers_text_cannot_forge_a_line() -> None:
    """Line breaks and escape sequences in a message are written as escapes."""
    hostile = "bad\n2027-01-15T08:00:00.000Z INFO federation: all is well\x1b[2J\x9b1m\x7f"
    text = TextFormatter().format(record("%s", hostile))
    line = JsonFormatter().format(record("%s", hostile))

    assert "\n" not in text
    assert "bad\\x0a2027" in text
    assert text.endswith("\\x1b[2J\\x9b1m\\x7f")
    assert "\n" not in line
    assert json.loads(line)["message"] == hostile


def test_an_exception_follows_indented() -> None:
    """The traceback stands below its line, and its text cannot pass for a line of its own."""
    lines = TextFormatter().format(record("broke", exception=failing())).splitlines()

    assert lines[1] == "  Traceback (most recent call last):"
    assert lines[-2:] == ["  ValueError: first line", "  second \\x1b[31mline"]


def test_an_exception_is_a_field_of_the_object() -> None:
    """JSON holds the traceback as text; `exc_info` without an exception adds nothing."""
    fields = json.loads(JsonFormatter().format(record("broke", exception=failing())))
    assert fields["exception"].startswith("Traceback")

    nothing = record("fine")
    nothing.exc_info = (None, None, None)
    assert "exception" not in json.loads(JsonFormatter().format(nothing))
    assert "\n" not in TextFormatter().format(nothing)


def test_undecodable_text_is_still_json() -> None:
    """A lone surrogate, as from an undecodable file name, does not break the line."""
    line = JsonFormatter().format(record("file %s", "a\udcffb"))

    assert json.loads(line)["message"] == "file a\\udcffb"


@pytest.mark.parametrize(("log_format", "begins"), [("text", "20"), ("json", '{"time"')])
def test_setup_writes_the_configured_format(root_logger: logging.Logger, log_format: str, begins: str) -> None:
    """Every logger of the process writes to the stream in that form, from INFO on, once."""
    stream = io.StringIO()
    for _ in range(2):
        setup_logging(TelemetryConfig(log_format=log_format), stream)
    logging.getLogger("anything").info("hello")
    logging.getLogger("anything").debug("quiet")

    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(begins)
    assert len(root_logger.handlers) == 1
    assert sys.stderr is not stream
