"""Adds the calling span and the id of the cache object to the request metadata."""

from collections.abc import Callable
from typing import Final

from opentelemetry import trace

from federation.client.chain.flow import Call, Flow, Proceed
from federation.telemetry.spans import traceparent_of
from federation.wire.metadata import INSTANCE, TRACEPARENT, Metadata

_WITHHELD: Final = frozenset({TRACEPARENT, "tracestate", "baggage"})
_OWN_PREFIX: Final = "mosaic-"


class PropagationInterceptor:
    """Appends `traceparent` and `mosaic-instance`, and removes the caller's other trace and federation keys.

    Baggage and tracestate are not sent: a peer is another organisation.
    """

    def __init__(self, instance_id: Callable[[], str]) -> None:
        self._instance_id = instance_id

    def intercept(self, proceed: Proceed, call: Call) -> Flow:
        """Pass the call on with the metadata for the wire."""
        if call.trace is not None:
            parent = call.trace.traceparent()
        else:
            parent = traceparent_of(trace.get_current_span().get_span_context())
        passed_on = tuple(pair for pair in call.metadata if not _is_withheld(pair[0])) if call.metadata else ()
        own: Metadata = ((INSTANCE, self._instance_id()),)
        if parent:
            own = ((TRACEPARENT, parent), *own)
        return (yield from proceed(call._replace(metadata=passed_on + own)))


def _is_withheld(key: str) -> bool:
    return key in _WITHHELD or key.startswith(_OWN_PREFIX)
