"""What the status of a peer means, in words for people. Pure: times are told from the reply's own now."""

from typing import Final, NamedTuple

from federation.errors import Action, Actor, Remedy
from federation.v1 import admin_pb2 as pb
from mosaic_cli.output.errors import clean, command
from mosaic_cli.output.layout import plural
from mosaic_cli.output.times import distance, duration, moment, seconds

__all__ = ["ENDED", "ORDER", "Health", "assess_health", "circuit_text", "ends_soon", "meaning", "seen"]

ORDER: Final = ("active", "not seen", "failing", "degraded", "offline", "expired", "revoked")
"""The words for a peer, best first."""
ENDED: Final = frozenset({pb.GRANT_STATUS_REVOKED, pb.GRANT_STATUS_EXPIRED})
GRACE_S: Final = 3.0
"""A watch that is down for less has not been down long enough to say anything."""
SOON: Final = 4
"""A certificate ends soon once this part of its life is left: its renewal is overdue then."""
_LABELS: Final = {
    pb.PEER_STATE_OFFLINE: "offline",
    pb.PEER_STATE_DEGRADED: "degraded",
    pb.PEER_STATE_REVOKED: "revoked",
    pb.PEER_STATE_EXPIRED: "expired",
}
_MEANING: Final = {
    "PEER_UNREACHABLE": "no connection: its gateway does not run, or something on the way keeps it from being reached",
    "PEER_TIMEOUT": "no answer in time: it is slow, or its answers are lost on the way",
    "CERTIFICATE_INVALID": "the certificate that was shown is not accepted",
    "GRANT_REVOKED": "its operator took the grant back",
    "GRANT_INVALID": "it does not accept the grant: not active there yet, ended, or another certificate counts",
    "SCOPE_VIOLATION": "something was asked for that the grant does not open; the peer itself is well",
    "RATE_LIMITED": "more was asked for than the grant allows at a time; the peer itself is well",
    "INTERNAL": "a fault at the peer; its own log says more",
}
_OF_THE_CALL: Final = frozenset({"SCOPE_VIOLATION", "RATE_LIMITED", "INVALID_REQUEST"})
"""Reasons that speak against what was asked for, and not against the peer."""
_NO_ANSWER: Final = frozenset({"PEER_UNREACHABLE", "PEER_TIMEOUT"})
"""Reasons that this gateway gives where nothing came back."""
_REFUSED: Final = frozenset({"GRANT_INVALID", "GRANT_REVOKED", "CERTIFICATE_INVALID"})
_MEANING_OF_CODE: Final = {
    "UNAVAILABLE": "it says that it cannot answer now",
    "UNIMPLEMENTED": "it does not know the call: is it of another version?",
    "UNAUTHENTICATED": "the certificate that was shown is not accepted",
    "PERMISSION_DENIED": "it refuses",
    "RESOURCE_EXHAUSTED": "it has too much to do",
    "DEADLINE_EXCEEDED": "no answer in time",
}


class Health(NamedTuple):
    """What is to be said of a peer. `healthy` is `None` while nothing was heard of it; `why` is empty where it is well.

    `label` is finer than the state: an active peer may be `failing` or `not seen`.
    """

    label: str
    healthy: bool | None
    why: str = ""
    next_step: str = ""


def assess_health(peer: pb.PeerStatus, gateway: pb.GatewayInfo) -> Health:
    """Return the health on a peer. It is healthy only if it was seen, and nothing speaks against it since."""
    now = seconds(gateway.now)
    label = _LABELS.get(peer.state)
    if label is not None:
        return Health(label, False, *_REASONS[label](peer, now))
    if peer.circuit.consecutive_failures:
        count = peer.circuit.consecutive_failures
        failed = "the last call failed" if count == 1 else f"the last {count} calls failed"
        return Health("failing", False, failed, _explain_step(peer))
    if (problem := _failure_since(peer, now)) is not None:
        return Health("failing", False, problem, _explain_step(peer))
    if not peer.HasField("seen_at"):
        started = moment(gateway.started_at, now)
        why = f"nothing was heard of it since this gateway started {started}"
        return Health("not seen", None, why, _query_step(peer))
    if seconds(peer.seen_at) > now + GRACE_S:
        return Health("not seen", None, "nothing was heard of it since the clock here was set back", _query_step(peer))
    down = seconds(peer.watch.since)
    if peer.watch.state == "connecting" and down >= seconds(peer.seen_at) and now - down > GRACE_S:
        why = f"its watch went down {moment(peer.watch.since, now)}, and nothing was heard of it since"
        return Health("failing", False, why, _explain_step(peer))
    return Health("active", True)


def _failure_since(peer: pb.PeerStatus, now: float) -> str | None:
    """Return what the last failure says against a peer whose circuit does not count it; `None` where nothing.

    A refusal shows that the peer is there, and that nothing can be read: a call that succeeds takes it back, or a watch
    that the peer let in since. Where nothing came back, any sign of life does.
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
    """Return in plain words what a failure means; empty where its own message has to do."""
    return _MEANING.get(failure.reason) or ("" if failure.reason else _MEANING_OF_CODE.get(failure.code, ""))


def ends_soon(certificate: pb.CertificateInfo, now: float) -> bool:
    """Tell whether a certificate has ended, or little of its life is left, so that its renewal is overdue."""
    life = seconds(certificate.not_after) - seconds(certificate.not_before)
    return seconds(certificate.not_after) - now < life / SOON


def seen(peer: pb.PeerStatus, now: float) -> str:
    """Return when a peer last showed that it is there: `3 s ago`, `never`; `?` where the clock was set back since."""
    if not peer.HasField("seen_at"):
        return "never"
    ahead_s = seconds(peer.seen_at) - now
    return distance(min(ahead_s, 0.0)) if ahead_s <= GRACE_S else "?"


def circuit_text(circuit: pb.CircuitStatus, now: float) -> str:
    """Return the state of a circuit, since when, and when it changes."""
    failed = f"{plural(circuit.consecutive_failures, 'failure')} in a row"
    if circuit.state == pb.CIRCUIT_STATE_OPEN:
        left = duration(max(seconds(circuit.retry_at) - now, 1.0))
        return f"open since {moment(circuit.opened_at, now)} after {failed}; next probe in {left}"
    if circuit.state == pb.CIRCUIT_STATE_HALF_OPEN:
        left_closed = moment(circuit.opened_at, now)
        return f"half-open, left closed {left_closed} after {failed}; the next call is the probe that may close it"
    return f"closed; {failed}" if circuit.consecutive_failures else "closed"


def _offline(peer: pb.PeerStatus, now: float) -> tuple[str, str]:
    return f"circuit {circuit_text(peer.circuit, now)}", _explain_step(peer)


def _revoked(peer: pb.PeerStatus, now: float) -> tuple[str, str]:
    reason = clean(peer.revocation.reason) or "no reason given"
    step = f"ask its operator for another grant; to forget this one: {_command(Action.REMOVE_PEER, peer)}"
    return f"it revoked the grant {moment(peer.revocation.at, now)}: {reason}", step


def _expired(peer: pb.PeerStatus, now: float) -> tuple[str, str]:
    why = f"this gateway's certificate for it ended {moment(peer.certificate.not_after, now)}"
    if peer.renewal.last_failure.reason in _REFUSED:
        grant = Remedy(action=Action.SHOW_GRANT, actor=Actor.PEER_OPERATOR, grant_id=peer.grant_id)
        ask = f"ask its operator to look at the grant, {command(grant)}"
        return why, f"the peer refuses to renew it: {ask}; {_explain_step(peer)}"
    if peer.renewal.HasField("next_at"):
        return why, f"it renews by itself once the peer can be reached; {_explain_step(peer)}"
    return why, f"ask its operator for a token, and enroll again: {command(Remedy(action=Action.ADD_PEER))}"


def _degraded(peer: pb.PeerStatus, now: float) -> tuple[str, str]:
    times = plural(peer.renewal.consecutive_failures, "time")
    why = f"renewing its certificate failed {times} in a row; it ends {moment(peer.certificate.not_after, now)}"
    return why, _explain_step(peer)


def _explain_step(peer: pb.PeerStatus) -> str:
    return f"what is broken: {_command(Action.EXPLAIN_PEER, peer)}"


def _query_step(peer: pb.PeerStatus) -> str:
    return f"ask it: {_command(Action.SHOW_CAPABILITIES, peer)}"


def _command(action: Action, peer: pb.PeerStatus) -> str:
    return command(Remedy(action=action, peer=peer.name, user=peer.user))


_REASONS: Final = {"offline": _offline, "revoked": _revoked, "expired": _expired, "degraded": _degraded}
