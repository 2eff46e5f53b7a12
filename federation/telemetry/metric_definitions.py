"""Every metric of a gateway as data: the instruments, the table of the documentation and its tests are made of this."""

from enum import StrEnum
from typing import Final, NamedTuple

__all__ = [
    "AUDIT_DROPPED",
    "CACHE_BYTES",
    "CACHE_FLUSHES",
    "CACHE_HITS",
    "CACHE_MISSES",
    "CERTIFICATE_REMAINING",
    "CERTIFICATE_RENEWALS",
    "CIRCUIT_STATE",
    "CIRCUIT_TRANSITIONS",
    "CLIENT_DURATION",
    "CLIENT_REQUESTS",
    "LEASES",
    "METRICS",
    "SERVER_DURATION",
    "SERVER_REQUESTS",
    "WATCH_EVENTS",
    "WATCH_STATE",
    "Kind",
    "Metric",
]

_SUFFIXES: Final = {"s": "_seconds", "By": "_bytes"}


class Kind(StrEnum):
    """What a metric's figures are."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(NamedTuple):
    """One metric. `unit` is UCUM; a word in braces names what is counted and is no unit, nor is an empty one.

    `attributes` are all that a point may carry. Each is the name of a peer, which the operator gave, or a word of a
    small, fixed set, so the number of points is bounded by the number of peers.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()

    @property
    def prometheus_name(self) -> str:
        """How `/metrics` calls it; the points of a histogram end in `_bucket`, `_sum` and `_count` besides."""
        suffix = _SUFFIXES.get(self.unit, "")
        plain = self.name.replace(".", "_")
        total = "_total" if self.kind is Kind.COUNTER else ""
        return (plain if plain.endswith(suffix) else plain + suffix) + total


_CALL: Final = ("peer", "verb", "outcome")

CLIENT_REQUESTS: Final = Metric(
    "federation.client.requests",
    Kind.COUNTER,
    "{call}",
    "Calls to peers as their callers saw them end, answers from the cache included",
    (*_CALL, "cached"),
)
CLIENT_DURATION: Final = Metric(
    "federation.client.duration",
    Kind.HISTOGRAM,
    "s",
    "How long callers waited for a peer's answer",
    (*_CALL, "cached"),
)
SERVER_REQUESTS: Final = Metric(
    "federation.server.requests", Kind.COUNTER, "{call}", "Calls of peers to this gateway, by how they ended", _CALL
)
SERVER_DURATION: Final = Metric(
    "federation.server.duration", Kind.HISTOGRAM, "s", "How long this gateway took to answer a peer", _CALL
)
CACHE_HITS: Final = Metric("federation.cache.hits", Kind.COUNTER, "{hit}", "Answers served from the cache", ("peer",))
CACHE_MISSES: Final = Metric(
    "federation.cache.misses", Kind.COUNTER, "{miss}", "Cacheable calls that the cache could not answer", ("peer",)
)
CACHE_FLUSHES: Final = Metric(
    "federation.cache.flushes",
    Kind.COUNTER,
    "{flush}",
    "Times that kept answers were dropped together, by cause",
    ("peer", "cause"),
)
CACHE_BYTES: Final = Metric("federation.cache.bytes", Kind.GAUGE, "By", "Size of kept answers", ("peer",))
CIRCUIT_STATE: Final = Metric(
    "federation.circuit.state",
    Kind.GAUGE,
    "",
    "State of the circuit to a peer: 0 closed, 1 half-open, 2 open; the worst of its users' circuits",
    ("peer",),
)
CIRCUIT_TRANSITIONS: Final = Metric(
    "federation.circuit.transitions",
    Kind.COUNTER,
    "{change}",
    "Times that a circuit entered a state",
    ("peer", "state"),
)
WATCH_STATE: Final = Metric(
    "federation.watch.state",
    Kind.GAUGE,
    "",
    "State of the watch on a peer: 0 armed, 1 connecting, 2 off; the worst of its users' watches",
    ("peer",),
)
WATCH_EVENTS: Final = Metric(
    "federation.watch.events", Kind.COUNTER, "{event}", "What peers said on their watches", ("peer", "kind")
)
LEASES: Final = Metric("federation.leases", Kind.GAUGE, "{lease}", "Leases given out to peers that have not ended")
AUDIT_DROPPED: Final = Metric(
    "federation.audit.dropped", Kind.COUNTER, "{event}", "Refused calls that the audit could only count"
)
CERTIFICATE_REMAINING: Final = Metric(
    "federation.certificate.remaining",
    Kind.GAUGE,
    "s",
    "Time until a certificate in use ends, negative once it has; the least of a peer's users",
    ("kind", "peer"),
)
CERTIFICATE_RENEWALS: Final = Metric(
    "federation.certificate.renewals",
    Kind.COUNTER,
    "{attempt}",
    "Attempts of this process to renew a certificate for a peer, by how they ended",
    ("peer", "outcome"),
)

METRICS: Final = (
    CLIENT_REQUESTS,
    CLIENT_DURATION,
    SERVER_REQUESTS,
    SERVER_DURATION,
    CACHE_HITS,
    CACHE_MISSES,
    CACHE_FLUSHES,
    CACHE_BYTES,
    CIRCUIT_STATE,
    CIRCUIT_TRANSITIONS,
    WATCH_STATE,
    WATCH_EVENTS,
    LEASES,
    AUDIT_DROPPED,
    CERTIFICATE_REMAINING,
    CERTIFICATE_RENEWALS,
)
