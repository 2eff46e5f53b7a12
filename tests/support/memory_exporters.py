"""Spans and metrics of one test in memory, and flows stepped by hand."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from federation.client.chain.flow import Call, Flow, Interceptor, Outcome, compose
from federation.telemetry.spans import SpanSource


class SpanLog(SimpleSpanProcessor):
    """Counts started spans and keeps ended ones."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        super().__init__(self.exporter)
        self.started = 0
        self.provider = TracerProvider(sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(self)
        self.source = SpanSource(self.provider)

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.started += 1
        super().on_start(span, parent_context)

    @property
    def ended(self) -> Sequence[ReadableSpan]:
        """The ended spans, in order."""
        return self.exporter.get_finished_spans()

    @property
    def leaked(self) -> int:
        """Spans that were started and not ended."""
        return self.started - len(self.ended)

    def one(self, **attributes: object) -> ReadableSpan:
        """The only span with these attributes."""
        found = [span for span in self.ended if attributes.items() <= dict(span.attributes or {}).items()]
        assert len(found) == 1, [(span.name, dict(span.attributes or {})) for span in self.ended]
        return found[0]


class MetricLog:
    """The exported points of a meter, by metric name."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader], shutdown_on_exit=False)

    def points(self, name: str) -> dict[tuple[tuple[str, Any], ...], Any]:
        """Attributes (sorted pairs) and value, or the data point of a histogram."""
        data = self._reader.get_metrics_data()
        return {
            tuple(sorted((point.attributes or {}).items())): getattr(point, "value", point)
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        }


def answer(interceptors: Sequence[Interceptor], call: Call, *outcomes: Outcome) -> tuple[Outcome, list[Call]]:
    """Run the flow of a call with these outcomes for the calls that it sends; return its outcome and those calls."""
    flow = compose(interceptors)(call)
    sent: list[Call] = []
    waiting = iter(outcomes)
    try:
        step = next(flow)
        while True:
            assert isinstance(step, Call)
            sent.append(step)
            step = flow.send(next(waiting))
    except StopIteration as end:
        return end.value, sent


def suspended_flow(interceptors: Sequence[Interceptor], call: Call) -> tuple[Flow, Call]:
    """Run the flow of a call until it sends; return the flow and the sent call."""
    flow = compose(interceptors)(call)
    step = next(flow)
    assert isinstance(step, Call)
    return flow, step


@pytest.fixture
def span_log() -> Iterator[SpanLog]:
    """A span log; every span must have ended at the end of the test."""
    log = SpanLog()
    yield log
    assert log.leaked == 0


@pytest.fixture
def metric_log() -> MetricLog:
    """A metric log."""
    return MetricLog()
