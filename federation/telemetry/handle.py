"""What the parts of one gateway report to. Light: it needs the OpenTelemetry API alone, not the SDK."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final

from opentelemetry.trace import TracerProvider

from federation.telemetry.metrics import FederationMetrics, metrics_for
from federation.telemetry.spans import SpanSource

__all__ = ["Telemetry", "ambient_telemetry"]

FLUSH_TIMEOUT_MS: Final = 5_000


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Spans and figures of one gateway; both cost next to nothing where nobody listens."""

    spans: SpanSource
    metrics: FederationMetrics | None
    """`None`: switched off."""
    tracer_provider: TracerProvider | None = None
    """For others that make spans (`telemetry.rpc_spans`); `None`: the global one."""
    _flush: tuple[Callable[[int], object], ...] = ()
    _shutdown: tuple[Callable[[], object], ...] = ()

    def flush(self, timeout_ms: int = FLUSH_TIMEOUT_MS) -> None:
        """Send what waits to be sent; blocks for at most the timeout a signal."""
        for flush in self._flush:
            flush(timeout_ms)

    def shutdown(self) -> None:
        """Send what waits and end the exporters that were set up for this gateway. Blocks; once is enough."""
        for shutdown in self._shutdown:
            shutdown()


@cache
def ambient_telemetry() -> Telemetry:
    """Return the telemetry that goes to whatever providers the program has installed, or installs later."""
    return Telemetry(SpanSource(), metrics_for(None))
