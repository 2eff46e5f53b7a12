"""OpenTelemetry instruments of a gateway: created once, nearly free while no SDK reads them.

`federation.telemetry.metric_definitions` defines the metrics and their attributes.
"""

from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Final, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation

from federation.telemetry import metric_definitions as definitions
from federation.telemetry.metric_definitions import Kind, Metric
from federation.telemetry.spans import SCOPE, OutcomeName

T = TypeVar("T")
Reader = Callable[[], Iterable[tuple[str, T]]]
"""Yields (peer, value) at each collection. Values of one peer name (one per user) are merged."""
_Observe = Callable[[CallbackOptions], Iterable[Observation]]

CIRCUIT_STATE_VALUE: Final[Mapping[str, int]] = {"closed": 0, "half_open": 1, "open": 2}
"""Values of `federation.circuit.state`; of several circuits to one peer, the highest is reported."""
WATCH_STATE_VALUE: Final[Mapping[str, int]] = {"armed": 0, "connecting": 1, "off": 2}
"""Values of `federation.watch.state`; of several watches of one peer, the highest is reported."""
DURATION_BOUNDARIES: Final = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
"""Histogram buckets in seconds; the lowest ones resolve cache hits."""


class CacheReading(NamedTuple):
    """Totals of one peer's partition of the response cache; flushes by cause."""

    hits: int
    misses: int
    bytes: int
    flushes: Mapping[str, int]


class Remaining(NamedTuple):
    """Seconds until a certificate expires. `kind` is `client` (for calls to a peer) or `server` (the gateway's)."""

    kind: str
    seconds: float


class _Series:
    """One attribute set with its count. Created once, since a dict per call costs more than counting."""

    __slots__ = ("attributes", "count")

    def __init__(self, names: tuple[str, ...], values: tuple[str | bool, ...]) -> None:
        self.attributes = {name: value for name, value in zip(names, values, strict=True) if value != ""}
        self.count = 0


class _Calls:
    """Count and duration of calls. An observable counter, since the SDK's counter costs a third of a span per hit."""

    def __init__(self, meter: Meter, requests: Metric, duration: Metric) -> None:
        self._names = requests.attributes
        self._series: dict[tuple[str | bool, ...], _Series] = {}
        self._lock = Lock()
        _observed(meter, requests, self._observe)
        self._duration = meter.create_histogram(
            duration.name,
            duration.unit,
            duration.description,
            explicit_bucket_boundaries_advisory=DURATION_BOUNDARIES,
        )

    def ended(self, key: tuple[str | bool, ...], took_s: float) -> None:
        with self._lock:
            series = self._series.get(key)
            if series is None:
                series = self._series[key] = _Series(self._names, key)
            series.count += 1
        self._duration.record(took_s, series.attributes)

    def _observe(self, _: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            return [Observation(series.count, series.attributes) for series in self._series.values()]


class FederationMetrics:
    """All instruments of one gateway. Components register readers of their values; a reader must not block."""

    def __init__(self, provider: MeterProvider | None = None, *, version: str = "") -> None:
        meter = (provider or metrics.get_meter_provider()).get_meter(SCOPE, version)
        self._lock = Lock()
        self._client_calls = _Calls(meter, definitions.CLIENT_REQUESTS, definitions.CLIENT_DURATION)
        self._server_calls = _Calls(meter, definitions.SERVER_REQUESTS, definitions.SERVER_DURATION)
        transitions, events = definitions.CIRCUIT_TRANSITIONS, definitions.WATCH_EVENTS
        self._transitions = meter.create_counter(transitions.name, transitions.unit, transitions.description)
        self._watch_events = meter.create_counter(events.name, events.unit, events.description)
        self._caches: list[Reader[CacheReading]] = []
        self._watches: list[Reader[str]] = []
        self._circuits: list[Reader[str]] = []
        self._certificates: list[Reader[Remaining]] = []
        self._renewals: list[Reader[Mapping[str, int]]] = []
        self._leases: list[Callable[[], int]] = []
        self._dropped: list[Callable[[], int]] = []
        for metric, observe in (
            (definitions.CACHE_HITS, self._cache("hits")),
            (definitions.CACHE_MISSES, self._cache("misses")),
            (definitions.CACHE_BYTES, self._cache("bytes")),
            (definitions.CACHE_FLUSHES, self._flushes),
            (definitions.CIRCUIT_STATE, self._worst(self._circuits, CIRCUIT_STATE_VALUE)),
            (definitions.WATCH_STATE, self._worst(self._watches, WATCH_STATE_VALUE)),
            (definitions.LEASES, self._total(self._leases)),
            (definitions.AUDIT_DROPPED, self._total(self._dropped)),
            (definitions.CERTIFICATE_REMAINING, self._remaining),
            (definitions.CERTIFICATE_RENEWALS, self._renewed),
        ):
            _observed(meter, metric, observe)

    def call_ended(self, peer: str, verb: str, outcome: OutcomeName, took_s: float, *, cached: bool) -> None:
        """Count a call to a peer, cached or not."""
        self._client_calls.ended((peer, verb, outcome.value, cached), took_s)

    def call_served(self, peer: str, verb: str, outcome: OutcomeName, took_s: float) -> None:
        """Count a call of a peer; `peer` is the peer of its grant, empty if the grant is unknown."""
        self._server_calls.ended((peer, verb, outcome.value), took_s)

    def circuit_transition(self, peer: str, after: str) -> None:
        """Count a state transition of a circuit; `after` is the new state."""
        self._transitions.add(1, {"peer": peer, "state": after})

    def watch_event(self, peer: str, kind: str) -> None:
        """Count an event received on a watch; `kind` is an event kind of the wire contract."""
        self._watch_events.add(1, {"peer": peer, "kind": kind})

    def read_cache(self, reader: Reader[CacheReading]) -> Callable[[], None]:
        """Register a reader of cache totals. Returns its unregister function."""
        return self._register(self._caches, reader)

    def read_circuits(self, reader: Reader[str]) -> Callable[[], None]:
        """Register a reader of circuit states (`closed`, `half_open`, `open`). Returns its unregister function."""
        return self._register(self._circuits, reader)

    def read_watches(self, reader: Reader[str]) -> Callable[[], None]:
        """Register a reader of watch states (`armed`, `connecting`, `off`). Returns its unregister function."""
        return self._register(self._watches, reader)

    def read_certificates(self, reader: Reader[Remaining]) -> Callable[[], None]:
        """Register a reader of certificate lifetimes (own one: peer is empty). Returns its unregister function."""
        return self._register(self._certificates, reader)

    def read_renewals(self, reader: Reader[Mapping[str, int]]) -> Callable[[], None]:
        """Register a reader of renewal totals by outcome. Returns its unregister function."""
        return self._register(self._renewals, reader)

    def read_leases(self, reader: Callable[[], int]) -> Callable[[], None]:
        """Register a reader of the number of active leases. Returns its unregister function."""
        return self._register(self._leases, reader)

    def read_audit_dropped(self, reader: Callable[[], int]) -> Callable[[], None]:
        """Register a reader of the total of dropped audit events. Returns its unregister function."""
        return self._register(self._dropped, reader)

    def _register(self, readers: list[T], reader: T) -> Callable[[], None]:
        with self._lock:
            readers.append(reader)

        def unregister() -> None:
            with self._lock:
                if reader in readers:
                    readers.remove(reader)

        return unregister

    def _readers(self, readers: list[T]) -> list[T]:
        with self._lock:
            return readers.copy()

    def _read(self, readers: list[Reader[T]]) -> Iterable[tuple[str, T]]:
        for read in self._readers(readers):
            yield from read()

    def _cache(self, figure: str) -> _Observe:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            totals: dict[str, int] = {}
            for peer, reading in self._read(self._caches):
                totals[peer] = totals.get(peer, 0) + getattr(reading, figure)
            return [Observation(total, {"peer": peer}) for peer, total in totals.items()]

        return observe

    def _flushes(self, _: CallbackOptions) -> Iterable[Observation]:
        return _by_value("cause", ((peer, reading.flushes) for peer, reading in self._read(self._caches)))

    def _renewed(self, _: CallbackOptions) -> Iterable[Observation]:
        return _by_value("outcome", self._read(self._renewals))

    def _remaining(self, _: CallbackOptions) -> Iterable[Observation]:
        least: dict[tuple[str, str], float] = {}
        for peer, (kind, seconds) in self._read(self._certificates):
            least[kind, peer] = min(seconds, least.get((kind, peer), seconds))
        return [
            Observation(seconds, {"kind": kind, "peer": peer} if peer else {"kind": kind})
            for (kind, peer), seconds in least.items()
        ]

    def _worst(self, readers: list[Reader[str]], values: Mapping[str, int]) -> _Observe:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            worst: dict[str, int] = {}
            for peer, state in self._read(readers):
                worst[peer] = max(worst.get(peer, 0), values[state])
            return [Observation(value, {"peer": peer}) for peer, value in worst.items()]

        return observe

    def _total(self, readers: list[Callable[[], int]]) -> _Observe:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            current = self._readers(readers)
            return [Observation(sum(read() for read in current))] if current else []

        return observe


_LOCK: Final = Lock()
_INSTANCES: "Final[WeakKeyDictionary[MeterProvider, FederationMetrics]]" = WeakKeyDictionary()


def metrics_for(provider: MeterProvider | None, *, version: str = "") -> FederationMetrics:
    """Return the instruments of a provider (`None`: the global one). There is one set per provider, to count once."""
    provider = provider or metrics.get_meter_provider()
    with _LOCK:
        made = _INSTANCES.get(provider)
        if made is None:
            made = _INSTANCES[provider] = FederationMetrics(provider, version=version)
    return made


def _observed(meter: Meter, metric: Metric, observe: _Observe) -> None:
    create = meter.create_observable_counter if metric.kind is Kind.COUNTER else meter.create_observable_gauge
    create(metric.name, [observe], metric.unit, metric.description)


def _by_value(name: str, readings: Iterable[tuple[str, Mapping[str, int]]]) -> Iterable[Observation]:
    totals: dict[tuple[str, str], int] = {}
    for peer, counts in readings:
        for value, count in counts.items():
            totals[peer, value] = totals.get((peer, value), 0) + count
    return [Observation(total, {"peer": peer, name: value}) for (peer, value), total in totals.items()]
