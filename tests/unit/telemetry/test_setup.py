"""The exporters that the environment selects, and their resource. Each case is a process: providers are global."""

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
from federation.telemetry.otlp_logs import OtlpLogHandler
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
    "logs": OtlpLogHandler.attached(),
    "page": telemetry.page is not None,
    "ours": len(telemetry._ends),
    "sampler": span and type(trace.get_tracer_provider().sampler).__name__,
}))
AFTER
"""
LEAVE = "import os; sys.stdout.flush(); os._exit(0)"
"""Without the exporters' last attempt to reach a collector that is not there."""
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_BSP_EXPORT_TIMEOUT": "1"}


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
def test_nothing_is_set_up_unless_enabled(environment: dict[str, str]) -> None:
    """No endpoint, exporters off, SDK disabled, another protocol: no thread, no provider, no span, no log handler."""
    made = report(environment)

    assert (made["logs"], made["page"]) == (False, False)
    assert made["threads"] == []
    assert made["global_tracers"] == "ProxyTracerProvider"
    assert (made["traced"], made["ours"]) == (False, 0)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", **ENDPOINT}, "OTLP by 'http/protobuf' is not supported"),
        ({"OTEL_TRACES_EXPORTER": "zipkin", **ENDPOINT}, "OTEL_TRACES_EXPORTER=zipkin, which is not otlp"),
        ({"OTEL_METRICS_EXPORTER": "otlp,prometheus", **ENDPOINT}, "set telemetry.prometheus in gateway.toml instead"),
    ],
)
def test_an_unsupported_exporter_or_protocol_is_reported(environment: dict[str, str], words: str) -> None:
    """An unsupported exporter or protocol gives a warning that names the variable or value."""
    assert words in report(environment)["log"]


TRACED, METERED = "_GatewayTracerProvider", "_GatewayMeterProvider"
UNTRACED, UNMETERED = "ProxyTracerProvider", "_ProxyMeterProvider"


@pytest.mark.parametrize(
    ("environment", "signals"),
    [
        (ENDPOINT, (TRACED, METERED, True)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, (TRACED, UNMETERED, False)),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1"}, (UNTRACED, METERED, False)),
        ({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://127.0.0.1:1"}, (UNTRACED, UNMETERED, True)),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, (TRACED, UNMETERED, False)),
        ({"OTEL_LOGS_EXPORTER": "otlp"}, (UNTRACED, UNMETERED, True)),
        ({**ENDPOINT, "OTEL_METRICS_EXPORTER": "none"}, (TRACED, UNMETERED, True)),
        ({**ENDPOINT, "OTEL_LOGS_EXPORTER": "none"}, (TRACED, METERED, False)),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc", **ENDPOINT},
            (TRACED, UNMETERED, False),
        ),
    ],
)
def test_each_signal_is_enabled_on_its_own(environment: dict[str, str], signals: tuple[str, str, bool]) -> None:
    """One variable for all, or one for each; the more specific one takes precedence."""
    made = report(environment)

    assert (made["global_tracers"], made["global_meters"], made["logs"]) == signals


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
    """`telemetry.enabled = false` creates neither spans nor metrics, whatever the environment says."""
    made = report(ENDPOINT, enabled=False)

    assert (made["traced"], made["metrics"], made["threads"]) == (False, False, [])


def test_an_sdk_of_the_embedding_program_is_used_and_left_alone() -> None:
    """Its provider makes the spans, nothing is exported besides, logs neither; our shutdown does not end it."""
    before = """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.metrics import MeterProvider
theirs = TracerProvider(shutdown_on_exit=False)
trace.set_tracer_provider(theirs)
metrics.set_meter_provider(MeterProvider(shutdown_on_exit=False))
"""
    after = """
assert telemetry.tracer_provider is theirs
telemetry.shutdown()
assert telemetry.spans.tracer().start_span("y").is_recording()
"""
    made = report(ENDPOINT, before=before, after=after)

    assert (made["global_tracers"], made["global_meters"]) == ("TracerProvider", "MeterProvider")
    assert (made["ours"], made["threads"], made["traced"], made["logs"]) == (0, [], True, False)


@pytest.mark.parametrize(
    "theirs",
    [
        "trace.set_tracer_provider(__import__('opentelemetry.sdk.trace').sdk.trace.TracerProvider())",
        "metrics.set_meter_provider(__import__('opentelemetry.sdk.metrics').sdk.metrics.MeterProvider())",
        """
from opentelemetry import _logs
from opentelemetry.sdk._logs import LoggerProvider
_logs.set_logger_provider(LoggerProvider())
""",
    ],
)
def test_a_program_with_an_sdk_of_any_kind_sends_its_logs_itself(theirs: str) -> None:
    """Whether it set up spans, metrics or logs: a second handler would send its lines twice, or unasked."""
    assert report({"OTEL_LOGS_EXPORTER": "otlp"}, before=theirs)["logs"] is False


def test_the_log_of_a_process_is_sent_once_and_until_the_end() -> None:
    """Two gateways of one process have one handler between them, and the shutdown takes it away."""
    after = """
import logging
handlers = logging.getLogger("federation").handlers
second = setup_telemetry(TelemetryConfig(), "work.example", "9.9")
assert len(handlers) == 1
second.shutdown(0.1)
assert len(handlers) == 1
telemetry.shutdown(0.1)
assert handlers == []
"""
    assert report({"OTEL_LOGS_EXPORTER": "otlp"}, after=after + LEAVE)["logs"] is True


def test_a_page_for_prometheus_alone_leaves_the_global_provider_alone() -> None:
    """Its figures are this gateway's; no thread before it is started, none after the shutdown, no exporter."""
    after = """
import urllib.request
telemetry.metrics.watch_event("work.example", "armed")
telemetry.page.start()
with urllib.request.urlopen(telemetry.page.url) as answer:
    text = answer.read().decode()
assert 'federation_watch_events_total{kind="armed",peer="work.example"} 1.0' in text, text
assert 'service_instance_id="home.example"' in text, text
telemetry.shutdown()
assert telemetry.page.url == ""
assert "federation-metrics" not in [thread.name for thread in threading.enumerate()]
"""
    made = report({}, after=after, prometheus="127.0.0.1:0")

    assert (made["page"], made["threads"], made["global_meters"]) == (True, [], UNMETERED)


def test_the_page_works_together_with_otlp() -> None:
    """One provider for both; the standard variable may name Prometheus, too, and nobody is warned."""
    environment = {"OTEL_METRICS_EXPORTER": "otlp,prometheus", "OTEL_TRACES_EXPORTER": "none", **ENDPOINT}
    made = report(environment | {"OTEL_LOGS_EXPORTER": "none"}, prometheus="127.0.0.1:0")

    assert (made["page"], made["global_meters"], made["log"]) == (True, METERED, "")


def test_the_page_shows_what_an_embedding_program_meters() -> None:
    """Its provider gets the page's reader, and loses it at our shutdown; it goes on for the program."""
    before = """
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
own = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([own], shutdown_on_exit=False))
"""
    after = """
import urllib.request
telemetry.metrics.watch_event("work.example", "armed")
telemetry.page.start()
with urllib.request.urlopen(telemetry.page.url) as answer:
    assert "federation_watch_events_total" in answer.read().decode()
telemetry.shutdown()
telemetry.metrics.watch_event("work.example", "armed")
[scope] = own.get_metrics_data().resource_metrics[0].scope_metrics
assert [metric.data.data_points[0].value for metric in scope.metrics] == [2]
telemetry.page.reader.collect()
"""
    made = report({}, before=before, after=after, prometheus="127.0.0.1:0")

    assert made["global_meters"] == "MeterProvider"
    assert made["log"].startswith("Cannot call collect")  # the SDK's words for a reader that no provider has


def test_the_page_is_shown_though_the_program_wants_no_metrics() -> None:
    """A no-op provider of the program's stays, and the page, which the operator named, has figures."""
    before = "metrics.set_meter_provider(metrics.NoOpMeterProvider())"
    after = """
import urllib.request
telemetry.metrics.watch_event("work.example", "armed")
telemetry.page.start()
with urllib.request.urlopen(telemetry.page.url) as answer:
    assert "federation_watch_events_total" in answer.read().decode()
"""
    made = report(ENDPOINT, before=before, after=after + LEAVE, prometheus="127.0.0.1:0")

    assert made["global_meters"] == "NoOpMeterProvider"
    assert report(ENDPOINT, before=before)["ours"] == 2  # spans and logs


def test_a_missing_extra_is_one_clear_line() -> None:
    """The error names the setting, the missing package and the command to install it."""
    before = """
from federation.errors import ConfigError
sys.modules["prometheus_client"] = None
try:
    setup_telemetry(TelemetryConfig(prometheus="127.0.0.1:0"), "home.example", "9.9")
except ConfigError as e:
    print(e, file=sys.stderr)
"""
    assert report({}, before=before)["log"] == (
        "telemetry.prometheus: prometheus_client is not installed; pip install 'mosaic-federation[prometheus]'\n"
    )


@pytest.mark.parametrize(("environment", "enabled"), [({}, False), ({"OTEL_SDK_DISABLED": "true"}, True)])
def test_a_page_of_a_gateway_without_telemetry_is_not_there(environment: dict[str, str], enabled: bool) -> None:
    """Disabled telemetry takes precedence, with a warning that the page is not served."""
    made = report(environment, enabled=enabled, prometheus="127.0.0.1:0")

    assert (made["page"], made["metrics"], made["threads"]) == (False, False, [])
    assert "telemetry.enabled is false, so telemetry.prometheus is not served" in made["log"]


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
from federation.server.pipeline.tracing import ServerTracing
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
def test_a_peers_sampled_flag_is_ignored(environment: dict[str, str], decisions: list[bool]) -> None:
    """Whether B records a call is B's own rate, the same for a sampled and an unsampled caller."""
    made = report({**ENDPOINT, **environment}, after=SAMPLING)

    assert json.loads(made["log"].splitlines()[-1])["decisions"] == decisions


def test_an_unreachable_collector_does_not_delay_the_shutdown() -> None:
    """The shutdown ends within its time-out, and logs that data was dropped."""
    after = """
import time
telemetry.spans.tracer().start_span("y").end()
begun = time.monotonic()
telemetry.shutdown(0.3)
assert time.monotonic() - begun < 2
"""
    assert "the collector did not accept all telemetry within 0.3 s" in report(ENDPOINT, after=after + LEAVE)["log"]
