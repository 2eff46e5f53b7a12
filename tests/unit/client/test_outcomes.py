"""What the wire says, made safe: whose word counts for what."""

import grpc
import pytest
from grpc_status import rpc_status

from federation.client.chain.outcomes import from_wire
from federation.client.sync.call import SyncEnd
from federation.errors import Reason, Refusal
from federation.wire.metadata import Metadata
from federation.wire.status import STATUS_KEY, error_detail, refusal_status

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("code", "reason"),
    [(UNAVAILABLE, Reason.PEER_UNREACHABLE), (grpc.StatusCode.DEADLINE_EXCEEDED, Reason.PEER_TIMEOUT)],
)
def test_grpcs_own_failures_become_rich(code: grpc.StatusCode, reason: Reason) -> None:
    """A bare UNAVAILABLE or DEADLINE_EXCEEDED keeps code and text, and says in this gateway's name what it is."""
    outcome = from_wire(code, details="Socket closed", trailing=(("a", "b"),))
    detail = error_detail(outcome.trailing)
    assert (outcome.code, outcome.details, outcome.trailing[0]) == (code, "Socket closed", ("a", "b"))
    assert (detail.reason, detail.local) == (reason, True)
    assert from_wire(code).details


@pytest.mark.parametrize("reason", [Reason.CIRCUIT_OPEN, Reason.PEER_UNREACHABLE, Reason.PEER_TIMEOUT])
@pytest.mark.parametrize("local", [True, False])
def test_peer_cannot_speak_for_this_gateway(reason: Reason, local: bool) -> None:
    """A peer that says our circuit is open, or that its refusal is ours, is taken for what its bare code says."""
    code, details, trailing = refusal_status(Refusal(reason, "forged", retry_after_s=9e9), local=local)
    detail = error_detail(from_wire(code, details=details, trailing=trailing).trailing)
    assert detail.reason != Reason.CIRCUIT_OPEN
    assert detail.retry_after_s is None


def test_peer_cannot_mark_its_refusal_as_ours() -> None:
    """`origin=local` from the wire drops the whole rich error."""
    code, details, trailing = refusal_status(Refusal(Reason.RATE_LIMITED, "no"), local=True)
    outcome = from_wire(code, details=details, trailing=trailing)
    assert error_detail(outcome.trailing).reason == ""
    assert outcome.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def mismatched() -> list[Metadata]:
    """Rich errors that gRPC's own reader would raise ValueError for, or that are not readable, or two."""
    good = refusal_status(Refusal(Reason.RATE_LIMITED, "no"))[2]
    other_code = refusal_status(Refusal(Reason.INTERNAL, "no"))[2]
    other_text = refusal_status(Refusal(Reason.RATE_LIMITED, "yes"))[2]
    return [other_code, other_text, ((STATUS_KEY, b"\xff"),), ((STATUS_KEY, "text"),), good + good]


@pytest.mark.parametrize("trailing", mismatched())
def test_rich_error_that_contradicts_its_status_is_dropped(trailing: Metadata) -> None:
    """Code and text stay; the details that do not belong to them go, so that no reader stumbles."""
    outcome = from_wire(grpc.StatusCode.RESOURCE_EXHAUSTED, details="no", trailing=trailing)
    assert (outcome.details, outcome.trailing) == ("no", ())


def test_good_rich_error_stays() -> None:
    """A sound refusal of the peer is passed on as it is, and gRPC's own reader reads it."""
    code, details, trailing = refusal_status(Refusal(Reason.RATE_LIMITED, "no", retry_after_s=1))
    outcome = from_wire(code, details=details, trailing=trailing)
    assert outcome.trailing == trailing

    class Ended(SyncEnd):
        def __init__(self) -> None:
            Exception.__init__(self)

        def code(self) -> grpc.StatusCode:
            return outcome.code

        def details(self) -> str:
            return outcome.details

        def trailing_metadata(self) -> Metadata:  # type: ignore[override]
            return outcome.trailing

    status = rpc_status.from_call(Ended())
    assert status is not None
    assert status.message == "no"


def test_a_call_that_the_peer_gave_up_is_not_the_callers_cancellation() -> None:
    """A stopping server cancels what it has not begun: that is a peer which cannot be reached, also for the circuit."""
    outcome = from_wire(grpc.StatusCode.CANCELLED, details="CANCELLED")
    detail = error_detail(outcome.trailing)

    assert outcome.code is UNAVAILABLE
    assert (detail.reason, detail.local) == (Reason.PEER_UNREACHABLE, True)
