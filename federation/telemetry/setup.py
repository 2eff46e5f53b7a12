"""Spans, metrics and logs of a gateway's process, sent by OTLP/gRPC as the standard `OTEL_*` variables say.

Nothing is set up, and no thread started, unless a variable asks for a signal: `OTEL_EXPORTER_OTLP_ENDPOINT` (all
three), `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, `…_METRICS_ENDPOINT`, `…_LOGS_ENDPOINT`, or `OTEL_TRACES_EXPORTER=otlp`,
`OTEL_METRICS_EXPORTER=otlp`, `OTEL_LOGS_EXPORTER=otlp`; `…_EXPORTER=none` turns one off again. Headers, TLS, batching
and limits are read by the SDK itself. A provider that an embedding program installed is used as it is and left running;
a program that has one of any kind sends its logs itself, or does not.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from opentelemetry import _logs, metrics, trace
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.sdk._logs import LoggerProvider as SdkLoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NoOpTracerProvider, ProxyTracerProvider, TracerProvider

from federation.config import TelemetryConfig
from federation.errors import ConfigError
from federation.telemetry.metrics import metrics_for
from federation.telemetry.otel_env import Environment, asked_for, is_disabled, resource_of, sampler_of
from federation.telemetry.otlp_logs import OtlpLogHandler
from federation.telemetry.spans import SpanSource
from federation.telemetry.telemetry import Telemetry

if TYPE_CHECKING:
    from federation.telemetry.prometheus import MetricsPage

__all__ = ["Telemetry", "setup_telemetry"]

LOGGER: Final = logging.getLogger(__name__)


class _GatewayTracerProvider(SdkTracerProvider):
    """Ours; so that a second gateway of one process does not take the first one's for an embedding program's."""


class _GatewayMeterProvider(SdkMeterProvider):
    """Ours, likewise."""


@dataclass(frozen=True, slots=True)
class _Ends:
    """What sends what waits, and what ends for good, of all that was made here."""

    flush: list[Callable[[], object]] = field(default_factory=list)
    shutdown: list[Callable[[], object]] = field(default_factory=list)

    def of(self, provider: SdkTracerProvider | SdkMeterProvider | SdkLoggerProvider) -> None:
        """Add a provider's."""
        self.flush.append(provider.force_flush)
        self.shutdown.append(provider.shutdown)


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
    resource, ends = resource_of(gateway_name, version, environment), _Ends()
    if page is not None:
        ends.shutdown.append(page.stop)
    tracers = _tracer_provider(resource, environment, ends)
    meters = _meter_provider(resource, environment, page, ends)
    _send_logs(resource, environment, ends)
    return Telemetry(
        SpanSource(tracers, version=version),
        metrics_for(meters, version=version),
        tracers,
        page,
        tuple(ends.flush),
        tuple(ends.shutdown),
    )


def _page(listen: str) -> "MetricsPage":
    try:
        from federation.telemetry.prometheus import MetricsPage  # noqa: PLC0415 - an extra
    except ImportError as e:
        raise ConfigError(
            "telemetry.prometheus", f"{e.name} is not installed; pip install 'mosaic-federation[prometheus]'"
        ) from e
    return MetricsPage(listen)


def _tracer_provider(resource: Resource, environment: Environment, ends: _Ends) -> TracerProvider | None:
    """Return the provider to use; `None`: the global one, whenever it comes."""
    current = trace.get_tracer_provider()
    if not isinstance(current, ProxyTracerProvider | _GatewayTracerProvider):
        return current
    if not asked_for("TRACES", environment):
        return None
    provider = _GatewayTracerProvider(sampler_of(environment), resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    if isinstance(current, ProxyTracerProvider):
        trace.set_tracer_provider(provider)
    ends.of(provider)
    return provider


def _meter_provider(
    resource: Resource, environment: Environment, page: "MetricsPage | None", ends: _Ends
) -> MeterProvider | None:
    """Return the provider to use, with the page's reader in it; `None`: the global one, whenever it comes.

    One that serves the page alone does not become the global one: the page is this gateway's.
    """
    current = metrics.get_meter_provider()
    theirs = isinstance(current, SdkMeterProvider | NoOpMeterProvider) and not isinstance(
        current, _GatewayMeterProvider
    )
    if theirs and isinstance(current, SdkMeterProvider) and page is not None:
        current.add_metric_reader(page.reader)
        ends.shutdown.append(partial(current.remove_metric_reader, page.reader))
        return current
    if theirs and page is None:
        return current
    sent = not theirs and asked_for("METRICS", environment, ("prometheus",) if page else ())
    readers: list[MetricReader] = [page.reader] if page is not None else []
    if sent:
        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
    if not readers:
        return None
    provider = _GatewayMeterProvider(readers, resource, shutdown_on_exit=False)
    if sent and not isinstance(current, _GatewayMeterProvider):
        metrics.set_meter_provider(provider)
    ends.of(provider)
    return provider


def _send_logs(resource: Resource, environment: Environment, ends: _Ends) -> None:
    """Send this package's log lines, unless an embedding program or another gateway of the process has them sent."""
    if _is_embedded() or OtlpLogHandler.attached() or not asked_for("LOGS", environment):
        return
    provider = SdkLoggerProvider(resource, shutdown_on_exit=False)
    provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    handler = OtlpLogHandler(provider)
    handler.attach()
    ends.flush.append(provider.force_flush)
    ends.shutdown.append(partial(_end_logs, handler, provider))


def _is_embedded() -> bool:
    """Tell whether the program round this gateway has an SDK of its own."""
    tracers, meters, loggers = trace.get_tracer_provider(), metrics.get_meter_provider(), _logs.get_logger_provider()
    return (
        isinstance(loggers, SdkLoggerProvider)
        or (isinstance(tracers, SdkTracerProvider) and not isinstance(tracers, _GatewayTracerProvider))
        or (isinstance(meters, SdkMeterProvider) and not isinstance(meters, _GatewayMeterProvider))
    )


def _end_logs(handler: OtlpLogHandler, provider: SdkLoggerProvider) -> None:
    handler.detach()
    provider.shutdown()
