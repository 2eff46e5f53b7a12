"""The chain: its members, in the one order, in this one place.

    tracing → tagging → caching → breaking → propagation → wire

The first is outermost. A hit never gets to breaking, so it is served while the circuit is open; tagging sees hits,
live answers and refusals alike; propagation comes last, so that the wire carries the span that made the call. Only
the RPC spans of OpenTelemetry's own instrumentation, where they are switched on, lie beneath it.
"""

from federation.client.chain.flow import Interceptor

__all__ = ["build_chain"]


def build_chain(
    *,
    tracing: Interceptor | None = None,
    tagging: Interceptor,
    caching: Interceptor | None = None,
    breaking: Interceptor | None = None,
    propagation: Interceptor,
    rpc_spans: Interceptor | None = None,
) -> tuple[Interceptor, ...]:
    """Return the members in their order, outermost first. A member that is `None` is switched off."""
    chain = (tracing, tagging, caching, breaking, propagation, rpc_spans)
    return tuple(member for member in chain if member is not None)
