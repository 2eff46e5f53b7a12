"""The proof with which the key of an expired certificate authorizes the request for a new one. Pure.

The signature covers the request, so a copied proof cannot be used for another key.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from federation.clock import MICROSECONDS
from federation.pki.identity_extensions import is_grant_id
from federation.v1 import enrollment_pb2 as pb

PROOF_SKEW_US: Final = 300 * MICROSECONDS
"""The largest accepted difference between `signed_at` and the issuing gateway's clock."""
LABEL: Final = "mosaic renewal 1"
MAX_SIGNATURE: Final = 256
_SERIAL: Final = re.compile(r"[0-9a-f]{1,40}\Z")
_SECONDS: Final = range(253_402_300_800)
"""From the epoch to the end of the year 9999."""


@dataclass(frozen=True, slots=True)
class RenewalClaim:
    """The contents of a well-formed proof; `is_signed_by` verifies its signature."""

    grant_id: str
    serial: str
    signed_at_us: int
    signature: bytes

    def is_signed_by(self, certificate_pem: str, csr_der: bytes) -> bool:
        """Tell whether the key of a certificate signed this proof for this request."""
        try:
            key = x509.load_pem_x509_certificate(certificate_pem.encode()).public_key()
            if not isinstance(key, ec.EllipticCurvePublicKey):
                return False
            key.verify(self.signature, _signed(self, csr_der), ec.ECDSA(hashes.SHA256()))
        except (InvalidSignature, UnsupportedAlgorithm, ValueError):
            return False
        return True


def make_proof(
    key: ec.EllipticCurvePrivateKey, *, grant_id: str, serial: str, csr_der: bytes, now_us: int
) -> pb.RenewProof:
    """Sign a renewal request with the old key."""
    claim = RenewalClaim(grant_id, serial, now_us, b"")
    proof = pb.RenewProof(serial=serial, grant_id=grant_id)
    proof.signed_at.FromMicroseconds(now_us)
    proof.signature = key.sign(_signed(claim, csr_der), ec.ECDSA(hashes.SHA256()))
    return proof


def read_proof(proof: pb.RenewProof) -> RenewalClaim:
    """Read an untrusted proof; raise `ValueError` that names the malformed field."""
    at = proof.signed_at
    if not is_grant_id(proof.grant_id):
        raise ValueError("grant_id is not a grant's id")
    if not _SERIAL.match(proof.serial):
        raise ValueError("serial is not a certificate's serial number in lower-case hexadecimal")
    if at.seconds not in _SECONDS or not 0 <= at.nanos < 1_000_000_000 or at.nanos % 1_000:  # noqa: PLR2004
        raise ValueError("signed_at is not an instant in whole microseconds")
    if not 0 < len(proof.signature) <= MAX_SIGNATURE:
        raise ValueError(f"signature must have 1 to {MAX_SIGNATURE} bytes")
    return RenewalClaim(proof.grant_id, proof.serial, at.seconds * MICROSECONDS + at.nanos // 1_000, proof.signature)


def _signed(claim: RenewalClaim, csr_der: bytes) -> bytes:
    csr_hash = hashlib.sha256(csr_der).hexdigest()
    lines = (LABEL, claim.grant_id, claim.serial, str(claim.signed_at_us), csr_hash)
    return "".join(f"{line}\n" for line in lines).encode("ascii")
