"""Setup of a gateway's telemetry: spans, metrics and logs, exported by OTLP/gRPC as the `OTEL_*` variables say.

Nothing is set up and no thread started unless a variable enables a signal: `OTEL_EXPORTER_OTLP_ENDPOINT` (all three),
`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, `…_METRICS_ENDPOINT`, `…_LOGS_ENDPOINT`, or `OTEL_TRACES_EXPORTER=otlp`,
`OTEL_METRICS_EXPORTER=otlp`, `OTEL_LOGS_EXPORTER=otlp`; `…_EXPORTER=none` disables one. The SDK itself reads headers,
TLS, batching and limits. A provider installed by an embedding program is used and never shut down; if there is one of
any kind, the gateway does not export logs.
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

LOGGER: Final = logging.getLogger(__name__)


def setup_telemetry(
    config: TelemetryConfig, gateway_name: str, version: str, environment: Environment = os.environ
) -> Telemetry:
    """Return the telemetry of a gateway, with OTLP export if the environment enables it.

    `environment` decides which signals are exported; the SDK reads the rest from the process's own variables. Providers
    created for OTLP become the global ones unless some are installed. `Telemetry.shutdown` flushes and closes them.
    With `telemetry.prometheus` the result has a page, which the caller starts. Raises `ConfigError` if the extra
    `prometheus` is not installed.
    """
    if not config.enabled or is_disabled(environment):
        if config.prometheus:
            LOGGER.warning("telemetry.enabled is false, so telemetry.prometheus is not served")
        return Telemetry(SpanSource(NoOpTracerProvider()), None, NoOpTracerProvider())
    page = _page(config.prometheus) if config.prometheus else None
    if page is None and not names_exporters(environment):
        # This gateway exports nothing, so the SDK is not imported. `None` stands for the global providers.
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
