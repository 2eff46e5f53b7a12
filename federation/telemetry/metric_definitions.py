"""Definitions of a gateway's metrics, from which the instruments and the documentation table are made."""

from enum import StrEnum
from typing import Final, NamedTuple


class Kind(StrEnum):
    """The instrument of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(NamedTuple):
    """The definition of a metric. `unit` is a UCUM unit; text in braces names what is counted, empty means no unit.

    `attributes` names all attributes of a data point. Each value is a peer name given by the operator or one of a small
    fixed set, so the number of peers bounds the cardinality.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()


_CALL: Final = ("peer", "verb", "outcome")

CLIENT_REQUESTS: Final = Metric(
    "federation.client.requests",
    Kind.COUNTER,
    "{call}",
    "Calls to peers by outcome, cache hits included",
    (*_CALL, "cached"),
)
CLIENT_DURATION: Final = Metric(
    "federation.client.duration",
    Kind.HISTOGRAM,
    "s",
    "Duration of calls to peers, cache hits included",
    (*_CALL, "cached"),
)
SERVER_REQUESTS: Final = Metric(
    "federation.server.requests", Kind.COUNTER, "{call}", "Calls of peers to this gateway by outcome", _CALL
)
SERVER_DURATION: Final = Metric(
    "federation.server.duration", Kind.HISTOGRAM, "s", "Duration of calls of peers to this gateway", _CALL
)
CACHE_HITS: Final = Metric("federation.cache.hits", Kind.COUNTER, "{hit}", "Answers served from the cache", ("peer",))
CACHE_MISSES: Final = Metric(
    "federation.cache.misses",
    Kind.COUNTER,
    "{miss}",
    "Cacheable calls that were not answered from the cache",
    ("peer",),
)
CACHE_FLUSHES: Final = Metric(
    "federation.cache.flushes",
    Kind.COUNTER,
    "{flush}",
    "Invalidations of cached answers by cause",
    ("peer", "cause"),
)
CACHE_BYTES: Final = Metric("federation.cache.bytes", Kind.GAUGE, "By", "Size of cached answers", ("peer",))
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
    "State transitions of circuits, by new state",
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
    "federation.watch.events", Kind.COUNTER, "{event}", "Events received on watches", ("peer", "kind")
)
LEASES: Final = Metric("federation.leases", Kind.GAUGE, "{lease}", "Active leases granted to peers")
AUDIT_DROPPED: Final = Metric(
    "federation.audit.dropped", Kind.COUNTER, "{event}", "Denied calls whose audit events were dropped"
)
CERTIFICATE_REMAINING: Final = Metric(
    "federation.certificate.remaining",
    Kind.GAUGE,
    "s",
    "Time until a certificate in use expires, negative afterwards; the minimum over a peer's users",
    ("kind", "peer"),
)
CERTIFICATE_RENEWALS: Final = Metric(
    "federation.certificate.renewals",
    Kind.COUNTER,
    "{attempt}",
    "Attempts of this process to renew the certificate for a peer, by outcome",
    ("peer", "outcome"),
)
