"""Evaluation of the standard `OTEL_*` environment variables."""

import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.sampling import Sampler

DEFAULT_SERVICE_NAME: Final = "mosaic-gateway"
SIGNALS: Final = ("TRACES", "METRICS", "LOGS")
LOGGER: Final = logging.getLogger(__name__)
Environment = Mapping[str, str]


def is_disabled(environment: Environment) -> bool:
    """Tell whether `OTEL_SDK_DISABLED` is set."""
    return environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def names_exporters(environment: Environment) -> bool:
    """Tell whether any variable names an exporter or an endpoint; else no signal is exported."""
    names = ["OTEL_EXPORTER_OTLP_ENDPOINT"]
    for signal in SIGNALS:
        names += (f"OTEL_{signal}_EXPORTER", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    return any(environment.get(name) for name in names)


def is_exported(signal: str, environment: Environment, elsewhere: Collection[str] = ()) -> bool:
    """Tell whether to export a signal (`TRACES`, `METRICS`, `LOGS`) by OTLP/gRPC.

    Without `OTEL_<signal>_EXPORTER`, a signal is exported if an endpoint is set (the standard would always export).
    Logs a warning for an unsupported exporter or protocol, except for the exporters in `elsewhere`.
    """
    exporters = {name.strip() for name in environment.get(f"OTEL_{signal}_EXPORTER", "").lower().split(",")} - {""}
    endpoint = environment.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or environment.get(
        "OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    unknown = exporters - {"none", "otlp", *elsewhere}
    if unknown:
        names = ",".join(sorted(unknown))
        cure = "; set telemetry.prometheus in gateway.toml instead" if "prometheus" in unknown else ""
        LOGGER.warning("no %s are exported by OTEL_%s_EXPORTER=%s, which is not otlp%s", signal, signal, names, cure)
    if not (("otlp" in exporters) if exporters else endpoint):
        return False
    protocol = environment.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or environment.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", ""
    )
    if protocol not in {"", "grpc"}:
        LOGGER.warning("no %s are exported: OTLP by %r is not supported; set the protocol to grpc", signal, protocol)
        return False
    return True


def resource_of(gateway_name: str, version: str, environment: Environment) -> "Resource":
    """Return the OTel resource of the gateway; the `OTEL_*` variables override the default service name."""
    from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource

    attributes = {SERVICE_INSTANCE_ID: gateway_name, SERVICE_VERSION: version}
    named = environment.get("OTEL_SERVICE_NAME") or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return Resource.create(attributes if named else attributes | {SERVICE_NAME: DEFAULT_SERVICE_NAME})


def sampler_of(environment: Environment) -> "Sampler | None":
    """Return a sampler that ignores a peer's `sampled` flag, or `None` to use the SDK's own sampler.

    The `parentbased_…` samplers follow the parent's flag. This one follows only parents of this process and samples a
    peer's traces at the rate of root spans. The decision depends on the trace id, so gateways of equal rate agree.
    """
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, TraceIdRatioBased

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
