"""Writes what the peer shall know about the call: the span that made it, and the cache object that asks."""

from collections.abc import Callable
from typing import Final

from opentelemetry import trace

from federation.client.chain.flow import Call, Flow, Proceed
from federation.telemetry.traceparent import TraceParent
from federation.wire.metadata import INSTANCE, TRACEPARENT, Metadata

__all__ = ["PropagationInterceptor"]

_WITHHELD: Final = frozenset({TRACEPARENT, "tracestate", "baggage"})
_OWN_PREFIX: Final = "mosaic-"


class PropagationInterceptor:
    """Appends `traceparent` and `mosaic-instance`, and lets no other trace or federation key of the caller leave.

    Baggage and tracestate stay at home: a peer is another organisation.
    """

    def __init__(self, instance_id: Callable[[], str]) -> None:
        self._instance_id = instance_id

    def intercept(self, proceed: Proceed, call: Call) -> Flow:
        """Go on with the metadata that the wire shall carry."""
        parent = call.trace.traceparent() if call.trace is not None else _current_traceparent()
        kept = tuple(pair for pair in call.metadata if not _is_withheld(pair[0])) if call.metadata else ()
        own: Metadata = ((INSTANCE, self._instance_id()),)
        if parent:
            own = ((TRACEPARENT, parent), *own)
        return (yield from proceed(call._replace(metadata=kept + own)))


def _is_withheld(key: str) -> bool:
    return key in _WITHHELD or key.startswith(_OWN_PREFIX)


def _current_traceparent() -> str:
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return ""
    return str(TraceParent(context.trace_id, context.span_id, context.trace_flags.sampled))
