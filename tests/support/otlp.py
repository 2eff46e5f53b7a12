"""A collector: receives spans and metrics by real OTLP over gRPC."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True)
class Received:
    """One span as it arrived; ids are hexadecimal."""

    instance: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    links: tuple[tuple[str, str, str], ...]
    """Trace, span, and what the link is for."""
    events: tuple[str, ...]
    status: int

    @property
    def outcome(self) -> Any:
        """The outcome word."""
        return self.attributes.get("outcome")


class Collector(trace_service_pb2_grpc.TraceServiceServicer, metrics_service_pb2_grpc.MetricsServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.metrics: set[str] = set()
        self.services: set[str] = set()
        self.endpoint = ""
        self._changed = threading.Condition()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        del context
        with self._changed:
            for resource in getattr(request, "resource_spans", ()):
                about = _attributes(resource.resource.attributes)
                self.services.add(about["service.name"])
                instance = about["service.instance.id"]
                self.spans += [_received(instance, span) for scope in resource.scope_spans for span in scope.spans]
            for resource in getattr(request, "resource_metrics", ()):
                self.metrics |= {metric.name for scope in resource.scope_metrics for metric in scope.metrics}
            self._changed.notify_all()
        if isinstance(request, trace_service_pb2.ExportTraceServiceRequest):
            return trace_service_pb2.ExportTraceServiceResponse()
        return metrics_service_pb2.ExportMetricsServiceResponse()

    def wait(self, condition: Callable[["Collector"], bool], timeout: float = 10.0) -> None:
        """Block until the condition holds; fail the test where it does not come true."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), timeout), self.spans


def _received(instance: str, span: Any) -> Received:
    return Received(
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


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A running collector on a port of its own."""
    made = Collector()
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(made, server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(made, server)
    made.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield made
    server.stop(None).wait()
