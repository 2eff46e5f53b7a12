"""What it means that a handshake fails: OpenSSL's verification results, the peer's alerts, and plain ends."""

import ssl
from typing import Final

from federation.errors import Action, Actor, Remedy
from federation.explain.checks import BrokenLink
from federation.explain.own_certificate import COMPARE_CLOCKS, is_issued_by_peer, re_enroll_hint, remedy_for
from federation.store.peers import PeerRecord

__all__ = ["OwnCertificateRefused", "handshake_failure", "verification_failure"]

UNKNOWN_AUTHORITY: Final = frozenset({2, 7, 18, 19, 20, 21, 24})
"""OpenSSL's verification results that come of an issuer who is not trusted, or is another one of the same name."""
NOT_YET_VALID, EXPIRED, PURPOSE, OTHER_NAME, OTHER_ADDRESS = 9, 10, 26, 62, 64
NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNEXPECTED_MESSAGE"})
_ALERTS: Final = {
    "UNKNOWN_CA": "it does not know the authority that issued it",
    "CERTIFICATE_EXPIRED": "by its clock it has expired, or is not valid yet",
    "CERTIFICATE_REVOKED": "it was revoked",
    "CERTIFICATE_UNKNOWN": "it found a fault in it",
    "BAD_CERTIFICATE": "it found a fault in it",
    "UNSUPPORTED_CERTIFICATE": "it is of a kind that it does not take",
    "CERTIFICATE_REQUIRED": "it got none",
    "DECRYPT_ERROR": "its signature does not fit",
    "ACCESS_DENIED": "it lets nobody in with it",
}
"""TLS alerts that speak of the client's certificate."""
_SHOW_STATUS: Final = Remedy(action=Action.SHOW_STATUS, actor=Actor.PEER_OPERATOR)


class OwnCertificateRefused(BrokenLink):
    """The peer's side holds; the peer ended the connection because of this gateway's own certificate."""


def verification_failure(record: PeerRecord, error: ssl.SSLCertVerificationError, shown: str) -> BrokenLink:
    """Return what it means that the peer's certificate does not pass."""
    operator, code = f"the operator of {record.gateway}", error.verify_code
    if code in UNKNOWN_AUTHORITY:
        return BrokenLink(
            f"the certificate at {record.endpoint} is of an authority that this gateway does not know as that of "
            f"{record.gateway} (unknown CA){shown}",
            f"ask {operator} whether the gateway was founded anew or stands at another address; "
            f"if it was founded anew, {re_enroll_hint(record)}",
            remedy_for(Action.ENROLL_AGAIN, record),
        )
    if code in {OTHER_NAME, OTHER_ADDRESS}:
        return BrokenLink(
            f"the certificate at {record.endpoint} is not for the name {record.gateway} (name mismatch){shown}",
            f"another gateway answers there: ask {operator} for its address; "
            f"if it took another name, {re_enroll_hint(record)}",
            remedy_for(Action.ENROLL_AGAIN, record),
        )
    if code == EXPIRED:
        return BrokenLink(
            f"the certificate of {record.gateway} has expired, by this machine's clock{shown}",
            f"{COMPARE_CLOCKS}; if both are right, ask {operator} why its gateway, which renews its own certificate while "
            "it runs, did not",
            _SHOW_STATUS,
        )
    if code == NOT_YET_VALID:
        return BrokenLink(
            f"the certificate of {record.gateway} is not valid yet, by this machine's clock{shown}", COMPARE_CLOCKS
        )
    description = f"not one of a server{shown}" if code == PURPOSE else f"not acceptable: {error.verify_message}{shown}"
    return BrokenLink(
        f"the certificate at {record.endpoint} is {description}",
        f"ask {operator} what serves on {record.endpoint}",
    )


def handshake_failure(
    record: PeerRecord, error: OSError | ValueError, timeout_s: float, *, handshake_done: bool
) -> BrokenLink:
    """Return what an end of the connection means. `greeted`: the peer's own part was done, and was good."""
    operator = f"the operator of {record.gateway}"
    if isinstance(error, TimeoutError):
        what = (
            "lets itself be spoken to, and then says nothing"
            if handshake_done
            else "takes connections and says nothing"
        )
        return BrokenLink(
            f"{record.endpoint} {what} ({timeout_s:g} s)",
            "something between here and there may only take connections, as some firewalls do; "
            f"else ask {operator} whether its gateway hangs",
            _SHOW_STATUS,
        )
    reason = getattr(error, "reason", None) or ""
    if reason in NO_TLS:
        return BrokenLink(
            f"{record.endpoint} does not speak TLS (protocol mismatch): a plain port, or another program",
            f"ask {operator} for the address of its federation port (`listen` in gateway.toml)",
        )
    for alert, description in _ALERTS.items():
        if reason.endswith(f"ALERT_{alert}"):
            return _own_certificate_refused(record, f"{description} (TLS alert {alert.lower().replace('_', ' ')})")
    if handshake_done and isinstance(error, ssl.SSLEOFError | ConnectionError):
        return _own_certificate_refused(record, "it closed the connection as soon as it had seen it")
    if isinstance(error, ssl.SSLEOFError | ConnectionError):
        return BrokenLink(
            f"{record.endpoint} closed the connection in the middle of the handshake",
            f"ask {operator} whether its gateway serves on {record.endpoint}, and what stands before it",
        )
    description = reason.lower().replace("_", " ") or str(error)
    return BrokenLink(
        f"{record.endpoint} and this gateway could not agree on TLS: {description}",
        f"ask {operator} what serves on that port",
    )


def _own_certificate_refused(record: PeerRecord, why: str) -> OwnCertificateRefused:
    """Return the refusal of the own certificate. gRPC servers never say why; what can be known here is added."""
    cause = f"{record.gateway} refuses this gateway's own certificate: {why}"
    if not is_issued_by_peer(record):
        return OwnCertificateRefused(
            f"{cause}; it is not of an authority of {record.gateway}, as this gateway knows them (unknown CA)",
            re_enroll_hint(record),
            remedy_for(Action.ENROLL_AGAIN, record),
        )
    return OwnCertificateRefused(
        cause,
        f"{COMPARE_CLOCKS}, for the peer judges by its own; if both are right, its authority was replaced: "
        f"{re_enroll_hint(record)}",
        remedy_for(Action.ENROLL_AGAIN, record),
    )
