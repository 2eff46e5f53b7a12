"""The telemetry handle of one gateway. Imports only the OpenTelemetry API, not the SDK."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from threading import Thread
from typing import TYPE_CHECKING, Final

from opentelemetry.trace import TracerProvider

from federation.telemetry.metrics import FederationMetrics, metrics_for
from federation.telemetry.spans import SpanSource

if TYPE_CHECKING:
    from federation.telemetry.prometheus import MetricsPage

FLUSH_TIMEOUT_S: Final = 3.0
"""Seconds that a stopping gateway waits for its collector."""
LOGGER: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Spans and metrics of one gateway; nearly free while nothing is exported."""

    spans: SpanSource
    metrics: FederationMetrics | None
    """`None` if telemetry is disabled."""
    tracer_provider: TracerProvider | None = None
    """Provider for other instrumentation (`telemetry.rpc_spans`); `None` means the global one."""
    page: "MetricsPage | None" = None
    """The `/metrics` endpoint, if configured; `shutdown` stops it."""
    _ends: tuple[Callable[[], object], ...] = ()
    """Functions that export pending data and close an exporter."""

    def shutdown(self, timeout_s: float = FLUSH_TIMEOUT_S) -> None:
        """Export pending data and close this gateway's exporters; blocks for at most `timeout_s`. Call it once."""
        # Concurrently and with a bound: without a collector the SDK itself retries for up to 20 s.
        deadline = time.monotonic() + timeout_s
        threads = [Thread(target=end, name="federation-telemetry", daemon=True) for end in self._ends]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            LOGGER.warning("the collector did not accept all telemetry within %g s; the rest is dropped", timeout_s)


@cache
def ambient_telemetry() -> Telemetry:
    """Return the telemetry of the global providers that the program has installed or installs later."""
    return Telemetry(SpanSource(), metrics_for(None))
