"""Serial numbers, fingerprints, key hashes and PEM forms of certificates, as stores and operators use them."""

import hashlib
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from federation.clock import to_micros

MAX_BUNDLE_BYTES = 64 * 1024
MAX_BUNDLE = 8
MAX_PARSED = 4_096
"""Certificates that stay parsed: those of the peers of one gateway."""


@lru_cache(maxsize=MAX_PARSED)
def parsed(pem: str) -> x509.Certificate:
    """Return the certificate of a PEM text; raise `ValueError` where the text cannot be read."""
    return x509.load_pem_x509_certificate(pem.encode())


def serial_of(certificate: x509.Certificate) -> str:
    """Return the serial number in lower-case hexadecimal, at most 40 digits."""
    return format(certificate.serial_number, "x")


def fingerprint_of(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of the DER form in lower-case hexadecimal, which the two operators compare."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def key_hash(key: PublicKeyTypes) -> str:
    """Return the SHA-256 of the DER SubjectPublicKeyInfo in lower-case hexadecimal."""
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def validity_us(certificate: x509.Certificate) -> tuple[int, int]:
    """Return the first and the last instant of validity in Unix microseconds."""
    return to_micros(certificate.not_valid_before_utc), to_micros(certificate.not_valid_after_utc)


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Tell whether an authority signed a certificate and has the name of its issuer."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def pem_of(certificate: x509.Certificate) -> str:
    """Return the PEM form as `str`; gRPC and cryptography take it as bytes."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def certificates_of(bundle: str) -> tuple[x509.Certificate, ...]:
    """Read 1 to 8 concatenated PEM certificates; raise `ValueError` with the fault as message."""
    if len(bundle) > MAX_BUNDLE_BYTES:
        raise ValueError("the certificates are larger than 64 KiB")
    certificates = tuple(x509.load_pem_x509_certificates(bundle.encode()))
    if len(certificates) > MAX_BUNDLE:
        raise ValueError(f"more than {MAX_BUNDLE} certificates")
    return certificates
