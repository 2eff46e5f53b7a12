"""What a server shows and whom it trusts, checked before it is used, and exchangeable while it serves."""

from threading import Lock
from typing import Protocol

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from federation.clock import SYSTEM_CLOCK, Clock
from federation.errors import ConfigError

__all__ = ["ServerIdentity", "TlsMaterial"]


class ServerIdentity(Protocol):
    """The server certificate with its key, and the roots of client certificates, PEM; `Authority` is one."""

    @property
    def server_certificate_pem(self) -> str:
        """The certificate that peers see."""
        ...

    @property
    def server_key_pem(self) -> str:
        """Its key, unencrypted."""
        ...

    @property
    def trust_bundle(self) -> str:
        """The roots that client certificates must come from."""
        ...


class TlsMaterial:
    """Holds one ready configuration in memory, which gRPC fetches at each handshake.

    gRPC calls from a thread of its own and goes on with the old configuration if the call fails; so everything is
    checked in `publish`, and the fetch only hands out what is there. `clock` is the machine's, by which peers judge.
    """

    def __init__(self, identity: ServerIdentity, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._current = _configuration(identity, clock)

    def publish(self, identity: ServerIdentity) -> None:
        """Use another certificate and other roots from the next handshake on; raise `ConfigError`, changing nothing."""
        self._current = _configuration(identity, self._clock)

    def credentials(self, *, client_certificates: bool) -> grpc.ServerCredentials:
        """Return credentials for one port; they follow `publish`."""
        return grpc.dynamic_ssl_server_credentials(
            self._current, _Fetch(self, self._current), require_client_authentication=client_certificates
        )

    @property
    def current(self) -> grpc.ServerCertificateConfiguration:
        """What is shown now."""
        return self._current


class _Fetch:
    """What gRPC asks at each handshake of a port, on any of its threads.

    `None` means that nothing changed, and must be the usual answer: gRPC builds its TLS state anew for every
    configuration that it is handed, and frees the old one under a handshake that runs beside it on another thread,
    which ends the process (seen with grpcio 1.85).
    """

    def __init__(self, material: TlsMaterial, shown: grpc.ServerCertificateConfiguration) -> None:
        self._material, self._shown = material, shown
        self._lock = Lock()

    def __call__(self) -> grpc.ServerCertificateConfiguration:
        with self._lock:
            current = self._material.current
            if current is self._shown:
                return None  # type: ignore[return-value]  # the stubs do not know of it
            self._shown = current
            return current


def _configuration(identity: ServerIdentity, clock: Clock) -> grpc.ServerCertificateConfiguration:
    pair = (identity.server_key_pem.encode(), identity.server_certificate_pem.encode())
    roots = identity.trust_bundle.encode()
    try:
        certificate = x509.load_pem_x509_certificate(pair[1])
        key = load_pem_private_key(pair[0], None)
        authorities = x509.load_pem_x509_certificates(roots)
    except (ValueError, TypeError) as e:
        raise ConfigError("server certificate", f"cannot be read: {e}") from e
    if _public(certificate.public_key()) != _public(key.public_key()):
        raise ConfigError("server certificate", "does not belong to the server key")
    if not certificate.not_valid_before_utc <= clock.now() < certificate.not_valid_after_utc:
        raise ConfigError("server certificate", "is not valid now by the clock of this machine")
    if not any(_is_issued_by(certificate, authority) for authority in authorities):
        raise ConfigError("server certificate", "is not of an authority that peers are told to trust")
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)


def _public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
