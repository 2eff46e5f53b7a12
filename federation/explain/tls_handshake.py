"""Check of the TLS handshake with the standard library, which reports causes that gRPC shows as "socket closed"."""

import contextlib
import secrets
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from federation.errors import Action
from federation.explain.checks import BrokenLink
from federation.explain.own_certificate import re_enroll_hint
from federation.explain.tls_alerts import handshake_failure, verification_failure
from federation.sanitize import printable
from federation.store.peers import PeerRecord

ALPN: Final = "h2"
HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""The preface of an HTTP/2 client (RFC 9113, section 3.4) with empty SETTINGS. A server answers with its SETTINGS."""


def client_context(record: PeerRecord) -> ssl.SSLContext:
    """Return a TLS context without a trusted authority, with the own certificate if it and its key are usable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    # The own certificate has a check of its own; without a usable one, the peer's side can still be checked.
    with (
        contextlib.suppress(ValueError, TypeError, ssl.SSLError),
        temp_cert_chain(record.certificate_pem, record.key_pem) as (path, password),
    ):
        context.load_cert_chain(path, password=password)
    return context


def do_handshake(
    connection: socket.socket, record: PeerRecord, context: ssl.SSLContext, timeout_s: float
) -> tuple[None, str]:
    """Do the handshake as gRPC channels do, and wait until the peer has verified the own certificate.

    Raises `BrokenLink`, or `OwnCertificateRefused` if the peer rejects the own certificate.
    """
    deadline = time.monotonic() + timeout_s
    try:
        context.load_verify_locations(cadata=record.trust_bundle)
    except (ssl.SSLError, ValueError):
        cause = f"the stored authority of {record.gateway} cannot be read"
        raise BrokenLink(cause, re_enroll_hint(record), record.remedy(Action.ENROLL_AGAIN)) from None
    connection.settimeout(timeout_s)
    address = connection.getpeername()
    try:
        tls = context.wrap_socket(connection, server_hostname=record.gateway, do_handshake_on_connect=False)
    except (OSError, ValueError) as e:
        raise handshake_failure(record, e, timeout_s, handshake_done=False) from None
    with tls:
        try:
            tls.do_handshake()
        except ssl.SSLCertVerificationError as e:
            raise verification_failure(record, e, _presented_certificate(address, record, deadline)) from None
        except (OSError, ValueError) as e:
            raise handshake_failure(record, e, timeout_s, handshake_done=_client_certificate_checked(tls)) from None
        if tls.selected_alpn_protocol() != ALPN:
            raise BrokenLink(
                f"{record.endpoint} speaks TLS under the name {record.gateway}, but not HTTP/2, which gRPC needs",
                f"a proxy is before the gateway: ask the operator of {record.gateway} for a port that is "
                "forwarded unchanged (TCP, without TLS termination)",
            )
        try:
            _await_first_byte(tls, deadline)
        except (OSError, ValueError) as e:
            raise handshake_failure(record, e, timeout_s, handshake_done=True) from None
        return None, f"{tls.version()}, the certificate is {record.gateway}'s, valid until {_not_after(tls)}"


@contextmanager
def temp_cert_chain(certificate_pem: str, key_pem: str) -> Iterator[tuple[str, bytes]]:
    """Yield the path and the one-time password of a temporary file with certificate and key, since `ssl` needs a file.

    Raises `ValueError` or `TypeError` for a key that cannot be read.
    """
    password = secrets.token_hex(32).encode()
    key = load_pem_private_key(key_pem.encode(), None)
    sealed = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password))
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write(certificate_pem.encode() + b"\n" + sealed)
        file.flush()
        yield file.name, password


def _client_certificate_checked(tls: ssl.SSLSocket) -> bool:
    """Tell whether the peer had received the own certificate when a handshake before TLS 1.3 failed.

    The peer's messages arrive and are verified together: once a cipher is agreed on, the own certificate was sent.
    """
    agreed = tls.cipher()
    return agreed is not None and agreed[1] != "TLSv1.3"


def _await_first_byte(tls: ssl.SSLSocket, deadline: float) -> None:
    """Wait for the peer's first byte, which in TLS 1.3 follows its check of the own certificate.

    Raises `ssl.SSLEOFError` if the connection ends first. A peer that sends nothing gets the preface after half of the
    time. Not sooner: data sent to a connection that the peer has closed would discard its alert in transit.
    """
    tls.settimeout(max((deadline - time.monotonic()) / 2, 0.001))
    try:
        first = tls.recv(1)
    except TimeoutError:
        tls.settimeout(max(deadline - time.monotonic(), 0.001))
        tls.sendall(HTTP2_PREFACE)
        first = tls.recv(1)
    if not first:
        raise ssl.SSLEOFError


def _not_after(tls: ssl.SSLSocket) -> str:
    der = tls.getpeercert(binary_form=True) or b""
    return f"{x509.load_der_x509_certificate(der).not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC"


def _presented_certificate(address: tuple[str, int], record: PeerRecord, deadline: float) -> str:
    """Describe the untrusted certificate presented at an address; empty if it cannot be fetched. Best effort."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # only describes the certificate: nothing is sent or trusted
    context.set_alpn_protocols([ALPN])
    try:
        with (
            socket.create_connection(address[:2], max(deadline - time.monotonic(), 0.001)) as connection,
            context.wrap_socket(connection, server_hostname=record.gateway) as tls,
        ):
            certificate = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
        issuer = certificate.issuer.rfc4514_string()
        try:
            carried = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            names = [str(name.value) for name in carried]
        except x509.ExtensionNotFound:
            names = [certificate.subject.rfc4514_string()]
    except (OSError, ValueError):
        return ""
    return printable(f"; it shows a certificate for {', '.join(names)}, issued by {issuer}")
