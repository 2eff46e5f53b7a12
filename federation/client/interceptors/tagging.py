"""Tags every outcome with its source, and strips such tags from the peer's metadata."""

from urllib.parse import quote

from federation.client.chain.flow import Call, Flow, Outcome, Proceed, refused
from federation.client.interceptors.metadata_check import fault_of
from federation.errors import Reason, Refusal
from federation.wire.metadata import CACHED, RESERVED_FOR_TAGS, SOURCE, Metadata, is_sendable


def tags(peer: str, *, cached: bool) -> Metadata:
    """Return both tags. A peer name that metadata cannot carry is percent-encoded."""
    name = peer if is_sendable(peer) else quote(peer, safe="")
    return ((SOURCE, f"federated:{name}"), (CACHED, "true" if cached else "false"))


class TaggingInterceptor:
    """Appends `_source` and `_cached` to the trailing metadata of hits, live answers and errors alike.

    The same keys in the peer's metadata are stripped. Request metadata that gRPC could not send is refused here,
    before it can hang a call or spoil one that other callers share.
    """

    def __init__(self, peer: str) -> None:
        self._hit = tags(peer, cached=True)
        self._live = tags(peer, cached=False)

    def intercept(self, proceed: Proceed, call: Call) -> Flow:
        """Pass the call on, and tag the outcome."""
        problem = fault_of(call.metadata) if call.metadata else ""
        if problem:
            outcome = refused(Refusal(Reason.INVALID_REQUEST, f"metadata: {problem}"))
        else:
            outcome = yield from proceed(call)
        return self.tag(outcome)

    def tag(self, outcome: Outcome) -> Outcome:
        """Return the outcome with this gateway's tags only."""
        code, body, details, initial, trailing, cached, age_s, filled_by = outcome
        own = self._hit if cached else self._live
        initial, trailing = stripped(initial), (*stripped(trailing), *own) if trailing else own
        return Outcome(code, body, details, initial, trailing, cached, age_s, filled_by)


def stripped(metadata: Metadata) -> Metadata:
    """Return a peer's metadata without the keys that this gateway reserves."""
    for key, _ in metadata:
        if key in RESERVED_FOR_TAGS:
            return tuple(pair for pair in metadata if pair[0] not in RESERVED_FOR_TAGS)
    return metadata
