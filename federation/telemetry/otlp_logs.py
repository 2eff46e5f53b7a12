"""Log lines of this package as OTLP log records.

Only of this package: what other loggers of the process hold is not this gateway's to send, and may hold rows (a
database driver's statements do). An exception goes as its type and its frames. Its message stays in the gateway's own
log, because the fault of a data provider may quote the row it stumbled over.
"""

import logging
import traceback
from typing import Final

from opentelemetry._logs import LoggerProvider, LogRecord, SeverityNumber

from federation.telemetry.log_format import encodable

__all__ = ["PACKAGE_LOGGER", "OtlpLogHandler"]

PACKAGE_LOGGER: Final = __name__.partition(".")[0]
"""The logger whose lines are sent, with all beneath it."""
_SEVERITIES: Final = (
    (logging.CRITICAL, SeverityNumber.FATAL),
    (logging.ERROR, SeverityNumber.ERROR),
    (logging.WARNING, SeverityNumber.WARN),
    (logging.INFO, SeverityNumber.INFO),
    (logging.NOTSET, SeverityNumber.DEBUG),
)
_Attributes = dict[str, str]


class OtlpLogHandler(logging.Handler):
    """Hands records to a provider, with the trace and span that are current. The body is the line's words."""

    def __init__(self, provider: LoggerProvider) -> None:
        super().__init__()
        self._provider = provider

    def emit(self, record: logging.LogRecord) -> None:
        """Hand one record over; the provider's own thread sends it."""
        try:
            self._provider.get_logger(record.name).emit(_to_log_record(record))
        except Exception:  # noqa: BLE001 - a line must not cost its author anything
            self.handleError(record)

    def attach(self) -> None:
        """Take the lines of this package from here on."""
        logging.getLogger(PACKAGE_LOGGER).addHandler(self)

    def detach(self) -> None:
        """Take no more."""
        logging.getLogger(PACKAGE_LOGGER).removeHandler(self)

    @classmethod
    def attached(cls) -> bool:
        """Tell whether the lines are sent already, as by another gateway of this process."""
        return any(isinstance(handler, cls) for handler in logging.getLogger(PACKAGE_LOGGER).handlers)


def _to_log_record(record: logging.LogRecord) -> LogRecord:
    at_ns = int(record.created * 1e9)
    return LogRecord(
        timestamp=at_ns,
        observed_timestamp=at_ns,
        severity_number=next(number for level, number in _SEVERITIES if record.levelno >= level),
        severity_text=record.levelname,
        body=encodable(record.getMessage()),
        attributes=_fault(record.exc_info[1]) if record.exc_info and record.exc_info[1] else {},
    )


def _fault(error: BaseException) -> _Attributes:
    kind = type(error)
    return {
        "exception.type": f"{kind.__module__}.{kind.__qualname__}",
        "exception.stacktrace": encodable(_frames(error)),
    }


def _frames(error: BaseException) -> str:
    """Return the frames of an exception and of those that led to it, the first one first, each under its type."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.insert(0, cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\n".join(f"{type(e).__name__}\n{''.join(traceback.format_tb(e.__traceback__))}" for e in chain)
