from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.errors import InputError
from federation.pki.authority import Authority, IssuedCertificate
from federation.pki.certificates import certificates_of, fingerprint_of, key_hash, serial_of
from federation.pki.csr import make_request
from federation.pki.identity_extensions import identity_extensions, read_identity
from tests.support.clock import ManualClock
from tests.support.pki import GRANT_ID, PEER, new_key

AUTHORITY = Authority.create("work.example", ["127.0.0.1", "localhost", "::1", "work.example"])
KEY = new_key()
SHA256 = hashes.SHA256()


def loaded(pem: str) -> x509.Certificate:
    """A parsed certificate."""
    return x509.load_pem_x509_certificate(pem.encode())


def issue(csr: bytes, authority: Authority = AUTHORITY, **changes: Any) -> IssuedCertificate:
    """Issue with good values but for the changes."""
    values = {"grant_id": GRANT_ID, "subject": "ada", "peer": PEER, "lifetime_s": 86_400} | changes
    return authority.issue_client(csr, **values)


def test_the_root_is_a_root_and_nothing_else() -> None:
    """P-256, self-issued, may sign certificates, no intermediate below it, about ten years."""
    ca = loaded(AUTHORITY.ca_certificate_pem)
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage)
    ca.verify_directly_issued_by(ca)

    assert isinstance(ca.public_key(), ec.EllipticCurvePublicKey)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.digital_signature) == (True, True, False)
    assert ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    assert timedelta(days=3_600) < ca.not_valid_after_utc - ca.not_valid_before_utc < timedelta(days=3_700)


def test_the_server_certificate_carries_every_name_as_san() -> None:
    """Gateway name and hosts are alternative names, IP addresses as such; there is no common name to fall back on."""
    server = loaded(AUTHORITY.server_certificate_pem)
    server.verify_directly_issued_by(loaded(AUTHORITY.ca_certificate_pem))
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert names.get_values_for_type(x509.DNSName) == ["work.example", "localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert server.subject.get_attributes_for_oid(NameOID.COMMON_NAME) == []
    assert list(server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH
    ]
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert server.not_valid_after_utc - server.not_valid_before_utc < timedelta(days=367)


def test_the_server_key_belongs_to_the_server_certificate() -> None:
    """The key and the certificate that gRPC gets belong together."""
    key = load_pem_private_key(AUTHORITY.server_key_pem.encode(), None)

    assert key_hash(key.public_key()) == key_hash(loaded(AUTHORITY.server_certificate_pem).public_key())


def test_a_client_certificate_contains_its_grant_id_and_subject() -> None:
    """Key and gateway name of the request, both identity extensions non-critical, clients only, 24 hours, backdated."""
    clock = ManualClock(1_800_000_000)
    authority = Authority.create("work.example", clock=clock.clock)
    issued = issue(make_request(KEY, PEER), authority)
    certificate = loaded(issued.pem)
    certificate.verify_directly_issued_by(loaded(authority.ca_certificate_pem))

    assert read_identity(certificate) == (GRANT_ID, "ada")
    assert key_hash(certificate.public_key()) == key_hash(KEY.public_key())
    assert [name.value for name in certificate.subject] == [PEER]
    assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert [e.critical for e in certificate.extensions if e.oid.dotted_string.startswith("1.3.6")] == [False, False]
    assert (issued.not_before_us, issued.not_after_us) == (1_799_999_700_000_000, 1_800_086_400_000_000)
    assert (issued.serial, issued.fingerprint) == (serial_of(certificate), fingerprint_of(certificate))
    assert len(issued.serial) <= 40


def test_a_certificate_never_outlives_its_grant() -> None:
    """The sooner of lifetime and grant's end counts."""
    clock = ManualClock(1_800_000_000)
    authority = Authority.create("work.example", clock=clock.clock)
    csr = make_request(KEY, PEER)

    assert issue(csr, authority, not_after_us=1_800_000_600_000_000).not_after_us == 1_800_000_600_000_000
    assert issue(csr, authority, not_after_us=1_900_000_000_000_000).not_after_us == 1_800_086_400_000_000


def test_only_the_key_is_taken_from_a_request() -> None:
    """Extensions, other names and alternative names that a request asks for are not in the certificate."""
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, PEER), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "root")]
    )
    asked = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("work.example")]), critical=False)
        .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.2"), b"\x0c\x03eve"), False)
        .sign(KEY, hashes.SHA256())
    )
    certificate = loaded(issue(asked.public_bytes(Encoding.DER)).pem)

    assert [part.value for part in certificate.subject] == [PEER]
    assert read_identity(certificate) == (GRANT_ID, "ada")
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def request_by(key, digest=SHA256, names=(PEER,)) -> bytes:
    """A request by any key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else digest).public_bytes(Encoding.DER)


def with_broken_signature(csr: bytes) -> bytes:
    """The same request with another last byte."""
    return csr[:-1] + bytes([csr[-1] ^ 1])


def with_another_key(csr: bytes) -> bytes:
    """The same signed request, but with another public key."""
    from cryptography.hazmat.primitives.serialization import PublicFormat  # noqa: PLC0415

    def point(key):
        return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    return csr.replace(point(KEY), point(new_key()))


GOOD = make_request(KEY, PEER)
BAD_REQUESTS = {
    "empty": (b"", "not a PKCS #10"),
    "garbage": (b"\x30\x82" + b"x" * 100, "not a PKCS #10"),
    "a certificate": (loaded(AUTHORITY.ca_certificate_pem).public_bytes(Encoding.DER), "not a PKCS #10"),
    "cut off": (GOOD[:-10], "not a PKCS #10"),
    "trailing bytes": (GOOD + b"\0", "not a PKCS #10"),
    "PEM": (x509.load_der_x509_csr(GOOD).public_bytes(Encoding.PEM), "not a PKCS #10"),
    "huge": (GOOD + b"\0" * 5_000, "larger than 4096"),
    "signature changed": (with_broken_signature(GOOD), "signature"),
    "key changed": (with_another_key(GOOD), "signature"),
    "RSA 1024": (request_by(rsa.generate_private_key(65537, 1024)), "elliptic-curve key on P-256"),
    "RSA 2048": (request_by(rsa.generate_private_key(65537, 2048)), "elliptic-curve key on P-256"),
    "DSA": (request_by(dsa.generate_private_key(1024)), "elliptic-curve key on P-256"),
    "Ed25519": (request_by(ed25519.Ed25519PrivateKey.generate()), "elliptic-curve key on P-256"),
    "P-224": (request_by(ec.generate_private_key(ec.SECP224R1())), "elliptic-curve key on P-256"),
    "secp256k1": (request_by(ec.generate_private_key(ec.SECP256K1())), "elliptic-curve key on P-256"),
    "brainpool": (request_by(ec.generate_private_key(ec.BrainpoolP256R1())), "elliptic-curve key on P-256"),
    "SHA-224": (request_by(KEY, hashes.SHA224()), "signature"),
    "other name": (make_request(KEY, "evil.example"), "common name"),
    "no name": (request_by(KEY, names=()), "common name"),
    "two names": (request_by(KEY, names=(PEER, "evil.example")), "common name"),
}


@pytest.mark.parametrize("fault", BAD_REQUESTS)
def test_a_bad_request_gets_no_certificate(fault: str) -> None:
    """Each fault of a certificate request is refused by name, and the message does not name the expected gateway."""
    csr, complaint = BAD_REQUESTS[fault]
    with pytest.raises(InputError, match=complaint) as caught:
        issue(csr)

    assert caught.value.field == "csr"
    assert PEER not in str(caught.value)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_listed_curves_are_accepted(curve: ec.EllipticCurve) -> None:
    """P-256 and the stronger NIST curves get a certificate."""
    key = ec.generate_private_key(curve)

    assert key_hash(loaded(issue(make_request(key, PEER)).pem).public_key()) == key_hash(key.public_key())


def test_a_certificate_that_came_out_wrong_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The issuer reads the signed certificate back and refuses one with another identity."""
    monkeypatch.setattr(
        "federation.pki.authority.identity_extensions",
        lambda grant_id, _subject: identity_extensions(grant_id, "eve"),
    )

    with pytest.raises(ValueError, match="does not contain the requested grant id and subject"):
        issue(GOOD)


@pytest.mark.parametrize("identity", [{"grant_id": "x"}, {"subject": ""}, {"subject": "ä"}, {"subject": "a" * 128}])
def test_an_identity_that_no_reader_takes_is_never_issued(identity: dict[str, str]) -> None:
    """The issuer checks the certificate before it returns it."""
    with pytest.raises(ValueError, match="is not"):
        issue(GOOD, **identity)


def test_keys_are_not_shown_by_repr() -> None:
    """The repr of an authority contains no key."""
    assert "PRIVATE" not in repr(AUTHORITY)


def test_a_long_gateway_name_has_an_authority() -> None:
    """63 characters, the most that a name may have, still make certificates."""
    name = "a" * 40 + ".example-of-a-long.tld"

    assert Authority.create(name).server_certificate_pem


def test_a_bundle_has_bounds() -> None:
    """Neither too many certificates nor none pass as a trust bundle."""
    with pytest.raises(ValueError, match="more than 8"):
        certificates_of(AUTHORITY.trust_bundle * 9)
    with pytest.raises(ValueError, match="64 KiB"):
        certificates_of(AUTHORITY.trust_bundle * 200)
    with pytest.raises(ValueError, match="PEM"):
        certificates_of("")
