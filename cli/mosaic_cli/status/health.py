"""Assessment of a peer's health, and its explanation for the operator.

Pure functions: times are relative to the `now` of the gateway's answer.
"""

from typing import Final, NamedTuple

from federation.errors import ENROLL_AGAIN, Action, Actor, Remedy
from federation.v1 import admin_pb2 as pb
from mosaic_cli.output.errors import clean, command
from mosaic_cli.output.layout import plural
from mosaic_cli.output.models import enum_name
from mosaic_cli.output.times import distance, duration, moment, seconds

ORDER: Final = ("active", "not seen", "failing", "degraded", "offline", "expired", "revoked")
"""The labels of peers, best first."""
GRACE_S: Final = 3.0
"""A watch may be disconnected for this long before the peer counts as failing."""
SOON: Final = 4
"""A certificate expires soon if less than 1/SOON of its life is left. Its renewal is overdue then."""
_MEANING: Final = {
    "PEER_UNREACHABLE": "no connection: the peer's gateway does not run, or the network does not reach it",
    "PEER_TIMEOUT": "no answer in time: the peer is slow, or the network loses packets",
    "CERTIFICATE_INVALID": "the presented certificate is not accepted",
    "GRANT_REVOKED": "the peer's operator revoked the grant",
    "GRANT_INVALID": "the peer does not accept the grant: it is pending, expired, or bound to another certificate",
    "SCOPE_VIOLATION": "the request was outside the grant's scope; the peer is healthy",
    "RATE_LIMITED": "more calls than the grant's rate limit; the peer is healthy",
    "INTERNAL": "an internal error of the peer; see the peer's log",
}
_OF_THE_CALL: Final = frozenset({"SCOPE_VIOLATION", "RATE_LIMITED", "INVALID_REQUEST"})
"""Reasons of refusals that concern the request, not the peer."""
_NO_ANSWER: Final = frozenset({"PEER_UNREACHABLE", "PEER_TIMEOUT"})
"""Reasons that this gateway reports when the peer sent no answer."""
_REFUSED: Final = frozenset({"GRANT_INVALID", "GRANT_REVOKED", "CERTIFICATE_INVALID"})
_MEANING_OF_CODE: Final = {
    "UNAVAILABLE": "the peer is temporarily unable to answer",
    "UNIMPLEMENTED": "the peer does not implement the call; it may run another version",
    "UNAUTHENTICATED": "the presented certificate is not accepted",
    "PERMISSION_DENIED": "the peer refuses the call",
    "RESOURCE_EXHAUSTED": "the peer is overloaded",
    "DEADLINE_EXCEEDED": "no answer in time",
}


class Health(NamedTuple):
    """The health of a peer. `healthy` is `None` until the peer is seen; `why` is empty for a healthy peer.

    `label` is more detailed than the state: an active peer may be `failing` or `not seen`.
    """

    label: str
    healthy: bool | None
    why: str = ""
    next_step: str = ""


def assess_health(peer: pb.PeerStatus, gateway: pb.GatewayInfo) -> Health:
    """Assess a peer. It is healthy only if it was seen and has not failed since."""
    now, label = seconds(gateway.now), enum_name(peer, "state")
    if label in _REASONS:
        return Health(label, False, *_REASONS[label](peer, now))
    if peer.circuit.consecutive_failures:
        count = peer.circuit.consecutive_failures
        failed = "the last call failed" if count == 1 else f"the last {count} calls failed"
        return Health("failing", False, failed, _explain_step(peer))
    if (problem := _failure_since(peer, now)) is not None:
        return Health("failing", False, problem, _explain_step(peer))
    if not peer.HasField("seen_at"):
        started = moment(gateway.started_at, now)
        why = f"the peer has not been seen since this gateway started {started}"
        return Health("not seen", None, why, _query_step(peer))
    if seconds(peer.seen_at) > now + GRACE_S:
        return Health(
            "not seen", None, "the peer has not been seen since this host's clock was set back", _query_step(peer)
        )
    down = seconds(peer.watch.since)
    if peer.watch.state == "connecting" and down >= seconds(peer.seen_at) and now - down > GRACE_S:
        why = f"its watch disconnected {moment(peer.watch.since, now)}, and the peer has not been seen since"
        return Health("failing", False, why, _explain_step(peer))
    return Health("active", True)


def _failure_since(peer: pb.PeerStatus, now: float) -> str | None:
    """Return the unresolved last failure of a peer whose circuit does not count it, or `None`.

    A refusal is resolved by a later successful call or a watch that the peer accepted later. A failure without an
    answer is resolved by any later answer or event of the peer.
    """
    failure, armed = peer.last_failure, peer.watch.state == "armed"
    if not peer.HasField("last_failure") or failure.reason in _OF_THE_CALL:
        return None
    if failure.reason in _NO_ANSWER:
        resolved = armed or seconds(peer.seen_at) >= seconds(failure.at)
    else:
        cleared = max(seconds(peer.last_success), seconds(peer.watch.since) if armed else 0.0)
        resolved = cleared >= seconds(failure.at)
    return None if resolved else f"the last call failed {moment(failure.at, now)}, and none succeeded since"


def meaning(failure: pb.CallFailure) -> str:
    """Return an explanation of a failure, or an empty string if there is only its message."""
    return _MEANING.get(failure.reason) or ("" if failure.reason else _MEANING_OF_CODE.get(failure.code, ""))


def expires_soon(certificate: pb.CertificateInfo, now: float) -> bool:
    """Return whether a certificate has expired, or expires so soon that its renewal is overdue."""
    life = seconds(certificate.not_after) - seconds(certificate.not_before)
    return seconds(certificate.not_after) - now < life / SOON


def renewal_text(certificate: pb.CertificateInfo, now: float) -> str:
    """Return when a certificate is renewed: `renews in 7 h`, or `renewal is due`."""
    due = seconds(certificate.renews_at) - now
    return f"renews in {duration(due)}" if due > 0 else "renewal is due"


def last_seen(peer: pb.PeerStatus, now: float) -> str:
    """Return when a peer was last seen: `3 s ago`, `never`, or `?` if the clock was set back since."""
    if not peer.HasField("seen_at"):
        return "never"
    ahead_s = seconds(peer.seen_at) - now
    return distance(min(ahead_s, 0.0)) if ahead_s <= GRACE_S else "?"


def circuit_text(circuit: pb.CircuitStatus, now: float) -> str:
    """Return the state of a circuit, the instant of its last change, and its next probe."""
    failed = f"{plural(circuit.consecutive_failures, 'failure')} in a row"
    if circuit.state == pb.CIRCUIT_STATE_OPEN:
        left = duration(max(seconds(circuit.retry_at) - now, 1.0))
        return f"open since {moment(circuit.opened_at, now)} after {failed}; next probe in {left}"
    if circuit.state == pb.CIRCUIT_STATE_HALF_OPEN:
        opened = moment(circuit.opened_at, now)
        return f"half-open, opened {opened} after {failed}; the next call is the probe"
    return f"closed; {failed}" if circuit.consecutive_failures else "closed"


def _offline(peer: pb.PeerStatus, now: float) -> tuple[str, str]:
    return f"circuit {circuit_text(peer.circuit, now)}", _explain_step(peer)


def _revoked(peer: pb.PeerStatus, now: float) -> tuple[str, str]:
    reason = clean(peer.revocation.reason) or "no reason given"
    step = f"ask the peer's operator for a new grant; to remove this peer: {_command(Action.REMOVE_PEER, peer)}"
    return f"the peer revoked the grant {moment(peer.revocation.at, now)}: {reason}", step


def _expired(peer: pb.PeerStatus, now: float) -> tuple[str, str]:
    why = f"this gateway's certificate for it expired {moment(peer.certificate.not_after, now)}"
    if peer.renewal.last_failure.reason in _REFUSED:
        grant = Remedy(action=Action.SHOW_GRANT, actor=Actor.PEER_OPERATOR, grant_id=peer.grant_id)
        ask = f"ask the peer's operator to look at the grant, {command(grant)}"
        return why, f"the peer refuses to renew it: {ask}; {_explain_step(peer)}"
    if peer.renewal.HasField("next_at"):
        return why, f"it renews automatically once the peer is reachable; {_explain_step(peer)}"
    return why, f"{ENROLL_AGAIN}: {_command(Action.ENROLL_AGAIN, peer)}"


def _degraded(peer: pb.PeerStatus, now: float) -> tuple[str, str]:
    times = plural(peer.renewal.consecutive_failures, "time")
    why = f"renewing its certificate failed {times} in a row; it expires {moment(peer.certificate.not_after, now)}"
    return why, _explain_step(peer)


def _explain_step(peer: pb.PeerStatus) -> str:
    return f"find the broken link: {_command(Action.EXPLAIN_PEER, peer)}"


def _query_step(peer: pb.PeerStatus) -> str:
    return f"query it: {_command(Action.SHOW_CAPABILITIES, peer)}"


def _command(action: Action, peer: pb.PeerStatus) -> str:
    return command(Remedy(action=action, peer=peer.name, user=peer.user, grant_id=peer.grant_id))


_REASONS: Final = {"offline": _offline, "revoked": _revoked, "expired": _expired, "degraded": _degraded}
