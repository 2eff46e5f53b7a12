"""The order of the client chain's interceptors.

    tracing → tagging → caching → breaking → propagation → wire

The first is outermost. A hit does not reach breaking, so it is served while the circuit is open; tagging sees hits,
live answers and refusals alike; propagation comes last, so that the wire carries the span that made the call. Only
the RPC spans of OpenTelemetry's instrumentation, if switched on, lie below it.
"""

from federation.client.chain.flow import Interceptor


def build_chain(
    *,
    tracing: Interceptor | None = None,
    tagging: Interceptor,
    caching: Interceptor | None = None,
    breaking: Interceptor | None = None,
    propagation: Interceptor,
    rpc_spans: Interceptor | None = None,
) -> tuple[Interceptor, ...]:
    """Return the interceptors in order, outermost first. `None` leaves an interceptor out."""
    chain = (tracing, tagging, caching, breaking, propagation, rpc_spans)
    return tuple(member for member in chain if member is not None)
