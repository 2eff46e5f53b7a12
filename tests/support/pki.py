"""A certificate authority for tests: issues valid and faulty certificates, and opens channels with them.

It encodes identity extensions with its own code, so that a fault in the project's encoder is not repeated here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any, Final, Self

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.pki.authority import Authority, IssuedCertificate
from federation.pki.certificates import fingerprint_of, validity_us
from federation.wire.channel_args import CHANNEL

GRANT_ID: Final = "11111111-2222-4333-8444-555555555555"
SUBJECT: Final = "ada"
PEER: Final = "home.example"
GRANT_OID: Final = "1.3.6.1.4.1.99999.1"
SUBJECT_OID: Final = "1.3.6.1.4.1.99999.2"
STAND_IN_OID: Final = "1.3.6.1.4.1.99999.3"
CLIENT_AUTH: Final = (ExtendedKeyUsageOID.CLIENT_AUTH,)
SERVER_AUTH: Final = (ExtendedKeyUsageOID.SERVER_AUTH,)


def utf8(text: str) -> bytes:
    """DER UTF8String of fewer than 128 bytes."""
    content = text.encode()
    return bytes((0x0C, len(content))) + content


def identity(grant_id: str = GRANT_ID, subject: str = SUBJECT) -> tuple[tuple[str, bytes], ...]:
    """Both identity extensions, well formed."""
    return ((GRANT_OID, utf8(grant_id)), (SUBJECT_OID, utf8(subject)))


@dataclass(frozen=True)
class Leaf:
    """A certificate and its key, PEM."""

    certificate_pem: str
    key_pem: str

    @property
    def certificate(self) -> x509.Certificate:
        """The parsed certificate."""
        return x509.load_pem_x509_certificate(self.certificate_pem.encode())

    @property
    def serial(self) -> str:
        """The serial number as the stores write it."""
        return format(self.certificate.serial_number, "x")

    @property
    def issued(self) -> IssuedCertificate:
        """The certificate in the form that `GrantRegistry.add_certificate` takes."""
        begin, end = validity_us(self.certificate)
        return IssuedCertificate(
            pem=self.certificate_pem,
            serial=self.serial,
            fingerprint=fingerprint_of(self.certificate),
            not_before_us=begin,
            not_after_us=end,
            csr_hash="0" * 64,
        )


@dataclass(frozen=True)
class LeafSpec:
    """The content of a leaf certificate; the default is a valid client certificate."""

    names: tuple[str, ...] = ()
    common_name: str = PEER
    usages: tuple[x509.ObjectIdentifier, ...] = CLIENT_AUTH
    extensions: tuple[tuple[str, bytes], ...] = identity()
    critical: bool = False
    ends_in: timedelta = timedelta(hours=24)
    begins_in: timedelta = timedelta(minutes=-5)
    now: datetime | None = None
    key: ec.EllipticCurvePrivateKey | None = None


class Pki:
    """A root certificate and its key. `Pki()` is an unknown authority; `Pki.of(authority)` uses a gateway's key."""

    def __init__(self, name: str = "stranger.example") -> None:
        self._key = new_key()
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"root of {name}")])
        now = datetime.now(UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=400))
            .not_valid_after(now + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, SHA256())
        )

    @classmethod
    def of(cls, authority: Authority) -> Self:
        """Use a gateway's root, for certificates that its authority would never issue."""
        pki = cls.__new__(cls)
        key = load_pem_private_key(authority.ca_key_pem.encode(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        pki._key = key
        pki._certificate = x509.load_pem_x509_certificate(authority.ca_certificate_pem.encode())
        pki._name = pki._certificate.subject
        return pki

    @property
    def trust_bundle(self) -> str:
        """The root, PEM."""
        return self._certificate.public_bytes(Encoding.PEM).decode()

    def server(self, *names: str, **changes: Any) -> Leaf:
        """A server certificate for DNS names and IP addresses."""
        return self.leaf(replace(SERVER_SPEC, names=names, common_name=names[0], **changes))

    def client(self, grant_id: str = GRANT_ID, subject: str = SUBJECT, **changes: Any) -> Leaf:
        """A client certificate with both identity extensions."""
        return self.leaf(replace(LeafSpec(extensions=identity(grant_id, subject)), **changes))

    def bad_client(self, fault: str, grant_id: str = GRANT_ID, subject: str = SUBJECT) -> Leaf:
        """A client certificate with one of `IDENTITY_FAULTS`."""
        return self.client(extensions=IDENTITY_FAULTS[fault](grant_id, subject))

    def leaf(self, spec: LeafSpec) -> Leaf:
        """A leaf with the content of `spec`, valid or not."""
        key = spec.key or new_key()
        now = spec.now or datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, spec.common_name)]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + spec.begins_in)
            .not_valid_after(now + spec.ends_in)
        )
        if spec.usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(spec.usages), critical=False)
        if spec.names:
            names = [general_name(name) for name in spec.names]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        seen: list[str] = []
        for oid, value in spec.extensions:
            # The library refuses to write an extension twice, so the second one gets another OID first.
            written = STAND_IN_OID if oid in seen else oid
            seen.append(oid)
            extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(written), value)
            builder = builder.add_extension(extension, critical=spec.critical)
        certificate = builder.sign(self._key, SHA256())
        doubled = next((oid for oid in seen if seen.count(oid) > 1), None)
        der = self._renamed(certificate, doubled) if doubled else certificate.public_bytes(Encoding.DER)
        return Leaf(certificate_pem(der), key_pem(key))

    def _renamed(self, certificate: x509.Certificate, oid: str) -> bytes:
        """Rename the stand-in extension to `oid` and sign again."""
        body = certificate.tbs_certificate_bytes
        stand_in, real = oid_der(STAND_IN_OID), oid_der(oid)
        assert body.count(stand_in) == 1
        assert len(stand_in) == len(real)
        body = body.replace(stand_in, real)
        ecdsa_with_sha256 = bytes.fromhex("300a06082a8648ce3d040302")
        signature = self._key.sign(body, ec.ECDSA(SHA256()))
        return tlv(0x30, body + ecdsa_with_sha256 + tlv(0x03, b"\0" + signature))


SERVER_SPEC: Final = LeafSpec(usages=SERVER_AUTH, extensions=())

IDENTITY_FAULTS: Final[Mapping[str, Callable[[str, str], tuple[tuple[str, bytes], ...]]]] = {
    "no extensions": lambda _grant, _subject: (),
    "grant missing": lambda _grant, subject: ((SUBJECT_OID, utf8(subject)),),
    "subject missing": lambda grant, _subject: ((GRANT_OID, utf8(grant)),),
    "grant twice": lambda grant, subject: (*identity(grant, subject), (GRANT_OID, utf8(grant))),
    "subject twice": lambda grant, subject: (*identity(grant, subject), (SUBJECT_OID, utf8("eve"))),
    "wrong tag": lambda grant, subject: ((GRANT_OID, b"\x13" + utf8(grant)[1:]), (SUBJECT_OID, utf8(subject))),
    "raw text": lambda grant, subject: ((GRANT_OID, grant.encode()), (SUBJECT_OID, utf8(subject))),
    "length too long": lambda grant, subject: ((GRANT_OID, b"\x0c\x25" + grant.encode()), (SUBJECT_OID, utf8(subject))),
    "length too short": lambda grant, subject: (
        (GRANT_OID, b"\x0c\x23" + grant.encode()),
        (SUBJECT_OID, utf8(subject)),
    ),
    "long form length": lambda grant, subject: (
        (GRANT_OID, b"\x0c\x81\x24" + grant.encode()),
        (SUBJECT_OID, utf8(subject)),
    ),
    "trailing bytes": lambda grant, subject: ((GRANT_OID, utf8(grant)), (SUBJECT_OID, utf8(subject) + b"\0")),
    "empty value": lambda grant, _subject: ((GRANT_OID, utf8(grant)), (SUBJECT_OID, b"")),
    "tag alone": lambda grant, _subject: ((GRANT_OID, utf8(grant)), (SUBJECT_OID, b"\x0c")),
    "empty subject": lambda grant, _subject: ((GRANT_OID, utf8(grant)), (SUBJECT_OID, b"\x0c\x00")),
    "subject too long": lambda grant, _subject: ((GRANT_OID, utf8(grant)), (SUBJECT_OID, b"\x0c\x81\x80" + b"a" * 128)),
    "not utf-8": lambda grant, _subject: ((GRANT_OID, utf8(grant)), (SUBJECT_OID, b"\x0c\x02\xff\xfe")),
    "not ascii": lambda grant, _subject: ((GRANT_OID, utf8(grant)), (SUBJECT_OID, utf8("adä"))),
    "not printable": lambda grant, _subject: ((GRANT_OID, utf8(grant)), (SUBJECT_OID, utf8("ada\n"))),
    "grant not a uuid": lambda _grant, subject: ((GRANT_OID, utf8("grant-1")), (SUBJECT_OID, utf8(subject))),
    "grant in capitals": lambda _grant, subject: (
        (GRANT_OID, utf8("ABCDEFAB-0000-4000-8000-000000000000")),
        (SUBJECT_OID, utf8(subject)),
    ),
}
"""Client certificates that pass TLS and must be refused for their identity extensions: name and extensions."""

HANDSHAKE_FAULTS: Final[Mapping[str, Callable[[Pki, str, str], Leaf]]] = {
    "other authority": lambda _pki, grant, subject: Pki().client(grant, subject),
    "server usage": lambda pki, grant, subject: pki.client(grant, subject, usages=SERVER_AUTH),
    "expired": lambda pki, grant, subject: pki.client(
        grant, subject, begins_in=timedelta(hours=-25), ends_in=timedelta(hours=-1)
    ),
    "not yet valid": lambda pki, grant, subject: pki.client(
        grant, subject, begins_in=timedelta(hours=1), ends_in=timedelta(hours=25)
    ),
    "critical extensions": lambda pki, grant, subject: pki.client(grant, subject, critical=True),
}
"""Client certificates that fail the TLS handshake: name and factory (root, grant id, subject)."""


def server_credentials(leaf: Leaf, client_roots: str | None = None) -> grpc.ServerCredentials:
    """Server credentials; with `client_roots` a client certificate of these roots is required."""
    roots = client_roots.encode() if client_roots is not None else None
    pair = (leaf.key_pem.encode(), leaf.certificate_pem.encode())
    return grpc.ssl_server_credentials([pair], root_certificates=roots, require_client_auth=roots is not None)


def channel_credentials(roots: str, leaf: Leaf | None = None) -> grpc.ChannelCredentials:
    """Client credentials, without a client certificate if `leaf` is `None`."""
    if leaf is None:
        return grpc.ssl_channel_credentials(roots.encode())
    return grpc.ssl_channel_credentials(roots.encode(), leaf.key_pem.encode(), leaf.certificate_pem.encode())


def dial(address: str, gateway: str, roots: str, leaf: Leaf | None = None) -> grpc.aio.Channel:
    """An aio channel to a gateway, with the options and name check of a peer."""
    return grpc.aio.secure_channel(address, channel_credentials(roots, leaf), options=CHANNEL.to_grpc(gateway))


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """PKCS #8 PEM, unencrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def general_name(name: str) -> x509.GeneralName:
    """An IP address if the text is one, else a DNS name."""
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def certificate_pem(der: bytes) -> str:
    """A DER certificate as PEM."""
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()


def oid_der(dotted: str) -> bytes:
    """DER of an object identifier."""
    first, second, *rest = map(int, dotted.split("."))
    content = bytes((first * 40 + second,))
    for part in rest:
        digits = [part & 0x7F]
        while part := part >> 7:
            digits.append(0x80 | part & 0x7F)
        content += bytes(reversed(digits))
    return tlv(0x06, content)


def tlv(tag: int, content: bytes) -> bytes:
    """DER tag, length, value."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(length))) + length + content
