"""The cause and the remedy of a failed handshake: verification errors of OpenSSL, TLS alerts, closed connections."""

import ssl
from typing import Final

from federation.errors import Action, Actor, Remedy
from federation.explain.checks import BrokenLink
from federation.explain.own_certificate import COMPARE_CLOCKS, is_issued_by_peer, re_enroll_hint
from federation.store.peers import PeerRecord

UNKNOWN_AUTHORITY: Final = frozenset({2, 7, 18, 19, 20, 21, 24})
"""OpenSSL's verification errors (`X509_V_ERR_…`) for an untrusted issuer, or another issuer of the same name."""
NOT_YET_VALID, EXPIRED, PURPOSE, OTHER_NAME, OTHER_ADDRESS = 9, 10, 26, 62, 64
NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNEXPECTED_MESSAGE"})
_ALERTS: Final = {
    "UNKNOWN_CA": "the peer does not know the authority that issued it",
    "CERTIFICATE_EXPIRED": "by the peer's clock it has expired or is not valid yet",
    "CERTIFICATE_REVOKED": "it was revoked",
    "CERTIFICATE_UNKNOWN": "the peer found it faulty",
    "BAD_CERTIFICATE": "the peer found it faulty",
    "UNSUPPORTED_CERTIFICATE": "the peer does not accept its type",
    "CERTIFICATE_REQUIRED": "the peer received none",
    "DECRYPT_ERROR": "its signature does not match",
    "ACCESS_DENIED": "the peer denies access with it",
}
"""TLS alerts (RFC 8446, section 6.2) about the client certificate."""
_SHOW_STATUS: Final = Remedy(action=Action.SHOW_STATUS, actor=Actor.PEER_OPERATOR)


class OwnCertificateRefused(BrokenLink):
    """The peer's certificate is valid, but the peer closed the connection because of this gateway's certificate."""


def verification_failure(record: PeerRecord, error: ssl.SSLCertVerificationError, shown: str) -> BrokenLink:
    """Return the cause and the remedy of a peer certificate that fails verification."""
    operator, code = f"the operator of {record.gateway}", error.verify_code
    if code in UNKNOWN_AUTHORITY:
        return BrokenLink(
            f"the certificate at {record.endpoint} is not issued by an authority that this gateway trusts for "
            f"{record.gateway} (unknown CA){shown}",
            f"ask {operator} whether the gateway was set up again or moved to another address; "
            f"if it was set up again, {re_enroll_hint(record)}",
            record.remedy(Action.ENROLL_AGAIN),
        )
    if code in {OTHER_NAME, OTHER_ADDRESS}:
        return BrokenLink(
            f"the certificate at {record.endpoint} is not for the name {record.gateway} (name mismatch){shown}",
            f"another gateway answers there: ask {operator} for its address; "
            f"if the gateway has a new name, {re_enroll_hint(record)}",
            record.remedy(Action.ENROLL_AGAIN),
        )
    if code == EXPIRED:
        return BrokenLink(
            f"the certificate of {record.gateway} has expired, by this machine's clock{shown}",
            f"{COMPARE_CLOCKS}; if both are right, ask {operator} why its gateway did not renew the certificate, "
            "as a running gateway does",
            _SHOW_STATUS,
        )
    if code == NOT_YET_VALID:
        return BrokenLink(
            f"the certificate of {record.gateway} is not valid yet, by this machine's clock{shown}", COMPARE_CLOCKS
        )
    description = (
        f"not a server certificate{shown}" if code == PURPOSE else f"not acceptable: {error.verify_message}{shown}"
    )
    return BrokenLink(
        f"the certificate at {record.endpoint} is {description}",
        f"ask {operator} what serves on {record.endpoint}",
    )


def handshake_failure(
    record: PeerRecord, error: OSError | ValueError, timeout_s: float, *, handshake_done: bool
) -> BrokenLink:
    """Return the cause and the remedy of a connection that failed.

    `handshake_done` tells that the peer's own part of the handshake was completed and valid.
    """
    operator = f"the operator of {record.gateway}"
    if isinstance(error, TimeoutError):
        what = (
            "completes the handshake, then sends nothing"
            if handshake_done
            else "accepts connections, but sends nothing"
        )
        return BrokenLink(
            f"{record.endpoint} {what} ({timeout_s:g} s)",
            "a firewall on the way may accept connections without forwarding them; "
            f"otherwise ask {operator} whether its gateway hangs",
            _SHOW_STATUS,
        )
    reason = getattr(error, "reason", None) or ""
    if reason in NO_TLS:
        return BrokenLink(
            f"{record.endpoint} does not speak TLS (protocol mismatch): an unencrypted port, or another program",
            f"ask {operator} for the address of its federation port (`listen` in gateway.toml)",
        )
    for alert, description in _ALERTS.items():
        if reason.endswith(f"ALERT_{alert}"):
            return _own_certificate_refused(record, f"{description} (TLS alert {alert.lower().replace('_', ' ')})")
    if handshake_done and isinstance(error, ssl.SSLEOFError | ConnectionError):
        return _own_certificate_refused(record, "the peer closed the connection as soon as it had received it")
    if isinstance(error, ssl.SSLEOFError | ConnectionError):
        return BrokenLink(
            f"{record.endpoint} closed the connection in the middle of the handshake",
            f"ask {operator} whether its gateway serves on {record.endpoint}, and which proxy is before it",
        )
    description = reason.lower().replace("_", " ") or str(error)
    return BrokenLink(
        f"{record.endpoint} and this gateway could not agree on TLS: {description}",
        f"ask {operator} what serves on that port",
    )


def _own_certificate_refused(record: PeerRecord, why: str) -> OwnCertificateRefused:
    """Return the refusal of the own certificate. gRPC servers give no reason; this adds what can be checked locally."""
    cause = f"{record.gateway} refuses this gateway's own certificate: {why}"
    if not is_issued_by_peer(record):
        return OwnCertificateRefused(
            f"{cause}; it is not issued by a known authority of {record.gateway} (unknown CA)",
            re_enroll_hint(record),
            record.remedy(Action.ENROLL_AGAIN),
        )
    return OwnCertificateRefused(
        cause,
        f"{COMPARE_CLOCKS}, because the peer uses its own; if both are right, the peer's authority was replaced: "
        f"{re_enroll_hint(record)}",
        record.remedy(Action.ENROLL_AGAIN),
    )
