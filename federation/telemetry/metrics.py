"""The figures a gateway keeps of itself, as OpenTelemetry instruments: made once, almost free while no SDK reads them.

Attributes are `peer` and words of small, fixed sets (`verb`, `outcome`, `state`, `kind`) and nothing else, so the
number of series is bounded by the peers.
"""

from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Final, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from federation.telemetry.spans import SCOPE, OutcomeWord

__all__ = ["CIRCUIT_STATE_VALUE", "WATCH_STATE_VALUE", "CacheReading", "FederationMetrics", "Reader", "metrics_for"]

T = TypeVar("T")
Reader = Callable[[], Iterable[tuple[str, T]]]
"""Yields (peer, figure) when somebody collects; several figures of one peer name (one a user) are merged."""

CIRCUIT_STATE_VALUE: Final[Mapping[str, int]] = {"closed": 0, "half_open": 1, "open": 2}
"""The value of `federation.circuit.state`; of several circuits to one peer the worst counts."""
WATCH_STATE_VALUE: Final[Mapping[str, int]] = {"armed": 0, "connecting": 1, "off": 2}
"""The value of `federation.watch.state`; of several watches of one peer the worst counts."""
DURATION_BOUNDARIES: Final = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
"""Seconds; the first ones tell hits apart."""


class CacheReading(NamedTuple):
    """Totals of one peer's part of the response cache."""

    hits: int
    misses: int
    flushes: int
    bytes: int


class FederationMetrics:
    """All instruments of one gateway. Owners register readers of what they count; a reader must not block."""

    def __init__(self, provider: MeterProvider | None = None, *, version: str = "") -> None:
        meter = (provider or metrics.get_meter_provider()).get_meter(SCOPE, version)
        self._lock = Lock()
        self._calls: dict[tuple[str, str, OutcomeWord], int] = {}
        # Counted here and observed: the SDK's own counter costs as much as a third of a span on every hit.
        meter.create_observable_counter(
            "federation.client.requests", [self._requests], "{call}", "Calls to peers, hits included"
        )
        self._duration = meter.create_histogram(
            "federation.client.duration",
            "s",
            "How long callers waited for a peer's answer",
            explicit_bucket_boundaries_advisory=DURATION_BOUNDARIES,
        )
        self._transitions = meter.create_counter("federation.circuit.transitions", "{change}", "Circuit state changes")
        self._watch_events = meter.create_counter(
            "federation.watch.events", "{event}", "What peers said on their watches"
        )
        self._caches: list[Reader[CacheReading]] = []
        self._watches: list[Reader[str]] = []
        self._circuits: list[Reader[str]] = []
        self._leases: list[Callable[[], int]] = []
        self._dropped: list[Callable[[], int]] = []
        for name, unit, text in (
            ("hits", "{hit}", "Answers served from the cache"),
            ("misses", "{miss}", "Cacheable calls that the cache could not answer"),
            ("flushes", "{flush}", "Times a peer's entries were dropped at once"),
        ):
            meter.create_observable_counter(f"federation.cache.{name}", [self._cache(name)], unit, text)
        meter.create_observable_gauge("federation.cache.bytes", [self._cache("bytes")], "By", "Size of kept answers")
        meter.create_observable_gauge(
            "federation.circuit.state", [self._circuit_states], "", "0 closed, 1 half-open, 2 open"
        )
        meter.create_observable_gauge(
            "federation.watch.state", [self._watch_states], "", "0 armed, 1 connecting, 2 off"
        )
        meter.create_observable_gauge("federation.leases", [self._total(self._leases)], "{lease}", "Leases given out")
        meter.create_observable_counter(
            "federation.audit.dropped", [self._total(self._dropped)], "{event}", "Denials that the audit only counted"
        )

    def call_ended(self, peer: str, verb: str, outcome: OutcomeWord, took_s: float) -> None:
        """Count a call of a local caller, however it was answered."""
        key = (peer, verb, outcome)
        with self._lock:
            self._calls[key] = self._calls.get(key, 0) + 1
        self._duration.record(took_s, _about(key))

    def circuit_turned(self, peer: str, after: str) -> None:
        """Count a change of a circuit's state; `after` is the new one."""
        self._transitions.add(1, {"peer": peer, "state": after})

    def watch_heard(self, peer: str, kind: str) -> None:
        """Count an event of a peer's watch; `kind` is one of those that the contract names."""
        self._watch_events.add(1, {"peer": peer, "kind": kind})

    def read_cache(self, reader: Reader[CacheReading]) -> Callable[[], None]:
        """Read cache figures from here on; returns what ends it."""
        return self._register(self._caches, reader)

    def read_circuits(self, reader: Reader[str]) -> Callable[[], None]:
        """Read circuit states (`closed`, `half_open`, `open`) from here on; returns what ends it."""
        return self._register(self._circuits, reader)

    def read_watches(self, reader: Reader[str]) -> Callable[[], None]:
        """Read the states of watches (`armed`, `connecting`, `off`) from here on; returns what ends it."""
        return self._register(self._watches, reader)

    def read_leases(self, reader: Callable[[], int]) -> Callable[[], None]:
        """Read the number of leases given out from here on; returns what ends it."""
        return self._register(self._leases, reader)

    def read_audit_dropped(self, reader: Callable[[], int]) -> Callable[[], None]:
        """Read the total of audit events that were only counted from here on; returns what ends it."""
        return self._register(self._dropped, reader)

    def _register(self, readers: list[T], reader: T) -> Callable[[], None]:
        with self._lock:
            readers.append(reader)

        def end() -> None:
            with self._lock:
                if reader in readers:
                    readers.remove(reader)

        return end

    def _readers(self, readers: list[T]) -> list[T]:
        with self._lock:
            return readers.copy()

    def _requests(self, _: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            calls = self._calls.copy()
        return [Observation(count, _about(key)) for key, count in calls.items()]

    def _cache(self, figure: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            totals: dict[str, int] = {}
            for read in self._readers(self._caches):
                for peer, reading in read():
                    totals[peer] = totals.get(peer, 0) + getattr(reading, figure)
            return [Observation(total, {"peer": peer}) for peer, total in totals.items()]

        return observe

    def _circuit_states(self, _: CallbackOptions) -> Iterable[Observation]:
        return self._worst(self._circuits, CIRCUIT_STATE_VALUE)

    def _watch_states(self, _: CallbackOptions) -> Iterable[Observation]:
        return self._worst(self._watches, WATCH_STATE_VALUE)

    def _worst(self, readers: list[Reader[str]], values: Mapping[str, int]) -> Iterable[Observation]:
        worst: dict[str, int] = {}
        for read in self._readers(readers):
            for peer, state in read():
                worst[peer] = max(worst.get(peer, 0), values[state])
        return [Observation(value, {"peer": peer}) for peer, value in worst.items()]

    def _total(self, readers: list[Callable[[], int]]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            current = self._readers(readers)
            return [Observation(sum(read() for read in current))] if current else []

        return observe


_LOCK: Final = Lock()
_MADE: "Final[WeakKeyDictionary[MeterProvider, FederationMetrics]]" = WeakKeyDictionary()


def metrics_for(provider: MeterProvider | None, *, version: str = "") -> FederationMetrics:
    """Return the instruments on a provider (`None`: the global one), made once: a second set would report twice."""
    provider = provider or metrics.get_meter_provider()
    with _LOCK:
        made = _MADE.get(provider)
        if made is None:
            made = _MADE[provider] = FederationMetrics(provider, version=version)
    return made


def _about(key: tuple[str, str, OutcomeWord]) -> dict[str, str]:
    peer, verb, outcome = key
    return {"peer": peer, "verb": verb, "outcome": outcome.value}
