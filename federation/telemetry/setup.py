"""Spans, metrics and logs of a gateway's process, sent by OTLP/gRPC as the standard `OTEL_*` variables say.

Nothing is set up, and no thread started, unless a variable asks for a signal: `OTEL_EXPORTER_OTLP_ENDPOINT` (all
three), `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, `…_METRICS_ENDPOINT`, `…_LOGS_ENDPOINT`, or `OTEL_TRACES_EXPORTER=otlp`,
`OTEL_METRICS_EXPORTER=otlp`, `OTEL_LOGS_EXPORTER=otlp`; `…_EXPORTER=none` turns one off again. Headers, TLS, batching
and limits are read by the SDK itself. A provider that an embedding program installed is used as it is and left running;
a program that has one of any kind sends its logs itself, or does not.
"""

import logging
import os
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.trace import NoOpTracerProvider, ProxyTracerProvider

from federation.config import TelemetryConfig
from federation.errors import ConfigError
from federation.telemetry.metrics import metrics_for
from federation.telemetry.otel_env import Environment, is_disabled, names_exporters
from federation.telemetry.spans import SpanSource
from federation.telemetry.telemetry import Telemetry

if TYPE_CHECKING:
    from federation.telemetry.prometheus import MetricsPage

__all__ = ["Telemetry", "setup_telemetry"]

LOGGER: Final = logging.getLogger(__name__)


def setup_telemetry(
    config: TelemetryConfig, gateway_name: str, version: str, environment: Environment = os.environ
) -> Telemetry:
    """Return the telemetry of a gateway, exporting where the environment asks for it.

    `environment` decides whether; how, the SDK reads from the process's own variables. Providers made here for OTLP
    become the global ones unless there are some already. What was made here is sent for good by `Telemetry.shutdown`.
    With `telemetry.prometheus` there is a page for it, which whoever owns the gateway starts. Raises `ConfigError`
    where the page's extra is not installed.
    """
    if not config.enabled or is_disabled(environment):
        if config.prometheus:
            LOGGER.warning("telemetry is switched off, so nothing is served on telemetry.prometheus")
        return Telemetry(SpanSource(NoOpTracerProvider()), None, NoOpTracerProvider())
    page = _page(config.prometheus) if config.prometheus else None
    if page is None and not names_exporters(environment):
        # Nothing is exported by this gateway, so the SDK is not imported. `None` stands for the global providers.
        current = trace.get_tracer_provider()
        tracers = None if isinstance(current, ProxyTracerProvider) else current
        return Telemetry(SpanSource(tracers, version=version), metrics_for(None, version=version), tracers)
    from federation.telemetry.providers import sdk_telemetry

    return sdk_telemetry(gateway_name, version, environment, page)


def _page(listen: str) -> "MetricsPage":
    try:
        from federation.telemetry.prometheus import MetricsPage
    except ImportError as e:
        raise ConfigError(
            "telemetry.prometheus", f"{e.name} is not installed; pip install 'mosaic-federation[prometheus]'"
        ) from e
    return MetricsPage(listen)
