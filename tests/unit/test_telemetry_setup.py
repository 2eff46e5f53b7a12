"""Whether anything is exported, by whom, and under which name. Each case is a process: providers are global."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

REPORT = """
import json, sys, threading, warnings
from opentelemetry import metrics, trace
from federation.config import TelemetryConfig
from federation.telemetry.setup import setup_telemetry
BEFORE
warnings.simplefilter("error")
telemetry = setup_telemetry(TelemetryConfig(**json.loads(sys.argv[1])), "home.example", "9.9")
span = telemetry.spans.tracer().start_span("x") if telemetry.spans.tracer() else None
print(json.dumps({
    "threads": sorted(thread.name for thread in threading.enumerate() if thread is not threading.main_thread()),
    "global_tracers": type(trace.get_tracer_provider()).__name__,
    "global_meters": type(metrics.get_meter_provider()).__name__,
    "traced": span is not None and span.is_recording(),
    "resource": dict(span.resource.attributes) if span and span.is_recording() else {},
    "metrics": telemetry.metrics is not None,
    "ours": len(telemetry._shutdown),
    "sampler": span and type(trace.get_tracer_provider().sampler).__name__,
}))
AFTER
"""
LEAVE = "import os; sys.stdout.flush(); os._exit(0)"
"""Without the exporters' last attempt to reach a collector that is not there."""
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_BSP_EXPORT_TIMEOUT": "1"}
TRACES, METRICS = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"


def report(
    environment: dict[str, str],
    *,
    before: str = "",
    after: str = "import os; sys.stdout.flush(); os._exit(0)",
    **config: Any,
) -> dict[str, Any]:
    """Set telemetry up in a new process and return what it made; standard error is under `log`."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    code = REPORT.replace("BEFORE", before).replace("AFTER", after)
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(config)],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"log": done.stderr}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_SERVICE_NAME": "x"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            **ENDPOINT,
        },
        {"OTEL_SDK_DISABLED": "true", **ENDPOINT},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", **ENDPOINT},
        {
            "OTEL_TRACES_EXPORTER": "console",
            "OTEL_METRICS_EXPORTER": "prometheus",
            "OTEL_LOGS_EXPORTER": "console",
            **ENDPOINT,
        },
    ],
)
def test_nothing_is_set_up_unless_asked_for(environment: dict[str, str]) -> None:
    """No endpoint, exporters off, SDK disabled, another protocol: no thread, no provider, no span."""
    made = report(environment)

    assert made["threads"] == []
    assert made["global_tracers"] == "ProxyTracerProvider"
    assert (made["traced"], made["ours"]) == (False, 0)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", **ENDPOINT}, "OTLP by 'http/protobuf' is not spoken here"),
        ({"OTEL_TRACES_EXPORTER": "zipkin", **ENDPOINT}, "OTEL_TRACES_EXPORTER=zipkin, which is not otlp"),
        ({"OTEL_METRICS_EXPORTER": "otlp,prometheus", **ENDPOINT}, "set telemetry.prometheus in gateway.toml instead"),
    ],
)
def test_a_wish_that_cannot_be_met_is_said(environment: dict[str, str], words: str) -> None:
    """An exporter or protocol that is not there is a warning that names the variable."""
    assert words in report(environment)["log"]


@pytest.mark.parametrize(
    ("environment", "providers"),
    [
        (ENDPOINT, ("_GatewayTracerProvider", "_GatewayMeterProvider")),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"},
            ("_GatewayTracerProvider", "_ProxyMeterProvider"),
        ),
        (
            {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1"},
            ("ProxyTracerProvider", "_GatewayMeterProvider"),
        ),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ("_GatewayTracerProvider", "_ProxyMeterProvider")),
        ({**ENDPOINT, "OTEL_METRICS_EXPORTER": "none"}, ("_GatewayTracerProvider", "_ProxyMeterProvider")),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc", **ENDPOINT},
            ("_GatewayTracerProvider", "_ProxyMeterProvider"),
        ),
    ],
)
def test_each_signal_is_asked_for_on_its_own(environment: dict[str, str], providers: tuple[str, str]) -> None:
    """A variable for both, or one each; the more special one wins."""
    made = report(environment)

    assert (made["global_tracers"], made["global_meters"]) == providers


@pytest.mark.parametrize(
    ("environment", "service"),
    [
        ({}, "mosaic-gateway"),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=other,team=a"}, "other"),
    ],
)
def test_the_resource_names_the_gateway(environment: dict[str, str], service: str) -> None:
    """Service name with its default, the gateway as instance, the version."""
    resource = report({**ENDPOINT, **environment})["resource"]

    assert resource["service.name"] == service
    assert resource["service.instance.id"] == "home.example"
    assert resource["service.version"] == "9.9"


def test_telemetry_can_be_switched_off() -> None:
    """`telemetry.enabled = false` makes neither spans nor figures, whatever the environment says."""
    made = report(ENDPOINT, enabled=False)

    assert (made["traced"], made["metrics"], made["threads"]) == (False, False, [])


def test_an_sdk_of_the_embedding_program_is_used_and_left_alone() -> None:
    """Its provider makes the spans, nothing is exported besides, and our shutdown does not end it."""
    before = """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.metrics import MeterProvider
theirs = TracerProvider(shutdown_on_exit=False)
trace.set_tracer_provider(theirs)
metrics.set_meter_provider(MeterProvider(shutdown_on_exit=False))
"""
    after = """
assert telemetry.tracer_provider is theirs
telemetry.flush()
telemetry.shutdown()
assert telemetry.spans.tracer().start_span("y").is_recording()
"""
    made = report(ENDPOINT, before=before, after=after)

    assert (made["global_tracers"], made["global_meters"]) == ("TracerProvider", "MeterProvider")
    assert (made["ours"], made["threads"], made["traced"]) == (0, [], True)


def test_two_gateways_of_one_process_have_their_own_names() -> None:
    """The second one's spans bear its own instance id, and its shutdown leaves the first one running."""
    after = """
second = setup_telemetry(TelemetryConfig(), "work.example", "9.9")
mine = second.spans.tracer().start_span("y")
assert mine.resource.attributes["service.instance.id"] == "work.example"
assert second.tracer_provider is not trace.get_tracer_provider()
import os; sys.stdout.flush(); os._exit(0)
"""
    assert report(ENDPOINT, after=after)["resource"]["service.instance.id"] == "home.example"


SAMPLING = """
from federation.server.tracing import ServerTracing
from federation.clock import SYSTEM_CLOCK
decisions = []
for flag in ("00", "01"):
    parent = "00-" + "f" * 32 + "-" + "1" * 16 + "-" + flag
    with ServerTracing(telemetry.spans, SYSTEM_CLOCK)((("traceparent", parent),), "list", "tasks", None, "p") as served:
        decisions.append(trace.get_current_span().is_recording())
print(json.dumps({"decisions": decisions}), file=sys.stderr)
import os; sys.stdout.flush(); sys.stderr.flush(); os._exit(0)
"""


@pytest.mark.parametrize(
    ("environment", "decisions"),
    [
        ({}, [True, True]),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, [False, False]),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}, [False, False]),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1"}, [True, True]),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "junk"}, [True, True]),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, [False, False]),
    ],
)
def test_a_peers_sampled_flag_does_not_command(environment: dict[str, str], decisions: list[bool]) -> None:
    """Whether B records a call is B's own rate, the same for a sampled and an unsampled caller."""
    made = report({**ENDPOINT, **environment}, after=SAMPLING)

    assert json.loads(made["log"].splitlines()[-1])["decisions"] == decisions


def test_a_collector_that_is_away_holds_nobody_up() -> None:
    """Flush and shutdown keep to their time, and say what was lost."""
    after = """
import time
telemetry.spans.tracer().start_span("y").end()
begun = time.monotonic()
telemetry.flush(0.2)
telemetry.shutdown(0.3)
assert time.monotonic() - begun < 2
"""
    assert "the collector did not take everything within 0.3 s" in report(ENDPOINT, after=after + LEAVE)["log"]
