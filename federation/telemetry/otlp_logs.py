"""Export of this package's log records by OTLP.

Other loggers of the process are not exported: their records may contain rows (such as a database driver's statements).
An exception is exported as type and frames without its message, because an error of a data provider may quote a row.
"""

import logging
import traceback
from typing import Final

from opentelemetry._logs import LoggerProvider, LogRecord, SeverityNumber

from federation.telemetry.log_format import encodable

PACKAGE_LOGGER: Final = __name__.partition(".")[0]
"""The logger whose records are exported, child loggers included."""
_SEVERITIES: Final = (
    (logging.CRITICAL, SeverityNumber.FATAL),
    (logging.ERROR, SeverityNumber.ERROR),
    (logging.WARNING, SeverityNumber.WARN),
    (logging.INFO, SeverityNumber.INFO),
    (logging.NOTSET, SeverityNumber.DEBUG),
)
_Attributes = dict[str, str]


class OtlpLogHandler(logging.Handler):
    """Passes log records to an OTel provider, with the current trace and span. The body is the message."""

    def __init__(self, provider: LoggerProvider) -> None:
        super().__init__()
        self._provider = provider

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on one record; the provider's thread sends it."""
        try:
            self._provider.get_logger(record.name).emit(_to_log_record(record))
        except Exception:  # noqa: BLE001 - logging must not raise
            self.handleError(record)

    def attach(self) -> None:
        """Start exporting the records of this package."""
        logging.getLogger(PACKAGE_LOGGER).addHandler(self)

    def detach(self) -> None:
        """Stop exporting records."""
        logging.getLogger(PACKAGE_LOGGER).removeHandler(self)

    @classmethod
    def attached(cls) -> bool:
        """Tell whether records are already exported, as for another gateway of this process."""
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
    """Return the frames of an exception and its causes, each below its type, the root cause first."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.insert(0, cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\n".join(f"{type(e).__name__}\n{''.join(traceback.format_tb(e.__traceback__))}" for e in chain)
