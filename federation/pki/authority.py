"""A gateway's own certificate authority: one root, one server certificate, and client certificates for peers."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.clock import SYSTEM_CLOCK, Clock, from_micros
from federation.pki.certificates import fingerprint_of, pem_of, serial_of, validity_us
from federation.pki.csr import read_request
from federation.pki.identity_extensions import identity_extensions, read_identity

CA_LIFETIME: Final = timedelta(days=3_652)
SERVER_LIFETIME_S: Final = 365 * 86_400
BACKDATED: Final = timedelta(minutes=5)
"""Certificates become valid this long before they are issued, for peers whose clocks are slow."""
ORGANIZATION: Final = "Mosaic gateway authority"


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A client certificate as issued. Instants are Unix microseconds; hashes are lower-case hexadecimal SHA-256."""

    pem: str
    serial: str
    fingerprint: str
    not_before_us: int
    not_after_us: int
    csr_hash: str


@dataclass(frozen=True)
class Authority:
    """The certificate authority of the gateway `name`. PEM values are `str`; gRPC takes them as bytes."""

    name: str
    ca_certificate_pem: str
    ca_key_pem: str = field(repr=False)
    server_certificate_pem: str
    server_key_pem: str = field(repr=False)
    clock: Clock = SYSTEM_CLOCK

    @classmethod
    def create(
        cls,
        name: str,
        hosts: Iterable[str] = (),
        clock: Clock = SYSTEM_CLOCK,
        server_lifetime_s: float = SERVER_LIFETIME_S,
    ) -> "Authority":
        """Create a root and a server certificate for the gateway's name and every host (DNS name or IP address)."""
        now = clock.now()
        ca_key = _new_key()
        root = cls(name, pem_of(_root(name, ca_key, now)), private_key_pem(ca_key), "", "", clock)
        return root.with_server(hosts, server_lifetime_s)

    def with_server(self, hosts: Iterable[str] = (), lifetime_s: float = SERVER_LIFETIME_S) -> "Authority":
        """Return this authority with a new server key and certificate, which expires no later than the root."""
        now, key = self.clock.now(), _new_key()
        end = min(now + timedelta(seconds=lifetime_s), self._ca.not_valid_after_utc)
        certificate = _server(self._ca, self._ca_key, key.public_key(), (self.name, *hosts), (now - BACKDATED, end))
        return replace(self, server_certificate_pem=pem_of(certificate), server_key_pem=private_key_pem(key))

    def serves(self, hosts: Iterable[str] = ()) -> bool:
        """Tell whether the server certificate names exactly the gateway and these hosts."""
        certificate = x509.load_pem_x509_certificate(self.server_certificate_pem.encode())
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return list(found) == _general_names((self.name, *hosts))

    @property
    def trust_bundle(self) -> str:
        """The roots that a peer must trust for this gateway, PEM."""
        return self.ca_certificate_pem

    def issue_client(
        self,
        csr_der: bytes,
        *,
        grant_id: str,
        subject: str,
        peer: str,
        lifetime_s: float,
        not_after_us: int | None = None,
    ) -> IssuedCertificate:
        """Issue a client certificate for the key of a certificate request, and check the result.

        Only the key is taken from the request, whose common name must be `peer`. The certificate ends after
        `lifetime_s`, or at `not_after_us` (the grant's end) where that is sooner.

        Raises `InputError` that names `csr` for a refused request, `ValueError` for an identity that a certificate
        cannot contain.
        """
        request = read_request(csr_der, peer)
        now = self.clock.now()
        end = min(now + timedelta(seconds=lifetime_s), self._ca.not_valid_after_utc)
        if not_after_us is not None:
            end = min(end, from_micros(not_after_us))
        builder = (
            _builder(self._ca.subject, request.public_key, now - BACKDATED, end)
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, peer)]))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signing=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(_issuer_key(self._ca), critical=False)
        )
        for extension in identity_extensions(grant_id, subject):
            builder = builder.add_extension(extension, critical=False)
        certificate = builder.sign(self._ca_key, hashes.SHA256())
        if read_identity(certificate) != (grant_id, subject):
            raise ValueError("the issued certificate does not contain the requested grant id and subject")
        before, after = validity_us(certificate)
        return IssuedCertificate(
            pem_of(certificate), serial_of(certificate), fingerprint_of(certificate), before, after, request.hash
        )

    @cached_property
    def _ca(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.ca_certificate_pem.encode())

    @cached_property
    def _ca_key(self) -> ec.EllipticCurvePrivateKey:
        key = serialization.load_pem_private_key(self.ca_key_pem.encode(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("the authority's key is not an elliptic-curve key")
        return key


def private_key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a key as unencrypted PKCS #8 PEM. Keep it in memory or seal it; never write it to disk."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode("ascii")


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _builder(
    issuer: x509.Name, key: ec.EllipticCurvePublicKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _root(name: str, key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
    return (
        _builder(subject, key.public_key(), now - BACKDATED, now + CA_LIFETIME)
        .subject_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signing=False), critical=True)
        .sign(key, hashes.SHA256())
    )


def _server(
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePublicKey,
    hosts: Iterable[str],
    validity: tuple[datetime, datetime],
) -> x509.Certificate:
    return (
        _builder(ca.subject, key, *validity)
        .subject_name(x509.Name([]))  # RFC 5280, 4.2.1.6: with an empty subject, the alternative names are critical
        .add_extension(x509.SubjectAlternativeName(_general_names(hosts)), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signing=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_issuer_key(ca), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _general_names(hosts: Iterable[str]) -> list[x509.GeneralName]:
    return [_general_name(host) for host in dict.fromkeys(hosts)]


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _issuer_key(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier.value)


def _key_usage(*, signing: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signing,
        key_cert_sign=not signing,
        crl_sign=not signing,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
