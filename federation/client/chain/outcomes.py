"""Outcomes made by drivers: validated answers from the wire, and local failures."""

from collections.abc import Iterable
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from federation.client.chain.flow import Outcome, refused
from federation.errors import Reason, Refusal
from federation.wire.status import STATUS_KEY, error_detail

LOCALLY_CANCELLED: Final = "Locally cancelled by application!"
"""gRPC's own text for a call that its caller cancelled."""
CONNECTION_FAILURE_CODES: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
)
"""Codes that do not prove that a connection works."""
_LOCAL_REASONS: Final = frozenset({Reason.CIRCUIT_OPEN, Reason.PEER_UNREACHABLE, Reason.PEER_TIMEOUT})


def from_wire(
    code: grpc.StatusCode,
    body: bytes = b"",
    details: str = "",
    initial: Iterable[tuple[str, str | bytes]] = (),
    trailing: Iterable[tuple[str, str | bytes]] = (),
) -> Outcome:
    """Convert what gRPC returned to an outcome, without what the peer must not claim.

    Only this gateway says that a peer is unreachable or slow, or that its circuit is open: a rich error of the peer
    that claims so, or that contradicts its own status, is dropped. A bare UNAVAILABLE or DEADLINE_EXCEEDED, as gRPC
    makes them, becomes a rich error of this gateway with gRPC's text. So does a bare CANCELLED, which a stopping
    server returns for calls that it has not begun: the caller did not cancel, and must not be told so.
    """
    outcome = Outcome(code, body, details, tuple(initial), tuple(trailing))
    if code is grpc.StatusCode.OK:
        return outcome
    if not _is_sound(outcome):
        others = tuple(pair for pair in outcome.trailing if pair[0] != STATUS_KEY)
        outcome = outcome._replace(trailing=others)
    if not any(key == STATUS_KEY for key, _ in outcome.trailing):
        if code is grpc.StatusCode.UNAVAILABLE:
            return _enriched(outcome, Refusal(Reason.PEER_UNREACHABLE, details or "the peer cannot be reached"))
        if code is grpc.StatusCode.CANCELLED:
            stopped = Refusal(Reason.PEER_UNREACHABLE, "the peer cancelled the call, as a stopping gateway does")
            return _enriched(outcome._replace(code=grpc.StatusCode.UNAVAILABLE), stopped)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return _enriched(outcome, Refusal(Reason.PEER_TIMEOUT, details or "the peer did not answer in time"))
    return outcome


def from_error(error: Any) -> Outcome:
    """Convert gRPC's exception of a failed call, aio or sync."""
    initial, trailing = error.initial_metadata() or (), error.trailing_metadata() or ()
    return from_wire(error.code() or grpc.StatusCode.UNKNOWN, b"", error.details() or "", initial, trailing)


def timed_out() -> Outcome:
    """Return the outcome of a call whose budget ran out on this side."""
    return refused(Refusal(Reason.PEER_TIMEOUT, "the deadline passed before the peer answered"))


def closed() -> Outcome:
    """Return the outcome of a call on a channel that was closed before or during the call."""
    return refused(Refusal(Reason.PEER_UNREACHABLE, "the channel is closed"))


def interrupted() -> Outcome:
    """Return the outcome for waiters of a shared call whose leader was interrupted; each waiter may call again."""
    return Outcome(grpc.StatusCode.CANCELLED, details="the shared call was cancelled")


def undecodable(peer: str, kind: str) -> Outcome:
    """Return the outcome of a call whose answer cannot be decoded as the expected message."""
    return refused(Refusal(Reason.INTERNAL, f"the answer of {peer} cannot be decoded as {kind}"))


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
