"""The identity of a caller, read from the client certificate of its connection and cached by the PEM."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cryptography import x509

from federation.clock import instant
from federation.errors import Reason, Refusal
from federation.pki.certificates import fingerprint_of, serial_of, validity_us
from federation.pki.identity_extensions import read_identity

PEM_PROPERTY: Final = "x509_pem_cert"
REMEMBERED: Final = 4_096
"""Identities in the cache; each takes about 2 kB, its PEM included."""
MAX_PEM_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class CallerIdentity:
    """The identity that a client certificate claims; the grant decides. Instants are Unix microseconds."""

    grant_id: str
    subject: str
    serial: str
    fingerprint: str
    not_before_us: int
    not_after_us: int


def caller_of(auth_context: Mapping[str, Iterable[bytes]], now_us: int) -> CallerIdentity:
    """Return the identity in gRPC's auth context, whose certificate must not have expired at `now_us`.

    Raises `Refusal` CERTIFICATE_INVALID; its `detail` names the fault for the gateway's audit. A handshake
    checks the dates only once, but a connection may outlive its certificate, so each call checks the end again.
    """
    pems = tuple(auth_context.get(PEM_PROPERTY, ()))
    if len(pems) != 1:
        raise _malformed("no client certificate" if not pems else "more than one client certificate")
    found = _parse(pems[0])
    if isinstance(found, str):
        raise _malformed(found)
    if found.not_after_us <= now_us:
        raise Refusal(
            Reason.CERTIFICATE_INVALID,
            f"the client certificate expired at {instant(found.not_after_us)}; the asking gateway must renew it",
            detail="certificate expired",
        )
    return found


@lru_cache(maxsize=REMEMBERED)
def _parse(pem: bytes) -> CallerIdentity | str:
    """Return the identity, or the fault as text, so that a bad certificate is also parsed only once."""
    if len(pem) > MAX_PEM_BYTES:
        return "the certificate is too large"
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        grant_id, subject = read_identity(certificate)
        before, after = validity_us(certificate)
    except ValueError as e:
        return str(e).splitlines()[0][:200] if str(e) else "the certificate cannot be read"
    return CallerIdentity(grant_id, subject, serial_of(certificate), fingerprint_of(certificate), before, after)


def _malformed(detail: str) -> Refusal:
    return Refusal(
        Reason.CERTIFICATE_INVALID,
        "the client certificate carries no valid federation identity; the asking gateway must enroll again",
        detail=detail,
    )
