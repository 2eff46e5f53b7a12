"""Says of every outcome where it came from, and is the only one who says so."""

from urllib.parse import quote

from federation.client.chain.flow import Call, Flow, Outcome, Proceed, refused
from federation.client.interceptors.metadata_check import fault_of
from federation.errors import Reason, Refusal
from federation.wire.metadata import CACHED, RESERVED_FOR_TAGS, SOURCE, Metadata, is_sendable

__all__ = ["TaggingInterceptor", "tags"]


def tags(peer: str, *, cached: bool) -> Metadata:
    """Return both tags. A peer name that metadata cannot carry is percent-encoded."""
    name = peer if is_sendable(peer) else quote(peer, safe="")
    return ((SOURCE, f"federated:{name}"), (CACHED, "true" if cached else "false"))


class TaggingInterceptor:
    """Appends `_source` and `_cached` to the trailing metadata of hits, live answers and errors alike.

    What the peer sent under these keys is stripped. A caller's metadata that gRPC could not send is refused here, so
    that it neither hangs a call nor spoils one that others share.
    """

    def __init__(self, peer: str) -> None:
        self._hit = tags(peer, cached=True)
        self._live = tags(peer, cached=False)

    def intercept(self, proceed: Proceed, call: Call) -> Flow:
        """Go on, and tag the outcome."""
        fault = fault_of(call.metadata) if call.metadata else ""
        if fault:
            outcome = refused(Refusal(Reason.INVALID_REQUEST, f"metadata: {fault}"))
        else:
            outcome = yield from proceed(call)
        return self.tag(outcome)

    def tag(self, outcome: Outcome) -> Outcome:
        """Return the outcome with this gateway's tags and without anybody else's."""
        code, body, details, initial, trailing, cached, age_s, filled_by = outcome
        own = self._hit if cached else self._live
        initial, trailing = stripped(initial), (*stripped(trailing), *own) if trailing else own
        return Outcome(code, body, details, initial, trailing, cached, age_s, filled_by)


def stripped(metadata: Metadata) -> Metadata:
    """Return a peer's metadata without the keys that are ours alone."""
    for key, _ in metadata:
        if key in RESERVED_FOR_TAGS:
            return tuple(pair for pair in metadata if pair[0] not in RESERVED_FOR_TAGS)
    return metadata
