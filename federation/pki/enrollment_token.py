"""The enrollment token: one string for pasting, with everything that the enrolling side needs."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from federation import base64url
from federation.config import is_gateway_name, parse_address
from federation.errors import ConfigError, InputError
from federation.pki.certificates import pem_of
from federation.pki.identity_extensions import is_grant_id

PREFIX: Final = "mosaic1_"
CHECKSUM_BYTES: Final = 8
MAX_TEXT: Final = 8_192
_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{43}\Z")
_FIELDS: Final = ("endpoint", "secret", "gateway", "grant_id")
_GARBLED: Final = "is garbled or cut off: copy the whole token, from mosaic1_ to its end"


def is_secret(text: str) -> bool:
    """Tell whether a text has the form of a token's secret: 256 bits as base64url."""
    return _SECRET.match(text) is not None


@dataclass(frozen=True, slots=True)
class EnrollmentToken:
    """The contents of a token. Its holder may enroll, so it is shown once, and stored only as a hash.

    `endpoint` is host:port of the enrollment service, whose server certificate must be issued by
    `ca_certificate_pem` for the name `gateway`. By `grant_id` the enrolling side refuses a grant that it already uses
    before the token is redeemed.
    """

    endpoint: str
    ca_certificate_pem: str
    secret: str = field(repr=False)
    gateway: str
    grant_id: str

    def encode(self) -> str:
        """Return the token as a string; `decode` is the inverse."""
        certificate = x509.load_pem_x509_certificate(self.ca_certificate_pem.encode())
        head = json.dumps([getattr(self, name) for name in _FIELDS], separators=(",", ":")).encode()
        body = head + b"\n" + certificate.public_bytes(serialization.Encoding.DER)
        return PREFIX + base64url.encode(_checksum(body) + body)

    @classmethod
    def decode(cls, text: str) -> "EnrollmentToken":
        """Read a pasted string and ignore its white space. Raises `InputError` that names `token`."""
        text = "".join(text.split())
        if not text.startswith(PREFIX):
            raise InputError("token", f"is not an enrollment token: one begins with {PREFIX}")
        body = _validate(text)
        head, _, der = body.partition(b"\n")
        try:
            fields: Any = json.loads(head)
            certificate = pem_of(x509.load_der_x509_certificate(der))
        except (ValueError, RecursionError):
            raise InputError("token", _GARBLED) from None
        if not isinstance(fields, list) or len(fields) != len(_FIELDS) or not all(isinstance(f, str) for f in fields):
            raise InputError("token", _GARBLED)
        values = dict(zip(_FIELDS, fields, strict=True))
        _check(values)
        return cls(ca_certificate_pem=certificate, **values)


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(b"mosaic enrollment token\0" + body).digest()[:CHECKSUM_BYTES]


def _validate(text: str) -> bytes:
    encoded = text[len(PREFIX) :]
    try:
        data = base64url.decode(encoded)
    except ValueError:
        raise InputError("token", _GARBLED) from None
    body = data[CHECKSUM_BYTES:]
    if len(text) > MAX_TEXT or _checksum(body) != data[:CHECKSUM_BYTES]:
        raise InputError("token", _GARBLED)
    return body


def _check(values: dict[str, str]) -> None:
    """Raise `InputError` for malformed fields, which a forged token with a right checksum can have."""
    try:
        _, port = parse_address(values["endpoint"], "token")
    except ConfigError as e:
        raise InputError("token", f"its endpoint is invalid: {e}") from None
    if not port or not is_gateway_name(values["gateway"]):
        raise InputError("token", "its endpoint or gateway name is invalid")
    if not is_secret(values["secret"]) or not is_grant_id(values["grant_id"]):
        raise InputError("token", "its secret or grant id is malformed")
