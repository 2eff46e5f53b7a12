"""Certificate signing requests (PKCS #10, RFC 2986): made by the enrolling side, checked by the issuing side."""

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from federation.errors import InputError

MAX_REQUEST_BYTES: Final = 4_096
CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
DIGESTS: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """The checked contents of a request: its key. `hash` is the SHA-256 of the request's DER form, hexadecimal."""

    public_key: ec.EllipticCurvePublicKey
    hash: str


def make_request(key: ec.EllipticCurvePrivateKey, gateway: str) -> bytes:
    """Return a DER request for `key` with the enrolling gateway's name as common name."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, gateway)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def read_request(der: bytes, peer: str) -> CertificateRequest:
    """Check an untrusted request, and return its key.

    Raises `InputError` that names `csr`: too large, not PKCS #10, a key that is not on P-256, P-384 or P-521, a
    signature by another key, or a common name other than `peer`. The message does not disclose `peer`.
    """
    if len(der) > MAX_REQUEST_BYTES:
        raise InputError("csr", f"is larger than {MAX_REQUEST_BYTES} bytes")
    try:
        request = x509.load_der_x509_csr(der)
        key, names = request.public_key(), request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        digest = request.signature_hash_algorithm
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError("csr", "is not a PKCS #10 certificate request in DER form") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, CURVES):
        raise InputError("csr", "its key must be an elliptic-curve key on P-256, P-384 or P-521")
    if not isinstance(digest, DIGESTS) or not request.is_signature_valid:
        raise InputError("csr", "its signature is not a valid one by its own key with SHA-256, SHA-384 or SHA-512")
    if [name.value for name in names] != [peer]:
        raise InputError("csr", "its common name is not the gateway for which this grant was created")
    return CertificateRequest(key, hashlib.sha256(der).hexdigest())
