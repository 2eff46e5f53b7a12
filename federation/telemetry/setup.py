"""Spans and metrics of a gateway's process, sent by OTLP/gRPC as the standard `OTEL_*` variables say.

Nothing is set up, and no thread started, unless a variable asks for a signal: `OTEL_EXPORTER_OTLP_ENDPOINT` (both
signals), `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, `…_METRICS_ENDPOINT`, or `OTEL_TRACES_EXPORTER=otlp`,
`OTEL_METRICS_EXPORTER=otlp`; `…_EXPORTER=none` turns one off again. Headers, TLS, batching and limits are read by the
SDK itself. A provider that an embedding program installed is used as it is and left running.
"""

import logging
import os
from collections.abc import Mapping
from typing import Final

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import NoOpTracerProvider, ProxyTracerProvider, TracerProvider

from federation.config import TelemetryConfig
from federation.telemetry.handle import Telemetry
from federation.telemetry.metrics import metrics_for
from federation.telemetry.spans import SpanSource

__all__ = ["DEFAULT_SERVICE_NAME", "Telemetry", "setup_telemetry"]

DEFAULT_SERVICE_NAME: Final = "mosaic-gateway"
LOGGER: Final = logging.getLogger(__name__)
_Environment = Mapping[str, str]


class _GatewayTracerProvider(SdkTracerProvider):
    """Ours; so that a second gateway of one process does not take the first one's for an embedding program's."""


class _GatewayMeterProvider(SdkMeterProvider):
    """Ours, likewise."""


def setup_telemetry(
    config: TelemetryConfig, gateway_name: str, version: str, environment: _Environment = os.environ
) -> Telemetry:
    """Return the telemetry of a gateway, exporting where the environment asks for it.

    `environment` decides whether; how, the SDK reads from the process's own variables. Providers made here become
    the global ones unless there are some already. What was made here is sent for good by `Telemetry.shutdown`.
    """
    if not config.enabled or environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Telemetry(SpanSource(NoOpTracerProvider()), None, NoOpTracerProvider())
    resource = _resource(gateway_name, version, environment)
    tracers, tracing = _tracer_provider(resource, environment)
    meters, metering = _meter_provider(resource, environment)
    ours = [provider for provider in (tracing, metering) if provider is not None]
    return Telemetry(
        SpanSource(tracers, version=version),
        metrics_for(meters, version=version),
        tracers,
        tuple(provider.force_flush for provider in ours),
        tuple(provider.shutdown for provider in ours),
    )


def _tracer_provider(
    resource: Resource, environment: _Environment
) -> tuple[TracerProvider | None, _GatewayTracerProvider | None]:
    """Return the provider to use (`None`: the global one, whenever it comes) and the one made here, if any."""
    current = trace.get_tracer_provider()
    if not isinstance(current, ProxyTracerProvider | _GatewayTracerProvider):
        return current, None
    if not _asked_for("TRACES", environment):
        return None, None
    provider = _GatewayTracerProvider(_sampler(environment), resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    if isinstance(current, ProxyTracerProvider):
        trace.set_tracer_provider(provider)
    return provider, provider


def _meter_provider(
    resource: Resource, environment: _Environment
) -> tuple[MeterProvider | None, _GatewayMeterProvider | None]:
    current = metrics.get_meter_provider()
    if isinstance(current, SdkMeterProvider | NoOpMeterProvider) and not isinstance(current, _GatewayMeterProvider):
        return current, None
    if not _asked_for("METRICS", environment):
        return None, None
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    provider = _GatewayMeterProvider([reader], resource, shutdown_on_exit=False)
    if not isinstance(current, _GatewayMeterProvider):
        metrics.set_meter_provider(provider)
    return provider, provider


def _asked_for(signal: str, environment: _Environment) -> bool:
    """Tell whether the environment wants a signal (`TRACES`, `METRICS`) sent, by a protocol that is spoken here."""
    exporters = {name.strip() for name in environment.get(f"OTEL_{signal}_EXPORTER", "").lower().split(",")} - {""}
    endpoint = environment.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or environment.get(
        "OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    if not (("otlp" in exporters) if exporters else endpoint):
        unknown = exporters - {"none"}
        if unknown:
            LOGGER.warning("no %s are exported: OTEL_%s_EXPORTER=%s is not otlp", signal, signal, ",".join(unknown))
        return False
    protocol = environment.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or environment.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", ""
    )
    if protocol not in {"", "grpc"}:
        LOGGER.warning("no %s are exported: OTLP by %r is not spoken here; set the protocol to grpc", signal, protocol)
        return False
    return True


def _resource(gateway_name: str, version: str, environment: _Environment) -> Resource:
    """Name the gateway; `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` win over the service's name."""
    ours = {SERVICE_INSTANCE_ID: gateway_name, SERVICE_VERSION: version}
    named = environment.get("OTEL_SERVICE_NAME") or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return Resource.create(ours if named else ours | {SERVICE_NAME: DEFAULT_SERVICE_NAME})


def _sampler(environment: _Environment) -> Sampler | None:
    """Return a sampler by which a peer's `sampled` flag does not command this gateway, or `None` for the SDK's own.

    The `parentbased_…` samplers obey the parent; here they do so for parents of this process alone, and the rate of
    the root holds for a peer's traces too. The ratio goes by trace id, so gateways with one rate agree.
    """
    name = environment.get("OTEL_TRACES_SAMPLER", "parentbased_always_on").strip().lower()
    root: Sampler
    match name:
        case "parentbased_always_on":
            root = ALWAYS_ON
        case "parentbased_always_off":
            root = ALWAYS_OFF
        case "parentbased_traceidratio":
            root = TraceIdRatioBased(_ratio(environment.get("OTEL_TRACES_SAMPLER_ARG", "")))
        case _:
            return None
    return ParentBased(root, remote_parent_sampled=root, remote_parent_not_sampled=root)


def _ratio(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        LOGGER.warning("OTEL_TRACES_SAMPLER_ARG=%r is not a number; every trace is sampled", text)
        return 1.0
