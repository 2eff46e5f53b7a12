"""An OTLP collector: receives spans, metrics and logs over gRPC."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True)
class ReceivedSpan:
    """A received span; ids are hexadecimal."""

    instance: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    links: tuple[tuple[str, str, str], ...]
    """Trace id, span id, and the purpose of the link."""
    events: tuple[str, ...]
    status: int

    @property
    def outcome(self) -> Any:
        """The outcome attribute."""
        return self.attributes.get("outcome")


@dataclass(frozen=True)
class ReceivedLog:
    """A received log record; ids are hexadecimal, empty without a span."""

    instance: str
    logger: str
    severity: str
    body: str
    trace_id: str
    span_id: str
    attributes: dict[str, Any]


Points = dict[tuple[tuple[str, Any], ...], float]
"""Value (of a histogram the count) by sorted attributes."""


class Collector(
    trace_service_pb2_grpc.TraceServiceServicer,
    metrics_service_pb2_grpc.MetricsServiceServicer,
    logs_service_pb2_grpc.LogsServiceServicer,
):
    """Keeps all received spans and log records, and the latest metric points."""

    def __init__(self) -> None:
        self.spans: list[ReceivedSpan] = []
        self.lines: list[ReceivedLog] = []
        self.points: dict[tuple[str, str], Points] = {}
        """By instance and metric name."""
        self.services: set[str] = set()
        self.endpoint = ""
        self._changed = threading.Condition()

    @property
    def metrics(self) -> set[str]:
        """The names of the received metrics."""
        return {name for _, name in self.points}

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        del context
        with self._changed:
            for kind, take in (("spans", self._spans), ("metrics", self._metrics), ("logs", self._logs)):
                for resource in getattr(request, f"resource_{kind}", ()):
                    about = _attributes(resource.resource.attributes)
                    self.services.add(about["service.name"])
                    for scope in getattr(resource, f"scope_{kind}"):
                        take(about["service.instance.id"], scope)
            self._changed.notify_all()
        return _ANSWERS[type(request)]()

    def _spans(self, instance: str, scope: Any) -> None:
        self.spans += [_received(instance, span) for span in scope.spans]

    def _metrics(self, instance: str, scope: Any) -> None:
        for metric in scope.metrics:
            data = getattr(metric, metric.WhichOneof("data"))
            self.points[instance, metric.name] = {
                tuple(sorted(_attributes(point.attributes).items())): _value(point) for point in data.data_points
            }

    def _logs(self, instance: str, scope: Any) -> None:
        self.lines += [
            ReceivedLog(
                instance,
                scope.scope.name,
                line.severity_text,
                line.body.string_value,
                line.trace_id.hex(),
                line.span_id.hex(),
                _attributes(line.attributes),
            )
            for line in scope.log_records
        ]

    def wait(self, condition: Callable[["Collector"], bool], timeout: float = 10.0) -> None:
        """Block until the condition holds; fail the test at the timeout."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), timeout), vars(self)


def _received(instance: str, span: Any) -> ReceivedSpan:
    return ReceivedSpan(
        instance,
        span.name,
        span.kind,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        _attributes(span.attributes),
        tuple(
            (link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes)["federation.link"])
            for link in span.links
        ),
        tuple(event.name for event in span.events),
        span.status.code,
    )


def _value(point: Any) -> float:
    if hasattr(point, "bucket_counts"):
        return float(point.count)
    return float(getattr(point, point.WhichOneof("value")))


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


_ANSWERS = {
    trace_service_pb2.ExportTraceServiceRequest: trace_service_pb2.ExportTraceServiceResponse,
    metrics_service_pb2.ExportMetricsServiceRequest: metrics_service_pb2.ExportMetricsServiceResponse,
    logs_service_pb2.ExportLogsServiceRequest: logs_service_pb2.ExportLogsServiceResponse,
}


@contextmanager
def running_collector(made: Collector | None = None) -> Iterator[Collector]:
    """Run a collector on a free port; `made` is a subclass's instance to run instead."""
    made = made or Collector()
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(made, server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(made, server)
    logs_service_pb2_grpc.add_LogsServiceServicer_to_server(made, server)
    made.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield made
    server.stop(None).wait()


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A running collector."""
    with running_collector() as made:
        yield made
