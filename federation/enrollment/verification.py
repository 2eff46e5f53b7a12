"""The verification of answers to enrollment and renewal, before any part of them is stored. Pure."""

from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation.clock import MICROSECONDS
from federation.config import parse_address
from federation.errors import ConfigError
from federation.pki.certificates import certificates_of, fingerprint_of, is_issued_by, key_hash, pem_of, validity_us
from federation.pki.enrollment_token import EnrollmentToken
from federation.pki.identity_extensions import read_identity
from federation.store.peers import PeerRecord
from federation.v1 import enrollment_pb2 as pb

SKEW_US: Final = 300 * MICROSECONDS
"""The time by which this clock may be slower than the issuer's."""
MAX_LIFETIME_US: Final = 400 * 86_400 * MICROSECONDS

_NOT_NOW: Final = "is not valid now by the clock of this machine (compare both clocks)"


@dataclass(frozen=True, slots=True)
class CheckedAnswer:
    """The verified certificates of an answer; PEM is re-encoded by this side."""

    certificate_pem: str
    fingerprint: str
    trust_bundle: str


def check_answer(
    answer: pb.EnrollResponse, token: EnrollmentToken, key: ec.EllipticCurvePublicKey, now_us: int
) -> CheckedAnswer:
    """Check every field of an answer to the request for `key`, the grant and the gateway by the token.

    Raises `ValueError` with a clause for the fault.
    """
    if answer.gateway != token.gateway:
        raise ValueError(f"it comes from the gateway {answer.gateway[:64]!r}, not the token's")
    if answer.grant_id != token.grant_id:
        raise ValueError("it is for another grant than the token's")
    try:
        _, port = parse_address(answer.endpoint, "endpoint")
    except ConfigError:
        port = 0
    if not port:
        raise ValueError(f"its endpoint {answer.endpoint[:64]!r} is not host:port")
    return _checked(answer, token.ca_certificate_pem, key, (answer.grant_id, answer.subject), now_us)


def check_renewal(
    answer: pb.RenewResponse, record: PeerRecord, key: ec.EllipticCurvePublicKey, now_us: int
) -> CheckedAnswer:
    """Check an answer to the renewal of a peer for `key`; raise `ValueError` with a clause for the fault.

    The trust bundle may contain new roots, so that an authority can be replaced, but must contain a known one.
    """
    return _checked(answer, record.trust_bundle, key, (record.grant_id, record.subject), now_us)


def _checked(
    answer: pb.EnrollResponse | pb.RenewResponse,
    known_pem: str,
    key: ec.EllipticCurvePublicKey,
    identity: tuple[str, str],
    now_us: int,
) -> CheckedAnswer:
    roots = _check_roots(answer.trust_bundle, known_pem, now_us)
    certificate = _check_certificate(answer.certificate, roots, key, identity, now_us)
    return CheckedAnswer(pem_of(certificate), fingerprint_of(certificate), "".join(map(pem_of, roots)))


def _check_roots(bundle: str, known_pem: str, now_us: int) -> tuple[x509.Certificate, ...]:
    """Return the roots of a trust bundle; raise `ValueError` unless all are valid and one is in `known_pem`."""
    try:
        roots = certificates_of(bundle)
    except ValueError as e:
        raise ValueError("its trust bundle cannot be read") from e
    for root in roots:
        begin, end = validity_us(root)
        if not _is_authority(root):
            raise ValueError("its trust bundle contains a certificate that is not an authority's")
        if not begin - SKEW_US <= now_us < end:
            raise ValueError(f"the authority of its trust bundle {_NOT_NOW}")
    if not any(known in roots for known in certificates_of(known_pem)):
        raise ValueError("its trust bundle lacks the authority that this gateway knows")
    return roots


def _check_certificate(
    pem: str,
    roots: tuple[x509.Certificate, ...],
    key: ec.EllipticCurvePublicKey,
    identity: tuple[str, str],
    now_us: int,
) -> x509.Certificate:
    """Read an issued client certificate and check key, identity, issuer, usage and validity; raise `ValueError`.

    `identity` is the grant id and the subject that the extensions must contain.
    """
    try:
        found = certificates_of(pem)
        hash_found = key_hash(found[0].public_key())
    except (ValueError, UnsupportedAlgorithm) as e:
        raise ValueError("its certificate cannot be read") from e
    if len(found) != 1:
        raise ValueError("it contains more than one certificate")
    certificate = found[0]
    if hash_found != key_hash(key):
        raise ValueError("its certificate is for another key than the one sent")
    try:
        found_identity = read_identity(certificate)
    except ValueError as e:
        raise ValueError(f"in its certificate, {e}") from e
    if found_identity != identity:
        raise ValueError("its certificate is for another grant or subject than the answer states")
    if not any(is_issued_by(certificate, root) for root in roots):
        raise ValueError("its certificate is not signed by an authority of its trust bundle")
    if _is_authority(certificate) or not _is_for_clients(certificate):
        raise ValueError("its certificate is not one for TLS clients")
    begin, end = validity_us(certificate)
    if begin > now_us + SKEW_US or end <= now_us:
        raise ValueError(f"its certificate {_NOT_NOW}")
    if end - begin > MAX_LIFETIME_US:
        raise ValueError("its certificate is valid for longer than 400 days")
    return certificate


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False


def _is_for_clients(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False
    return list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
