"""Certificates of one peer's authority, made in memory for the scripted peer."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

GRANT_ID = "7f6c1f52-6e0e-4a27-9f8d-2f0f6a3f6f01"
GRANT_OID = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")
SUBJECT_OID = x509.ObjectIdentifier("1.3.6.1.4.1.99999.2")


@dataclass(frozen=True)
class ClientIdentity:
    """A client certificate and its key, PEM."""

    certificate_pem: str
    key_pem: str


@dataclass(frozen=True, kw_only=True)
class Enrolled:
    """The fields of a peer record, for tests that need no store."""

    id: str
    name: str
    user: str
    gateway: str
    endpoint: str
    grant_id: str
    subject: str
    certificate_pem: str
    key_pem: str
    trust_bundle: str
    created_at_us: int


class PeerPki:
    """The authority of the peers: its certificate is the trust bundle of every record."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("test authority")
        builder = _builder(self._name, self._name, self._key.public_key(), timedelta(days=3650), timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.trust_bundle = _pem(builder.sign(self._key, SHA256()))

    def server_credentials(self, gateway: str) -> grpc.ServerCredentials:
        """What a server of that name shows; it demands client certificates of this authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName(gateway), x509.IPAddress(ip_address("127.0.0.1"))]
        builder = _builder(_name(gateway), self._name, key.public_key(), timedelta(days=30), timedelta(days=1))
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        pair = (_key_pem(key).encode(), _pem(builder.sign(self._key, SHA256())).encode())
        return grpc.ssl_server_credentials([pair], self.trust_bundle.encode(), require_client_auth=True)

    def client(
        self,
        *,
        grant_id: str = GRANT_ID,
        subject: str = "ada",
        lifetime: timedelta = timedelta(hours=24),
        age: timedelta = timedelta(minutes=5),
    ) -> ClientIdentity:
        """A client certificate as a grantor issues it; `lifetime` counts from now, `age` says when it began."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(subject), self._name, key.public_key(), lifetime, age)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        for oid, text in ((GRANT_OID, grant_id), (SUBJECT_OID, subject)):
            encoded = bytes([0x0C, len(text)]) + text.encode()
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, encoded), critical=False)
        return ClientIdentity(_pem(builder.sign(self._key, SHA256())), _key_pem(key))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta, age: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return (
        builder.serial_number(x509.random_serial_number()).not_valid_before(now - age).not_valid_after(now + lifetime)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
