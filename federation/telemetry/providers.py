"""OpenTelemetry SDK providers of one gateway, with their OTLP exporters.

`setup` imports this module only if a variable, the settings or the embedding program require the SDK, which is slow to
import.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

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
from opentelemetry.trace import ProxyTracerProvider, TracerProvider

from federation.telemetry.metrics import metrics_for
from federation.telemetry.otel_env import Environment, is_exported, resource_of, sampler_of
from federation.telemetry.otlp_logs import OtlpLogHandler
from federation.telemetry.spans import SpanSource
from federation.telemetry.telemetry import Telemetry

if TYPE_CHECKING:
    from federation.telemetry.prometheus import MetricsPage


class _GatewayTracerProvider(SdkTracerProvider):
    """A gateway's tracer provider, to distinguish it from an embedding program's provider."""


class _GatewayMeterProvider(SdkMeterProvider):
    """A gateway's meter provider, to distinguish it from an embedding program's provider."""


_Ends = list[Callable[[], object]]
"""Functions that end what this module created."""


def sdk_telemetry(gateway_name: str, version: str, environment: Environment, page: "MetricsPage | None") -> Telemetry:
    """Return the telemetry of a gateway that uses the SDK: exporters as `environment` says, and the page's reader."""
    resource, ends = resource_of(gateway_name, version, environment), _Ends()
    if page is not None:
        ends.append(page.stop)
    tracers = _tracer_provider(resource, environment, ends)
    meters = _meter_provider(resource, environment, page, ends)
    _send_logs(resource, environment, ends)
    return Telemetry(
        SpanSource(tracers, version=version), metrics_for(meters, version=version), tracers, page, tuple(ends)
    )


def _tracer_provider(resource: Resource, environment: Environment, ends: _Ends) -> TracerProvider | None:
    """Return the provider to use; `None` means the global one, also one installed later."""
    current = trace.get_tracer_provider()
    if not isinstance(current, ProxyTracerProvider | _GatewayTracerProvider):
        return current
    if not is_exported("TRACES", environment):
        return None
    provider = _GatewayTracerProvider(sampler_of(environment), resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    if isinstance(current, ProxyTracerProvider):
        trace.set_tracer_provider(provider)
    ends.append(provider.shutdown)
    return provider


def _meter_provider(
    resource: Resource, environment: Environment, page: "MetricsPage | None", ends: _Ends
) -> MeterProvider | None:
    """Return the provider to use, with the page's reader; `None` means the global one, also one installed later.

    A provider created only for the page does not become the global one.
    """
    current = metrics.get_meter_provider()
    embedded = isinstance(current, SdkMeterProvider | NoOpMeterProvider) and not isinstance(
        current, _GatewayMeterProvider
    )
    if embedded and isinstance(current, SdkMeterProvider) and page is not None:
        current.add_metric_reader(page.reader)
        ends.append(partial(current.remove_metric_reader, page.reader))
        return current
    if embedded and page is None:
        return current
    exported = not embedded and is_exported("METRICS", environment, ("prometheus",) if page else ())
    readers: list[MetricReader] = [page.reader] if page is not None else []
    if exported:
        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
    if not readers:
        return None
    provider = _GatewayMeterProvider(readers, resource, shutdown_on_exit=False)
    if exported and not isinstance(current, _GatewayMeterProvider):
        metrics.set_meter_provider(provider)
    ends.append(provider.shutdown)
    return provider


def _send_logs(resource: Resource, environment: Environment, ends: _Ends) -> None:
    """Export this package's log records, unless an embedding program or another gateway of the process does."""
    if _is_embedded() or OtlpLogHandler.attached() or not is_exported("LOGS", environment):
        return
    provider = SdkLoggerProvider(resource, shutdown_on_exit=False)
    provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    handler = OtlpLogHandler(provider)
    handler.attach()
    ends.append(partial(_close_logs, handler, provider))


def _is_embedded() -> bool:
    """Tell whether an embedding program has installed an SDK provider."""
    tracers, meters, loggers = trace.get_tracer_provider(), metrics.get_meter_provider(), _logs.get_logger_provider()
    return (
        isinstance(loggers, SdkLoggerProvider)
        or (isinstance(tracers, SdkTracerProvider) and not isinstance(tracers, _GatewayTracerProvider))
        or (isinstance(meters, SdkMeterProvider) and not isinstance(meters, _GatewayMeterProvider))
    )


def _close_logs(handler: OtlpLogHandler, provider: SdkLoggerProvider) -> None:
    handler.detach()
    provider.shutdown()
