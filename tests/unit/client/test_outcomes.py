"""The conversion of answers from the wire: what a peer may claim."""

import grpc
import pytest
from grpc_status import rpc_status

from federation.client.chain.outcomes import from_wire
from federation.errors import Reason, Refusal
from federation.wire.metadata import Metadata
from federation.wire.status import STATUS_KEY, error_detail, refusal_status

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("code", "reason"),
    [(UNAVAILABLE, Reason.PEER_UNREACHABLE), (grpc.StatusCode.DEADLINE_EXCEEDED, Reason.PEER_TIMEOUT)],
)
def test_grpcs_own_failures_become_rich(code: grpc.StatusCode, reason: Reason) -> None:
    """A bare UNAVAILABLE or DEADLINE_EXCEEDED keeps code and text, and gets this gateway's rich error."""
    outcome = from_wire(code, details="Socket closed", trailing=(("a", "b"),))
    detail = error_detail(outcome.trailing)
    assert (outcome.code, outcome.details, outcome.trailing[0]) == (code, "Socket closed", ("a", "b"))
    assert (detail.reason, detail.local) == (reason, True)
    assert from_wire(code).details


@pytest.mark.parametrize("reason", [Reason.CIRCUIT_OPEN, Reason.PEER_UNREACHABLE, Reason.PEER_TIMEOUT])
@pytest.mark.parametrize("local", [True, False])
def test_peer_cannot_speak_for_this_gateway(reason: Reason, local: bool) -> None:
    """A peer's rich error with one of this gateway's own reasons is dropped; its bare code counts."""
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
    """Rich errors that gRPC's own reader would raise ValueError for, or that are unreadable, or two."""
    good = refusal_status(Refusal(Reason.RATE_LIMITED, "no"))[2]
    other_code = refusal_status(Refusal(Reason.INTERNAL, "no"))[2]
    other_text = refusal_status(Refusal(Reason.RATE_LIMITED, "yes"))[2]
    return [other_code, other_text, ((STATUS_KEY, b"\xff"),), ((STATUS_KEY, "text"),), good + good]


@pytest.mark.parametrize("trailing", mismatched())
def test_rich_error_that_contradicts_its_status_is_dropped(trailing: Metadata) -> None:
    """Code and text stay; the contradicting details are removed, so that no reader raises."""
    outcome = from_wire(grpc.StatusCode.RESOURCE_EXHAUSTED, details="no", trailing=trailing)
    assert (outcome.details, outcome.trailing) == ("no", ())


def test_good_rich_error_stays() -> None:
    """A valid refusal of the peer is passed on unchanged, and gRPC's own reader reads it."""
    code, details, trailing = refusal_status(Refusal(Reason.RATE_LIMITED, "no", retry_after_s=1))
    outcome = from_wire(code, details=details, trailing=trailing)
    assert outcome.trailing == trailing

    class Ended:
        def code(self) -> grpc.StatusCode:
            return outcome.code

        def details(self) -> str:
            return outcome.details

        def trailing_metadata(self) -> Metadata:
            return outcome.trailing

    status = rpc_status.from_call(Ended())
    assert status is not None
    assert status.message == "no"


def test_a_call_that_a_stopping_peer_cancelled_is_unreachable() -> None:
    """A stopping server cancels calls that it has not begun: the peer is unreachable, also for the circuit."""
    outcome = from_wire(grpc.StatusCode.CANCELLED, details="CANCELLED")
    detail = error_detail(outcome.trailing)

    assert outcome.code is UNAVAILABLE
    assert (detail.reason, detail.local) == (Reason.PEER_UNREACHABLE, True)
