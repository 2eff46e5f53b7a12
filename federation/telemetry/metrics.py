"""OpenTelemetry instruments of a gateway: created once, nearly free while no SDK reads them.

`federation.telemetry.metric_definitions` defines the metrics and their attributes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from operator import add
from threading import Lock
from typing import Final, Generic, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation

from federation.telemetry import metric_definitions as definitions
from federation.telemetry.metric_definitions import Kind, Metric
from federation.telemetry.spans import SCOPE, OutcomeName

T = TypeVar("T")
_ByPeer = Iterable[tuple[str, T]]
_Key = tuple[str | bool, ...]
"""Values of a metric's attributes, in the order of its definition; an empty one is left out."""
_Attributes = dict[str, str | bool]
_Merge = Callable[[float, float], float]

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


class _Readers(Generic[T]):
    """The readers of one kind of value. A reader must not block."""

    def __init__(self) -> None:
        self._readers: list[Callable[[], T]] = []
        self._lock = Lock()

    def register(self, reader: Callable[[], T]) -> Callable[[], None]:
        """Register a reader. Returns its unregister function."""
        with self._lock:
            self._readers.append(reader)

        def unregister() -> None:
            with self._lock:
                if reader in self._readers:
                    self._readers.remove(reader)

        return unregister

    def __iter__(self) -> Iterator[T]:
        with self._lock:
            readers = self._readers.copy()
        return (read() for read in readers)


class _Series:
    """One attribute set with its count. Created once, since a dict per call costs more than counting."""

    __slots__ = ("attributes", "count")

    def __init__(self, attributes: _Attributes) -> None:
        self.attributes = attributes
        self.count = 0


class _Calls:
    """Count and duration of calls. An observable counter, since the SDK's counter costs a third of a span per hit."""

    def __init__(self, meter: Meter, requests: Metric, duration: Metric) -> None:
        self._requests = requests
        self._series: dict[_Key, _Series] = {}
        self._lock = Lock()
        _observe(meter, requests, self._counts)
        self._duration = meter.create_histogram(
            duration.name,
            duration.unit,
            duration.description,
            explicit_bucket_boundaries_advisory=DURATION_BOUNDARIES,
        )

    def ended(self, key: _Key, took_s: float) -> None:
        with self._lock:
            series = self._series.get(key)
            if series is None:
                series = self._series[key] = _Series(_attributes(self._requests, key))
            series.count += 1
        self._duration.record(took_s, series.attributes)

    def _counts(self) -> list[tuple[_Key, float]]:
        with self._lock:
            return [(key, series.count) for key, series in self._series.items()]


class FederationMetrics:
    """All instruments of one gateway.

    Components register readers of their present values; each `read_…` returns the unregister function. The readers of
    values by peer yield (peer, value); values of one peer name (one per user) are merged.
    """

    def __init__(self, provider: MeterProvider | None = None, *, version: str = "") -> None:
        meter = (provider or metrics.get_meter_provider()).get_meter(SCOPE, version)
        self._client_calls = _Calls(meter, definitions.CLIENT_REQUESTS, definitions.CLIENT_DURATION)
        self._server_calls = _Calls(meter, definitions.SERVER_REQUESTS, definitions.SERVER_DURATION)
        transitions, events = definitions.CIRCUIT_TRANSITIONS, definitions.WATCH_EVENTS
        self._transitions = meter.create_counter(transitions.name, transitions.unit, transitions.description)
        self._watch_events = meter.create_counter(events.name, events.unit, events.description)

        caches = _Readers[_ByPeer[CacheReading]]()
        self.read_cache = caches.register
        """Registers a reader of cache totals."""
        _observe(meter, definitions.CACHE_HITS, lambda: (((peer,), cache.hits) for peer, cache in _all(caches)))
        _observe(meter, definitions.CACHE_MISSES, lambda: (((peer,), cache.misses) for peer, cache in _all(caches)))
        _observe(meter, definitions.CACHE_BYTES, lambda: (((peer,), cache.bytes) for peer, cache in _all(caches)))
        _observe(meter, definitions.CACHE_FLUSHES, lambda: _split((peer, c.flushes) for peer, c in _all(caches)))

        circuits = _Readers[_ByPeer[str]]()
        self.read_circuits = circuits.register
        """Registers a reader of circuit states (`closed`, `half_open`, `open`)."""
        _observe(meter, definitions.CIRCUIT_STATE, lambda: _ranked(circuits, CIRCUIT_STATE_VALUE), max)

        watches = _Readers[_ByPeer[str]]()
        self.read_watches = watches.register
        """Registers a reader of watch states (`armed`, `connecting`, `off`)."""
        _observe(meter, definitions.WATCH_STATE, lambda: _ranked(watches, WATCH_STATE_VALUE), max)

        certificates = _Readers[_ByPeer[Remaining]]()
        self.read_certificates = certificates.register
        """Registers a reader of certificate lifetimes; the peer of the own server certificate is empty."""
        lifetimes = definitions.CERTIFICATE_REMAINING
        _observe(meter, lifetimes, lambda: (((kind, peer), left) for peer, (kind, left) in _all(certificates)), min)

        renewals = _Readers[_ByPeer[Mapping[str, int]]]()
        self.read_renewals = renewals.register
        """Registers a reader of renewal totals by outcome."""
        _observe(meter, definitions.CERTIFICATE_RENEWALS, lambda: _split(_all(renewals)))

        leases = _Readers[int]()
        self.read_leases = leases.register
        """Registers a reader of the number of active leases."""
        _observe(meter, definitions.LEASES, lambda: (((), count) for count in leases))

        dropped = _Readers[int]()
        self.read_audit_dropped = dropped.register
        """Registers a reader of the total of dropped audit events."""
        _observe(meter, definitions.AUDIT_DROPPED, lambda: (((), count) for count in dropped))

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


def _observe(
    meter: Meter, metric: Metric, read: Callable[[], Iterable[tuple[_Key, float]]], merge: _Merge = add
) -> None:
    """Create an instrument that reports what `read` yields; `merge` combines figures with the same attributes."""

    def observe(_: CallbackOptions) -> Iterable[Observation]:
        merged: dict[_Key, float] = {}
        for key, figure in read():
            merged[key] = merge(merged[key], figure) if key in merged else figure
        return [Observation(figure, _attributes(metric, key)) for key, figure in merged.items()]

    create = meter.create_observable_counter if metric.kind is Kind.COUNTER else meter.create_observable_gauge
    create(metric.name, [observe], metric.unit, metric.description)


def _attributes(metric: Metric, key: _Key) -> _Attributes:
    return {name: value for name, value in zip(metric.attributes, key, strict=True) if value != ""}


def _all(readers: _Readers[_ByPeer[T]]) -> Iterator[tuple[str, T]]:
    return chain.from_iterable(readers)


def _split(readings: Iterable[tuple[str, Mapping[str, int]]]) -> Iterator[tuple[_Key, float]]:
    return (((peer, value), count) for peer, counts in readings for value, count in counts.items())


def _ranked(readers: _Readers[_ByPeer[str]], values: Mapping[str, int]) -> Iterator[tuple[_Key, float]]:
    return (((peer,), values[state]) for peer, state in _all(readers))
