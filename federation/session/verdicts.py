"""What the end of a call to a peer means to a session, in words for a person. Pure."""

from shlex import quote
from typing import Final, NamedTuple

from federation.errors import Reason
from federation.session.results import SourceReport, SourceState
from federation.session.sources import name_of

__all__ = ["LEAST_PROOF_S", "Verdict", "gone", "next_step", "verdict_of"]

LEAST_PROOF_S: Final = 1.0
"""A peer that had at least so long and did not answer counts as away, even where its budget was larger."""
_OWN_FAULTS: Final = frozenset(
    {Reason.PEER_UNREACHABLE, Reason.PEER_TIMEOUT, Reason.CIRCUIT_OPEN, Reason.CERTIFICATE_INVALID}
)
_BARE: Final = {"UNAVAILABLE": Reason.PEER_UNREACHABLE, "DEADLINE_EXCEEDED": Reason.PEER_TIMEOUT}


class Verdict(NamedTuple):
    """The state that a source gets, and why. `away` tells that the session should not ask this peer for now."""

    state: SourceState
    reason: str = ""
    away: bool = False


def verdict_of(code: str, reason: str, *, local: bool, verb: str, proven: bool) -> Verdict:
    """Judge the end of a call.

    `code` is the canonical gRPC name, `reason` that of the rich error, `local` whether this gateway made it itself.
    `proven` tells that the peer had its whole budget, or long enough: a shorter timeout says nothing about it.
    """
    if code == "OK":
        return Verdict(SourceState.OK)
    if verb == "get" and code == "NOT_FOUND":
        return Verdict(SourceState.OK, Reason.ROW_NOT_FOUND)
    if code in _BARE and not (local and reason in _OWN_FAULTS):
        reason = _BARE[code]
    elif code in _BARE or (local and reason == Reason.CERTIFICATE_INVALID):
        pass
    elif code == "RESOURCE_EXHAUSTED" and reason == Reason.RATE_LIMITED:
        return Verdict(SourceState.RATE_LIMITED, reason)
    elif code in {"PERMISSION_DENIED", "UNAUTHENTICATED"}:
        return Verdict(SourceState.DENIED, reason)
    else:
        return Verdict(SourceState.FAILED, reason)
    return Verdict(SourceState.OFFLINE, reason, away=proven or reason != Reason.PEER_TIMEOUT)


def gone(source: str) -> SourceReport:
    """Return what became of a source that is no peer of the user any more."""
    text = f"{name_of(source)} is no peer of this user any more"
    return SourceReport(source=source, state=SourceState.SKIPPED, message=text)


def next_step(reason: str, state: SourceState, peer: str, user: str) -> str:
    """Return what a person can do; empty where there is nothing."""
    explain = f"mosaic federation status --explain {quote(peer)} --user {quote(user)}"
    reset = f"mosaic federation peer reset {quote(peer)} --user {quote(user)}"
    steps = {
        Reason.PEER_UNREACHABLE: f"`{explain}` names the link that is broken",
        Reason.PEER_TIMEOUT: f"it answers too slowly or not at all; `{explain}` looks",
        Reason.CIRCUIT_OPEN: f"it is tried again by itself; `{reset}` now",
        Reason.GRANT_REVOKED: f"this is final; ask the operator of {peer} for a new grant and its token",
        Reason.GRANT_INVALID: f"ask the operator of {peer} whether the grant stands",
        Reason.SCOPE_VIOLATION: "`query capabilities` shows what the grant opens",
        Reason.RATE_LIMITED: "ask again later, or less often",
        Reason.INTERNAL: f"the operator of {peer} finds the cause in its log",
    }
    if reason == Reason.CERTIFICATE_INVALID:
        mine = state is SourceState.OFFLINE
        rotate = f"`mosaic federation peer rotate {quote(peer)} --user {quote(user)}`"
        return rotate if mine else f"enroll at {peer} again"
    return steps.get(Reason(reason), "") if reason in Reason.__members__ else ""
