"""Outcomes that no interceptor decides: what the wire said, made safe, and what the driver says by itself."""

from collections.abc import Iterable
from typing import Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from federation.client.chain.flow import Outcome, refused
from federation.errors import Reason, Refusal
from federation.wire.status import STATUS_KEY, error_detail

__all__ = [
    "CONNECTION_FAILURE_CODES",
    "LOCALLY_CANCELLED",
    "closed",
    "from_wire",
    "interrupted",
    "timed_out",
    "undecodable",
]

LOCALLY_CANCELLED: Final = "Locally cancelled by application!"
"""gRPC's own words for a call that its caller cancelled."""
CONNECTION_FAILURE_CODES: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
)
"""Codes that do not show that a connection works."""
_LOCAL_REASONS: Final = frozenset({Reason.CIRCUIT_OPEN, Reason.PEER_UNREACHABLE, Reason.PEER_TIMEOUT})


def from_wire(
    code: grpc.StatusCode,
    body: bytes = b"",
    details: str = "",
    initial: Iterable[tuple[str, str | bytes]] = (),
    trailing: Iterable[tuple[str, str | bytes]] = (),
) -> Outcome:
    """Return what the wire said, as an outcome.

    Only this gateway says that a peer is unreachable, slow, or resting behind its circuit: a rich error of the peer
    that claims so, or that contradicts its own status, is dropped. A bare UNAVAILABLE or DEADLINE_EXCEEDED, as
    gRPC makes them, becomes the rich error of this gateway, with gRPC's text. So does a bare CANCELLED, which a server
    that stops gives to calls that it has not begun: nobody here cancelled, and a caller must not be told that it did.
    """
    outcome = Outcome(code, body, details, tuple(initial), tuple(trailing))
    if code is grpc.StatusCode.OK:
        return outcome
    if not _is_sound(outcome):
        kept = tuple(pair for pair in outcome.trailing if pair[0] != STATUS_KEY)
        outcome = outcome._replace(trailing=kept)
    if not any(key == STATUS_KEY for key, _ in outcome.trailing):
        if code is grpc.StatusCode.UNAVAILABLE:
            return _enriched(outcome, Refusal(Reason.PEER_UNREACHABLE, details or "the peer cannot be reached"))
        if code is grpc.StatusCode.CANCELLED:
            stopped = Refusal(Reason.PEER_UNREACHABLE, "the peer gave the call up, as a gateway does that stops")
            return _enriched(outcome._replace(code=grpc.StatusCode.UNAVAILABLE), stopped)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return _enriched(outcome, Refusal(Reason.PEER_TIMEOUT, details or "the peer did not answer in time"))
    return outcome


def timed_out() -> Outcome:
    """Return the outcome of a call whose budget ran out here, before or without the wire."""
    return refused(Refusal(Reason.PEER_TIMEOUT, "the budget of the call ran out before there was an answer"))


def closed() -> Outcome:
    """Return the outcome of a call on a channel that was closed before it or under it."""
    return refused(Refusal(Reason.PEER_UNREACHABLE, "the channel is closed"))


def interrupted() -> Outcome:
    """Return what the waiters of a shared call get when the one that made it was interrupted; each may ask again."""
    return Outcome(grpc.StatusCode.CANCELLED, details="the shared call was cancelled")


def undecodable(peer: str, kind: str) -> Outcome:
    """Return the outcome of a call whose answer is not the message that it should be."""
    return refused(Refusal(Reason.INTERNAL, f"the answer of {peer} is not a readable {kind}"))


def _is_sound(outcome: Outcome) -> bool:
    packed = [value for key, value in outcome.trailing if key == STATUS_KEY]
    if not packed:
        return True
    detail = error_detail(outcome.trailing)
    if len(packed) > 1 or detail.local or detail.reason in _LOCAL_REASONS or not isinstance(packed[0], bytes):
        return False
    try:
        status = Status.FromString(packed[0])
    except DecodeError:
        return False
    return bool(status.code == outcome.code.value[0] and status.message == outcome.details)


def _enriched(outcome: Outcome, refusal: Refusal) -> Outcome:
    rich = refused(refusal)
    return outcome._replace(details=rich.details, trailing=(*outcome.trailing, *rich.trailing))
