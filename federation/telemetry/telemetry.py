"""What the parts of one gateway report to. Light: it needs the OpenTelemetry API alone, not the SDK."""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from threading import Thread
from typing import TYPE_CHECKING, Final

from opentelemetry.trace import TracerProvider

from federation.telemetry.metrics import FederationMetrics, metrics_for
from federation.telemetry.spans import SpanSource

if TYPE_CHECKING:
    from federation.telemetry.prometheus import MetricsPage

__all__ = ["Telemetry", "ambient_telemetry"]

FLUSH_TIMEOUT_S: Final = 3.0
"""How long a stopping gateway waits for its collector."""
LOGGER: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Spans and figures of one gateway; both cost next to nothing where nobody listens."""

    spans: SpanSource
    metrics: FederationMetrics | None
    """`None`: switched off."""
    tracer_provider: TracerProvider | None = None
    """For others that make spans (`telemetry.rpc_spans`); `None`: the global one."""
    page: "MetricsPage | None" = None
    """`/metrics`, where the settings name an address for it; `shutdown` ends it."""
    _flush: tuple[Callable[[], object], ...] = ()
    _shutdown: tuple[Callable[[], object], ...] = ()

    def flush(self, timeout_s: float = FLUSH_TIMEOUT_S) -> None:
        """Send what waits to be sent; blocks for at most `timeout_s`, whatever the collector does."""
        _run(self._flush, timeout_s)

    def shutdown(self, timeout_s: float = FLUSH_TIMEOUT_S) -> None:
        """Send what waits and end the exporters of this gateway; blocks for at most `timeout_s`. Once is enough."""
        _run(self._shutdown, timeout_s)


def _run(ends: Iterable[Callable[[], object]], timeout_s: float) -> None:
    """Run all at once and wait: the SDK itself retries for up to 20 s where no collector answers."""
    deadline = time.monotonic() + timeout_s
    threads = [Thread(target=end, name="federation-telemetry", daemon=True) for end in ends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if any(thread.is_alive() for thread in threads):
        LOGGER.warning("the collector did not take everything within %g s; the rest is dropped", timeout_s)


@cache
def ambient_telemetry() -> Telemetry:
    """Return the telemetry that goes to whatever providers the program has installed, or installs later."""
    return Telemetry(SpanSource(), metrics_for(None))
