"""Classification of the outcome of a call to a peer, and the next step for the user. Pure."""

from typing import Final, NamedTuple

from federation.errors import ENROLL_AGAIN, Action, Reason, Remedy
from federation.session.results import SourceReport, SourceState
from federation.session.sources import name_of

MIN_CONCLUSIVE_S: Final = 1.0
"""A peer that does not answer within this many seconds counts as unreachable, even if the budget was longer."""
_OWN_FAULTS: Final = frozenset(
    {Reason.PEER_UNREACHABLE, Reason.PEER_TIMEOUT, Reason.CIRCUIT_OPEN, Reason.CERTIFICATE_INVALID}
)
_BARE: Final = {"UNAVAILABLE": Reason.PEER_UNREACHABLE, "DEADLINE_EXCEEDED": Reason.PEER_TIMEOUT}

_LOCAL_STEPS: Final = {
    Reason.PEER_UNREACHABLE: ("find the broken link", Action.EXPLAIN_PEER),
    Reason.PEER_TIMEOUT: ("the peer answers too slowly or not at all; find the slow link", Action.EXPLAIN_PEER),
    Reason.CIRCUIT_OPEN: ("the peer is tried again automatically; reset its circuit to try now", Action.RESET_CIRCUIT),
    Reason.SCOPE_VIOLATION: ("list what the grant opens", Action.SHOW_CAPABILITIES),
}
"""The steps of this gateway's operator, each with its act."""
_OTHER_STEPS: Final = {
    Reason.GRANT_REVOKED: "the revocation is final; ask the operator of {peer} for a new grant and its token",
    Reason.GRANT_INVALID: "ask the operator of {peer} whether the grant is valid",
    Reason.RATE_LIMITED: "repeat the request later, or less often",
    Reason.INTERNAL: "the operator of {peer} finds the cause in the log there",
}
"""The steps of the user and of the peer's operator."""


class Classification(NamedTuple):
    """The state of a source, and its reason. If `unreachable`, the session skips the peer for now."""

    state: SourceState
    reason: str = ""
    unreachable: bool = False


def classify(code: str, reason: str, *, local: bool, verb: str, conclusive: bool) -> Classification:
    """Classify the outcome of a call.

    `code` is the canonical name of the gRPC code, `reason` that of the rich error, `local` whether this gateway made
    the error. `conclusive` tells that the peer had its full budget, or at least `MIN_CONCLUSIVE_S`: a timeout after
    less does not make the peer unreachable.
    """
    if code == "OK":
        return Classification(SourceState.OK)
    if verb == "get" and code == "NOT_FOUND":
        return Classification(SourceState.OK, Reason.ROW_NOT_FOUND)
    if code in _BARE and not (local and reason in _OWN_FAULTS):
        reason = _BARE[code]
    elif code in _BARE or (local and reason == Reason.CERTIFICATE_INVALID):
        pass
    elif code == "RESOURCE_EXHAUSTED" and reason == Reason.RATE_LIMITED:
        return Classification(SourceState.RATE_LIMITED, reason)
    elif code in {"PERMISSION_DENIED", "UNAUTHENTICATED"}:
        return Classification(SourceState.DENIED, reason)
    else:
        return Classification(SourceState.FAILED, reason)
    return Classification(SourceState.OFFLINE, reason, unreachable=conclusive or reason != Reason.PEER_TIMEOUT)


def peer_removed(source: str) -> SourceReport:
    """Return the report of a source that is not a peer of the user any more."""
    text = f"{name_of(source)} is not a peer of this user any more"
    return SourceReport(source=source, state=SourceState.SKIPPED, message=text)


class NextStep(NamedTuple):
    """The next step of the user or an operator, as text. `remedy` is the operator's act that the text names."""

    text: str = ""
    remedy: Remedy | None = None


def next_step(reason: str, state: SourceState, peer: str, user: str) -> NextStep:
    """Return the next step after a failure; the text is empty if there is none."""
    if reason == Reason.CERTIFICATE_INVALID:
        if state is SourceState.DENIED:
            again = Remedy(action=Action.ENROLL_AGAIN, peer=peer, user=user)
            return NextStep(ENROLL_AGAIN, again)
        return NextStep(
            "replace this gateway's own certificate", Remedy(action=Action.ROTATE_PEER, peer=peer, user=user)
        )
    if reason in _LOCAL_STEPS:
        text, action = _LOCAL_STEPS[Reason(reason)]
        return NextStep(text, Remedy(action=action, peer=peer, user=user))
    return NextStep(_OTHER_STEPS[Reason(reason)].format(peer=peer) if reason in _OTHER_STEPS else "")
