import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from federation.pki.renewal_proof import make_proof, read_proof
from federation.v1 import enrollment_pb2 as pb
from tests.support.enrollments import csr
from tests.support.pki import GRANT_ID, Pki, new_key

NOW_US = 1_800_000_000_123_456


def test_what_is_signed_is_what_the_contract_says() -> None:
    """Written out by hand from the proto's comment, so that another implementation can make proofs."""
    key, request = new_key(), csr()
    proof = make_proof(key, grant_id=GRANT_ID, serial="abc123", csr_der=request, now_us=NOW_US)
    digest = hashlib.sha256(request).hexdigest()
    signed = f"mosaic renewal 1\n{GRANT_ID}\nabc123\n1800000000123456\n{digest}\n".encode()

    key.public_key().verify(proof.signature, signed, ec.ECDSA(SHA256()))
    assert (proof.grant_id, proof.serial, proof.signed_at.ToMicroseconds()) == (GRANT_ID, "abc123", NOW_US)
    assert all(decode_dss_signature(proof.signature))


@pytest.mark.parametrize("field", ["grant_id", "serial", "signed_at", "csr"])
def test_a_changed_claim_is_not_signed(field: str) -> None:
    """Each part of a proof is covered by its signature."""
    leaf, request = Pki().client(), csr()
    key = _key(leaf.key_pem)
    proof = make_proof(key, grant_id=GRANT_ID, serial="abc123", csr_der=request, now_us=NOW_US)
    assert read_proof(proof).is_signed_by(leaf.certificate_pem, request)

    changed = pb.RenewProof.FromString(proof.SerializeToString())
    if field == "grant_id":
        changed.grant_id = GRANT_ID.replace("1", "3")
    elif field == "serial":
        changed.serial = "abc124"
    elif field == "signed_at":
        changed.signed_at.nanos += 1_000
    assert not read_proof(changed).is_signed_by(leaf.certificate_pem, csr() if field == "csr" else request)


def test_a_certificate_that_cannot_be_read_signed_nothing() -> None:
    """A damaged store ends as a refusal."""
    proof = make_proof(new_key(), grant_id=GRANT_ID, serial="abc123", csr_der=b"x", now_us=NOW_US)
    assert not read_proof(proof).is_signed_by("nonsense", b"x")


def _key(pem: str) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(pem.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key
