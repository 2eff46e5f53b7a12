"""Log records over OTLP: their resource, their fields, and the fields that must not be sent."""

import logging
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

from federation.telemetry.otlp_logs import OtlpLogHandler
from tests.support.memory_exporters import SpanLog

SECRET = "the-row-nobody-may-see"


class Lines:
    """The records that the handler exported."""

    def __init__(self) -> None:
        self.exporter = InMemoryLogRecordExporter()
        self.provider = LoggerProvider(shutdown_on_exit=False)
        self.provider.add_log_record_processor(SimpleLogRecordProcessor(self.exporter))
        self.handler = OtlpLogHandler(self.provider)

    @property
    def bodies(self) -> list[object]:
        """The message of each record."""
        return [line.log_record.body for line in self.exporter.get_finished_logs()]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """A handler at work."""
    made = Lines()
    made.handler.attach()
    logging.getLogger("federation").setLevel(logging.INFO)
    yield made
    made.handler.detach()
    logging.getLogger("federation").setLevel(logging.NOTSET)


def test_a_line_becomes_a_record_of_the_current_trace(lines: Lines, span_log: SpanLog) -> None:
    """Message, level, logger, time, trace and span, and no further attribute of the record."""
    with span_log.provider.get_tracer("x").start_as_current_span("served"):
        context = trace.get_current_span().get_span_context()
        logging.getLogger("federation.x").warning("circuit of %s opened", "work.example", extra={"row": SECRET})

    [line] = lines.exporter.get_finished_logs()
    record = line.log_record
    assert (record.body, record.severity_text) == ("circuit of work.example opened", "WARNING")
    assert (record.severity_number, record.attributes) == (SeverityNumber.WARN, {})
    assert (record.trace_id, record.span_id) == (context.trace_id, context.span_id)
    assert line.instrumentation_scope is not None
    assert line.instrumentation_scope.name == "federation.x"
    assert record.timestamp is not None
    assert record.timestamp > 1_700_000_000_000_000_000


@pytest.mark.parametrize(
    ("level", "severity"),
    [
        (logging.INFO, SeverityNumber.INFO),
        (logging.WARNING, SeverityNumber.WARN),
        (logging.ERROR, SeverityNumber.ERROR),
        (logging.CRITICAL, SeverityNumber.FATAL),
    ],
)
def test_levels_have_their_severity(lines: Lines, level: int, severity: SeverityNumber) -> None:
    """The four levels that are sent."""
    logging.getLogger("federation").log(level, "words")

    assert [line.log_record.severity_number for line in lines.exporter.get_finished_logs()] == [severity]


def test_only_lines_of_this_package_are_sent(lines: Lines) -> None:
    """Records of a driver that logs statements, or of an exporter, are not exported."""
    for name in ("sqlalchemy.engine", "opentelemetry.exporter", "federationist", "asyncio"):
        logging.getLogger(name).error(SECRET)
    logging.getLogger("federation.server").info("ours")
    logging.getLogger("federation.server").debug("too quiet")

    assert lines.bodies == ["ours"]


def test_an_exception_goes_without_its_message(lines: Lines) -> None:
    """Type and frames of the whole chain, without messages, which may quote rows."""
    try:
        try:
            {}[SECRET]
        except KeyError as e:
            raise ValueError(f"bad row {SECRET}") from e
    except ValueError:
        logging.getLogger("federation.x").exception("incident %s", "ab12")

    [line] = lines.exporter.get_finished_logs()
    attributes = dict(line.log_record.attributes or {})
    assert set(attributes) == {"exception.type", "exception.stacktrace"}
    assert attributes["exception.type"] == "builtins.ValueError"
    stack = str(attributes["exception.stacktrace"])
    assert stack.index("KeyError") < stack.index("ValueError")
    assert stack.count("in test_an_exception_goes_without_its_message") == 2
    assert SECRET not in str(line.log_record.__dict__)
    assert line.log_record.body == "incident ab12"


def test_a_cyclic_chain_of_exceptions_ends(lines: Lines) -> None:
    """Each exception appears once, suppressed contexts never."""
    one, two, hidden = ValueError("1"), TypeError("2"), OSError("3")
    one.__cause__, two.__cause__ = two, one
    one.__context__ = hidden
    logging.getLogger("federation.x").error("broke", exc_info=one)

    [line] = lines.exporter.get_finished_logs()
    assert (line.log_record.attributes or {})["exception.stacktrace"] == "TypeError\n\nValueError\n"


def test_undecodable_text_can_be_sent(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lone surrogate, as from an undecodable file name, would cost the whole batch."""
    monkeypatch.setattr(logging.getLogger("federation"), "propagate", False)  # nor can a report of this test hold it
    logging.getLogger("federation.x").warning("file %s", "a\udcffb")

    assert lines.bodies == ["file a\\udcffb"]


def test_a_failing_provider_does_not_affect_the_caller(
    lines: Lines, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The logging call returns; the error is reported as `logging` reports its own."""

    def broken(name: str) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(lines.provider, "get_logger", broken)
    logging.getLogger("federation.x").warning("words")

    assert "RuntimeError: broken" in capsys.readouterr().err


def test_a_detached_handler_gets_no_records(lines: Lines) -> None:
    """`attached` tells whether a handler is active; detaching is idempotent."""
    assert OtlpLogHandler.attached()
    lines.handler.detach()
    lines.handler.detach()
    logging.getLogger("federation.x").warning("words")

    assert not OtlpLogHandler.attached()
    assert lines.bodies == []
