"""Figures: names, bounded attributes, readers that come and go."""

from collections.abc import Iterable

from opentelemetry.metrics import MeterProvider, NoOpMeterProvider

from federation.breaker import CircuitState
from federation.telemetry.metrics import CIRCUIT_STATE_VALUE, CacheReading, FederationMetrics, metrics_for
from federation.telemetry.spans import OutcomeWord
from tests.support.spans import MetricLog

WORK, LAB = (("peer", "work.example"),), (("peer", "lab.example"),)


def test_calls_are_counted_and_timed_under_three_attributes(metric_log: MetricLog) -> None:
    """`requests` and `duration` carry peer, verb and outcome and nothing else."""
    metrics = FederationMetrics(metric_log.provider)
    for _ in range(3):
        metrics.call_ended("work.example", "list", OutcomeWord.OK, 0.002)
    metrics.call_ended("work.example", "get", OutcomeWord.DENIED, 0.2)

    listed = (("outcome", "ok"), ("peer", "work.example"), ("verb", "list"))
    got = (("outcome", "denied"), ("peer", "work.example"), ("verb", "get"))
    assert metric_log.points("federation.client.requests") == {listed: 3, got: 1}
    durations = metric_log.points("federation.client.duration")
    assert set(durations) == {listed, got}
    assert durations[listed].count == 3
    assert durations[listed].explicit_bounds[0] == 0.0001


def test_cache_figures_come_from_their_owners(metric_log: MetricLog) -> None:
    """Hits, misses, flushes and bytes of a peer, summed over its users."""
    metrics = FederationMetrics(metric_log.provider)
    metrics.read_cache(lambda: [("work.example", CacheReading(1, 2, 3, 4)), ("lab.example", CacheReading(5, 6, 7, 8))])
    metrics.read_cache(lambda: [("work.example", CacheReading(10, 20, 30, 40))])

    figures = {name: metric_log.points(f"federation.cache.{name}") for name in ("hits", "misses", "flushes", "bytes")}
    assert figures == {
        "hits": {WORK: 11, LAB: 5},
        "misses": {WORK: 22, LAB: 6},
        "flushes": {WORK: 33, LAB: 7},
        "bytes": {WORK: 44, LAB: 8},
    }


def test_the_worst_circuit_of_a_peer_is_its_state(metric_log: MetricLog) -> None:
    """Two users' circuits to one peer are one series: the one that is worse."""
    metrics = FederationMetrics(metric_log.provider)
    metrics.read_circuits(lambda: [("work.example", "closed"), ("work.example", "open"), ("lab.example", "half_open")])
    metrics.read_circuits(lambda: [("work.example", "half_open")])

    assert metric_log.points("federation.circuit.state") == {WORK: 2, LAB: 1}
    assert set(CIRCUIT_STATE_VALUE) == {state.value for state in CircuitState}


def test_transitions_count_by_new_state(metric_log: MetricLog) -> None:
    """`federation.circuit.transitions` tells how often each state was entered."""
    metrics = FederationMetrics(metric_log.provider)
    for state in ("open", "half_open", "open"):
        metrics.circuit_turned("work.example", state)

    assert metric_log.points("federation.circuit.transitions") == {
        (*WORK, ("state", "open")): 2,
        (*WORK, ("state", "half_open")): 1,
    }


def test_leases_and_dropped_audit_events_are_totals(metric_log: MetricLog) -> None:
    """Without a reader there is no figure; with several, their sum."""
    metrics = FederationMetrics(metric_log.provider)
    assert metric_log.points("federation.leases") == {}

    metrics.read_leases(lambda: 3)
    metrics.read_leases(lambda: 4)
    metrics.read_audit_dropped(lambda: 5)

    assert metric_log.points("federation.leases") == {(): 7}
    assert metric_log.points("federation.audit.dropped") == {(): 5}


def test_a_reader_can_be_taken_back(metric_log: MetricLog) -> None:
    """What a closed owner counted is read no more; taking it back twice is fine."""
    metrics = FederationMetrics(metric_log.provider)

    def read() -> Iterable[tuple[str, str]]:
        return [("work.example", "open")]

    end = metrics.read_circuits(read)
    end()
    end()

    assert metric_log.points("federation.circuit.state") == {}


def test_every_metric_of_the_design_exists(metric_log: MetricLog) -> None:
    """The names of the design and those of the watch, no more and no fewer."""
    made: list[str] = []

    class Naming(NoOpMeterProvider):
        def get_meter(self, *args: object, **options: object) -> object:  # type: ignore[override]
            meter = metric_log.provider.get_meter("names")
            for kind in ("counter", "histogram", "observable_counter", "observable_gauge"):
                create = getattr(meter, f"create_{kind}")
                setattr(
                    meter, f"create_{kind}", lambda name, *a, c=create, **k: (made.append(name), c(name, *a, **k))[1]
                )
            return meter

    provider: MeterProvider = Naming()
    FederationMetrics(provider)

    assert sorted(made) == sorted(
        [
            *("federation.client.requests", "federation.client.duration"),
            *("federation.cache.hits", "federation.cache.misses", "federation.cache.flushes", "federation.cache.bytes"),
            *("federation.circuit.state", "federation.circuit.transitions"),
            *("federation.leases", "federation.audit.dropped"),
            *("federation.watch.state", "federation.watch.events"),
        ]
    )


def test_instruments_are_made_once_a_provider(metric_log: MetricLog) -> None:
    """Two gateways that report to one provider share its instruments, so nothing is reported twice."""
    first, second = metrics_for(metric_log.provider), metrics_for(metric_log.provider)
    first.read_leases(lambda: 1)
    second.read_leases(lambda: 2)

    assert first is second
    assert metric_log.points("federation.leases") == {(): 3}
    assert metrics_for(MetricLog().provider) is not first
    assert metrics_for(None) is metrics_for(None)
