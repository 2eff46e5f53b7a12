"""The TLS configuration of a server: checked before use, and replaceable while the server runs."""

from threading import Lock

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from federation.clock import SYSTEM_CLOCK, Clock
from federation.errors import ConfigError
from federation.pki.authority import Authority
from federation.pki.certificates import is_issued_by


class TlsMaterial:
    """Holds one checked configuration in memory, which gRPC fetches at each handshake.

    gRPC fetches from its own threads and ignores a failure, so `publish` makes all checks. `clock` is the machine's
    clock, because TLS checks validity by it.
    """

    def __init__(self, identity: Authority, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._current = _configuration(identity, clock)

    def publish(self, identity: Authority) -> None:
        """Use another certificate and roots from the next handshake on, or raise `ConfigError` and change nothing."""
        self._current = _configuration(identity, self._clock)

    def credentials(self, *, client_certificates: bool) -> grpc.ServerCredentials:
        """Return the credentials of one port; they use the latest published configuration."""
        return grpc.dynamic_ssl_server_credentials(
            self._current, _ConfigurationFetcher(self, self._current), require_client_authentication=client_certificates
        )

    @property
    def current(self) -> grpc.ServerCertificateConfiguration:
        """The latest published configuration."""
        return self._current


class _ConfigurationFetcher:
    """The callback that gRPC calls at each handshake of a port, on any of its threads.

    It returns `None` if nothing changed, and must do so whenever it can: gRPC rebuilds its TLS state for each returned
    configuration and frees the old state, even during a handshake on another thread, which then crashes the process
    (seen with grpcio 1.85).
    """

    def __init__(self, material: TlsMaterial, shown: grpc.ServerCertificateConfiguration) -> None:
        self._material, self._shown = material, shown
        self._lock = Lock()

    def __call__(self) -> grpc.ServerCertificateConfiguration:
        with self._lock:
            current = self._material.current
            if current is self._shown:
                return None  # type: ignore[return-value]  # missing in the stubs
            self._shown = current
            return current


def _configuration(identity: Authority, clock: Clock) -> grpc.ServerCertificateConfiguration:
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
    if not any(is_issued_by(certificate, authority) for authority in authorities):
        raise ConfigError("server certificate", "is not issued by an authority of the trust bundle")
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)


def _public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
