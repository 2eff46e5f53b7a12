"""Check of this gateway's own client certificate, by this machine's clock."""

from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from federation.clock import Clock, instant
from federation.errors import Action, Remedy
from federation.explain.checks import BrokenLink
from federation.pki.certificates import certificates_of, fingerprint_of, is_issued_by, parsed, serial_of, validity_us
from federation.pki.rotation_policy import AFTER_EXPIRY_US, Validity, due_at_us
from federation.store.peers import PeerRecord

COMPARE_CLOCKS: Final = "compare `date -u` on both machines, and set the clock that is wrong"
REPLACE_HINT: Final = "remove the enrollment and enroll with that token"
"""The act of `REPLACE_PEER`, as the end of a sentence that mentions a token."""


def check_own_certificate(record: PeerRecord, clock: Clock, *, serving: bool) -> tuple[None, str]:
    """Return how long the own certificate is valid. Raises `BrokenLink` if the certificate cannot be used.

    `serving` tells whether the gateway is running: only a running gateway renews its certificates.
    """
    certificate = _read(record)
    validity = Validity(*validity_us(certificate), fingerprint_of(certificate))
    now_us = clock.now_us()
    if now_us < validity.not_before_us:
        raise BrokenLink(
            f"this gateway's own certificate is valid from {instant(validity.not_before_us)} on, "
            f"and this machine's clock says {instant(now_us)}",
            f"this machine's clock is slow, or that of {record.gateway} was fast: compare `date -u` on both machines, "
            "set the clock that is wrong, then rotate the certificate",
            record.remedy(Action.ROTATE_PEER),
        )
    if now_us >= validity.not_after_us:
        raise BrokenLink(
            f"this gateway's own certificate ended at {instant(validity.not_after_us)}, "
            f"and this machine's clock says {instant(now_us)}",
            *_renewal(record, validity, now_us, serving=serving),
        )
    due_us = due_at_us(validity)
    if now_us < due_us:
        renewed = f"renewed at {instant(due_us)}"
    else:
        renewed = f"its renewal is due since {instant(due_us)}" + ("" if serving else ", and the gateway does not run")
    return None, f"serial {serial_of(certificate)}, valid until {instant(validity.not_after_us)}, {renewed}"


def is_issued_by_peer(record: PeerRecord) -> bool:
    """Tell whether an authority in the stored trust bundle of the peer issued the own certificate."""
    try:
        certificate = parsed(record.certificate_pem)
        authorities = certificates_of(record.trust_bundle)
    except ValueError:
        return False
    return any(is_issued_by(certificate, authority) for authority in authorities)


def re_enroll_hint(record: PeerRecord) -> str:
    """Return the instruction to enroll at a peer again; its act is `ENROLL_AGAIN`."""
    return f"ask the operator of {record.gateway} for a new token, then {REPLACE_HINT}"


def _read(record: PeerRecord) -> x509.Certificate:
    try:
        certificate = parsed(record.certificate_pem)
        key = load_pem_private_key(record.key_pem.encode(), None)
    except (ValueError, TypeError):
        cause = "this gateway's own certificate or its key cannot be read"
        raise BrokenLink(cause, re_enroll_hint(record), record.remedy(Action.ENROLL_AGAIN)) from None
    if certificate.public_key() != key.public_key():
        cause = "this gateway's own certificate does not match the stored key"
        raise BrokenLink(cause, re_enroll_hint(record), record.remedy(Action.ENROLL_AGAIN))
    return certificate


def _renewal(record: PeerRecord, validity: Validity, now_us: int, *, serving: bool) -> tuple[str, Remedy]:
    if now_us > validity.not_after_us + AFTER_EXPIRY_US:
        ended = "it ended more than 7 days ago and cannot be renewed any more"
        return f"{ended}; {re_enroll_hint(record)}", record.remedy(Action.ENROLL_AGAIN)
    until = instant(validity.not_after_us + AFTER_EXPIRY_US)
    if serving:
        return f"it can be renewed until {until}; rotate it to try at once", record.remedy(Action.ROTATE_PEER)
    start = Remedy(action=Action.START_GATEWAY)
    return f"it can be renewed until {until}; the gateway renews it by itself once you start it", start
