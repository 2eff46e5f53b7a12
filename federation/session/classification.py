"""What the end of a call to a peer means to a session, in words for a person. Pure."""

from typing import Final, NamedTuple

from federation.errors import Action, Reason, Remedy
from federation.session.results import SourceReport, SourceState
from federation.session.sources import name_of

__all__ = ["MIN_CONCLUSIVE_S", "Classification", "NextStep", "classify", "next_step", "peer_removed"]

MIN_CONCLUSIVE_S: Final = 1.0
"""A peer that had at least so long and did not answer counts as away, even where its budget was larger."""
_OWN_FAULTS: Final = frozenset(
    {Reason.PEER_UNREACHABLE, Reason.PEER_TIMEOUT, Reason.CIRCUIT_OPEN, Reason.CERTIFICATE_INVALID}
)
_BARE: Final = {"UNAVAILABLE": Reason.PEER_UNREACHABLE, "DEADLINE_EXCEEDED": Reason.PEER_TIMEOUT}

_LOCAL_STEPS: Final = {
    Reason.PEER_UNREACHABLE: ("find the link that is broken", Action.EXPLAIN_PEER),
    Reason.PEER_TIMEOUT: ("it answers too slowly or not at all; find the link that is slow", Action.EXPLAIN_PEER),
    Reason.CIRCUIT_OPEN: ("it is tried again by itself; reset its circuit to try now", Action.RESET_CIRCUIT),
    Reason.SCOPE_VIOLATION: ("ask what the grant opens", Action.SHOW_CAPABILITIES),
}
"""The steps that the operator of this gateway takes, each with its act."""
_OTHER_STEPS: Final = {
    Reason.GRANT_REVOKED: "this is final; ask the operator of {peer} for a new grant and its token",
    Reason.GRANT_INVALID: "ask the operator of {peer} whether the grant stands",
    Reason.RATE_LIMITED: "ask again later, or less often",
    Reason.INTERNAL: "the operator of {peer} finds the cause in its log",
}
"""The steps of the user and of the peer's operator."""


class Classification(NamedTuple):
    """The state that a source gets, and why. `away` tells that the session should not ask this peer for now."""

    state: SourceState
    reason: str = ""
    unreachable: bool = False


def classify(code: str, reason: str, *, local: bool, verb: str, conclusive: bool) -> Classification:
    """Judge the end of a call.

    `code` is the canonical gRPC name, `reason` that of the rich error, `local` whether this gateway made it itself.
    `proven` tells that the peer had its whole budget, or long enough: a shorter timeout says nothing about it.
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
    """Return what became of a source that is no peer of the user any more."""
    text = f"{name_of(source)} is no peer of this user any more"
    return SourceReport(source=source, state=SourceState.SKIPPED, message=text)


class NextStep(NamedTuple):
    """The step that a person can take, in words; `remedy` is the act of an operator that it names."""

    text: str = ""
    remedy: Remedy | None = None


def next_step(reason: str, state: SourceState, peer: str, user: str) -> NextStep:
    """Return what a person can do; the text is empty where there is nothing."""
    if reason == Reason.CERTIFICATE_INVALID:
        if state is SourceState.DENIED:
            return NextStep(f"enroll at {peer} again")
        return NextStep(
            "replace this gateway's own certificate", Remedy(action=Action.ROTATE_PEER, peer=peer, user=user)
        )
    if reason in _LOCAL_STEPS:
        text, action = _LOCAL_STEPS[Reason(reason)]
        return NextStep(text, Remedy(action=action, peer=peer, user=user))
    return NextStep(_OTHER_STEPS[Reason(reason)].format(peer=peer) if reason in _OTHER_STEPS else "")
