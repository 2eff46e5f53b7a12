"""Metrics: names, bounded attributes, and readers that are registered and unregistered."""

import re
from collections.abc import Iterable
from functools import partial
from typing import Any

from opentelemetry.metrics import NoOpMeterProvider

from federation.breaker import CircuitState
from federation.cache.entries import InvalidationReason
from federation.client.peers.watch_handle import WatchState
from federation.client.watch.events import EVENT_KINDS
from federation.telemetry.metrics import (
    CIRCUIT_STATE_VALUE,
    WATCH_STATE_VALUE,
    CacheReading,
    FederationMetrics,
    Remaining,
    metrics_for,
)
from federation.telemetry.spans import OutcomeName
from tests.support import metric_table
from tests.support.memory_exporters import MetricLog
from tests.support.metric_table import METRICS, prometheus_name

WORK, LAB = (("peer", "work.example"),), (("peer", "lab.example"),)


def test_calls_are_counted_and_timed_under_four_attributes(metric_log: MetricLog) -> None:
    """`requests` and `duration` carry peer, verb, outcome and whether the cache answered, and nothing else."""
    metrics = FederationMetrics(metric_log.provider)
    for cached in (False, True, True):
        metrics.call_ended("work.example", "list", OutcomeName.OK, 0.002, cached=cached)
    metrics.call_ended("work.example", "get", OutcomeName.DENIED, 0.2, cached=False)

    live = (("cached", False), ("outcome", "ok"), ("peer", "work.example"), ("verb", "list"))
    hit = (("cached", True), *live[1:])
    got = (("cached", False), ("outcome", "denied"), ("peer", "work.example"), ("verb", "get"))
    assert metric_log.points("federation.client.requests") == {live: 1, hit: 2, got: 1}
    durations = metric_log.points("federation.client.duration")
    assert {key: (point.count, point.sum) for key, point in durations.items()} == {
        live: (1, 0.002),
        hit: (2, 0.004),
        got: (1, 0.2),
    }
    assert durations[live].explicit_bounds[0] == 0.0001
    assert metric_log.points("federation.server.requests") == {}


def test_served_calls_are_counted_apart(metric_log: MetricLog) -> None:
    """`federation.server.*` carry peer, verb and outcome; a caller whose grant is unknown has no peer."""
    metrics = FederationMetrics(metric_log.provider)
    metrics.call_served("home.example", "list", OutcomeName.OK, 0.5)
    metrics.call_served("home.example", "list", OutcomeName.OK, 0.25)
    metrics.call_served("", "list", OutcomeName.DENIED, 0.25)

    known = (("outcome", "ok"), ("peer", "home.example"), ("verb", "list"))
    unknown = (("outcome", "denied"), ("verb", "list"))
    assert metric_log.points("federation.server.requests") == {known: 2, unknown: 1}
    durations = metric_log.points("federation.server.duration")
    assert {key: (point.count, point.sum) for key, point in durations.items()} == {known: (2, 0.75), unknown: (1, 0.25)}
    assert durations[known].explicit_bounds[0] == 0.0001
    assert metric_log.points("federation.client.requests") == {}


def test_cache_totals_come_from_readers(metric_log: MetricLog) -> None:
    """Hits, misses and bytes of a peer and its flushes by cause, summed over its users."""
    metrics = FederationMetrics(metric_log.provider)
    metrics.read_cache(
        lambda: [
            ("work.example", CacheReading(1, 2, 4, {"rotation": 3, "refused": 1})),
            ("lab.example", CacheReading(5, 6, 8, {})),
        ]
    )
    metrics.read_cache(lambda: [("work.example", CacheReading(10, 20, 40, {"rotation": 30}))])

    figures = {name: metric_log.points(f"federation.cache.{name}") for name in ("hits", "misses", "flushes", "bytes")}
    assert figures == {
        "hits": {WORK: 11, LAB: 5},
        "misses": {WORK: 22, LAB: 6},
        "flushes": {(("cause", "rotation"), *WORK): 33, (("cause", "refused"), *WORK): 1},
        "bytes": {WORK: 44, LAB: 8},
    }


def test_the_certificate_that_ends_first_counts(metric_log: MetricLog) -> None:
    """The minimum over a peer's users is reported; the gateway's own certificate has no peer."""
    metrics = FederationMetrics(metric_log.provider)
    metrics.read_certificates(
        lambda: [("work.example", Remaining("client", 90.0)), ("work.example", Remaining("client", -5.0))]
    )
    metrics.read_certificates(lambda: [("work.example", Remaining("client", 10.0)), ("", Remaining("server", 1_000.0))])

    assert metric_log.points("federation.certificate.remaining") == {
        (("kind", "client"), *WORK): -5.0,
        (("kind", "server"),): 1_000.0,
    }


def test_renewals_count_by_outcome(metric_log: MetricLog) -> None:
    """Totals of a peer's users are summed for each outcome."""
    metrics = FederationMetrics(metric_log.provider)
    metrics.read_renewals(lambda: [("work.example", {"ok": 2, "offline": 1}), ("work.example", {"ok": 1})])

    assert metric_log.points("federation.certificate.renewals") == {
        (("outcome", "ok"), *WORK): 3,
        (("outcome", "offline"), *WORK): 1,
    }


def test_the_worst_circuit_of_a_peer_is_its_state(metric_log: MetricLog) -> None:
    """Two users' circuits to one peer are one series: the one that is worse."""
    metrics = FederationMetrics(metric_log.provider)
    metrics.read_circuits(lambda: [("work.example", "closed"), ("work.example", "open"), ("lab.example", "half_open")])
    metrics.read_circuits(lambda: [("work.example", "half_open")])

    assert metric_log.points("federation.circuit.state") == {WORK: 2, LAB: 1}
    assert set(CIRCUIT_STATE_VALUE) == {state.value for state in CircuitState}


def test_the_worst_watch_of_a_peer_is_its_state(metric_log: MetricLog) -> None:
    """Two users' watches of one peer are one series: the one that is worse."""
    metrics = FederationMetrics(metric_log.provider)
    metrics.read_watches(lambda: [("work.example", "armed"), ("work.example", "off"), ("lab.example", "connecting")])

    assert metric_log.points("federation.watch.state") == {WORK: 2, LAB: 1}
    assert set(WATCH_STATE_VALUE) == {state.value for state in WatchState}


def test_events_of_a_watch_count_by_kind(metric_log: MetricLog) -> None:
    """`federation.watch.events` counts the events of a peer by kind."""
    metrics = FederationMetrics(metric_log.provider)
    for kind in ("armed", "heartbeat", "heartbeat"):
        metrics.watch_event("work.example", kind)

    assert metric_log.points("federation.watch.events") == {
        (("kind", "armed"), *WORK): 1,
        (("kind", "heartbeat"), *WORK): 2,
    }


def test_transitions_count_by_new_state(metric_log: MetricLog) -> None:
    """`federation.circuit.transitions` tells how often each state was entered."""
    metrics = FederationMetrics(metric_log.provider)
    for state in ("open", "half_open", "open"):
        metrics.circuit_transition("work.example", state)

    assert metric_log.points("federation.circuit.transitions") == {
        (*WORK, ("state", "open")): 2,
        (*WORK, ("state", "half_open")): 1,
    }


def test_leases_and_dropped_audit_events_are_totals(metric_log: MetricLog) -> None:
    """Without a reader there is no value; with several, their sum."""
    metrics = FederationMetrics(metric_log.provider)
    assert metric_log.points("federation.leases") == {}

    metrics.read_leases(lambda: 3)
    metrics.read_leases(lambda: 4)
    metrics.read_audit_dropped(lambda: 5)

    assert metric_log.points("federation.leases") == {(): 7}
    assert metric_log.points("federation.audit.dropped") == {(): 5}


def test_a_reader_can_be_unregistered(metric_log: MetricLog) -> None:
    """An unregistered reader is not called; unregistering is idempotent."""
    metrics = FederationMetrics(metric_log.provider)

    def read() -> Iterable[tuple[str, str]]:
        return [("work.example", "open")]

    end = metrics.read_circuits(read)
    end()
    end()

    assert metric_log.points("federation.circuit.state") == {}


class Naming(NoOpMeterProvider):
    """Notes what is made: name, kind, unit and description of each instrument."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str, str, str]] = []

    def get_meter(self, *args: Any, **options: Any) -> Any:
        meter = super().get_meter(*args, **options)
        for method, kind in (
            ("create_counter", "counter"),
            ("create_observable_counter", "counter"),
            ("create_histogram", "histogram"),
            ("create_observable_gauge", "gauge"),
        ):
            setattr(meter, method, partial(self._note, method.startswith("create_observable"), kind))
        return meter

    def _note(self, observable: bool, kind: str, name: str, *rest: Any, **options: Any) -> None:
        unit, description = rest[1:] if observable else rest
        self.made.append((name, kind, unit, description))


def test_every_metric_of_the_design_exists() -> None:
    """The names of the design and those beside them; definitions and instruments are the same."""
    provider = Naming()
    FederationMetrics(provider)

    assert sorted(provider.made) == sorted((m.name, m.kind.value, m.unit, m.description) for m in METRICS)
    assert sorted(metric.name for metric in METRICS) == sorted(
        [
            *("federation.client.requests", "federation.client.duration"),
            *("federation.server.requests", "federation.server.duration"),
            *("federation.cache.hits", "federation.cache.misses", "federation.cache.flushes", "federation.cache.bytes"),
            *("federation.circuit.state", "federation.circuit.transitions"),
            *("federation.leases", "federation.audit.dropped"),
            *("federation.watch.state", "federation.watch.events"),
            *("federation.certificate.remaining", "federation.certificate.renewals"),
        ]
    )


def test_the_definitions_follow_the_conventions() -> None:
    """Lower-case dotted names, UCUM units or a word in braces, a description, attributes of the known few."""
    for metric in METRICS:
        assert re.fullmatch(r"federation(\.[a-z]+)+", metric.name)
        assert re.fullmatch(r"s|By||\{[a-z]+\}", metric.unit)
        assert metric.description[0].isupper()
        assert not metric.description.endswith(".")
        assert set(metric.attributes) <= {"peer", "verb", "outcome", "cached", "state", "kind", "cause"}
    assert len({prometheus_name(metric) for metric in METRICS}) == len(METRICS)


def test_the_table_of_the_document_matches_the_definitions() -> None:
    """OBSERVABILITY.md lists every metric as it is; `python -m tests.support.metric_table` writes it."""
    assert metric_table.documented_table() == metric_table.table()


def test_the_document_lists_every_value_of_every_attribute() -> None:
    """Every outcome, state, cause and kind is documented."""
    page = metric_table.PAGE.read_text(encoding="utf-8").split(metric_table.END)[1]
    causes, states = [cause.value for cause in InvalidationReason], [state.value for state in CircuitState]

    for word in (
        *OutcomeName,
        *causes,
        *states,
        *EVENT_KINDS,
        *(name for metric in METRICS for name in metric.attributes),
    ):
        assert f"`{word}`" in page


def test_instruments_are_created_once_per_provider(metric_log: MetricLog) -> None:
    """Two gateways that report to one provider share its instruments, so nothing is reported twice."""
    first, second = metrics_for(metric_log.provider), metrics_for(metric_log.provider)
    first.read_leases(lambda: 1)
    second.read_leases(lambda: 2)

    assert first is second
    assert metric_log.points("federation.leases") == {(): 3}
    assert metrics_for(MetricLog().provider) is not first
    assert metrics_for(None) is metrics_for(None)
