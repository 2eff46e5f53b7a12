"""The two identity extensions of a client certificate: the grant id, and the subject whose rows the peer reads.

Each is a DER UTF8String in a non-critical extension, because gRPC rejects unknown critical extensions.
"""

import re
import uuid
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ObjectIdentifier

GRANT_ID_OID: Final = ObjectIdentifier("1.3.6.1.4.1.99999.1")
SUBJECT_OID: Final = ObjectIdentifier("1.3.6.1.4.1.99999.2")
MAX_TEXT: Final = 127
"""Bytes of a text: the largest length in DER's short form (X.690, 8.1.3.4)."""
_UTF8_STRING: Final = 0x0C
_SUBJECT: Final = re.compile(r"[\x20-\x7e]{1,127}\Z")
_NAMES: Final = {GRANT_ID_OID: "grant id", SUBJECT_OID: "subject"}


def is_grant_id(value: str) -> bool:
    """Tell whether a text is a UUID in its canonical, lower-case form."""
    try:
        return str(uuid.UUID(value)) == value
    except ValueError:
        return False


def is_subject(value: str) -> bool:
    """Tell whether a text may name a user: 1 to 127 printable ASCII characters."""
    return _SUBJECT.match(value) is not None


def encode_text(value: str) -> bytes:
    """Return a text of 1 to 127 bytes as DER UTF8String; raise `ValueError` for any other."""
    content = value.encode()
    if not 1 <= len(content) <= MAX_TEXT:
        raise ValueError(f"must have 1 to {MAX_TEXT} bytes, not {len(content)}")
    return bytes((_UTF8_STRING, len(content))) + content


def identity_extensions(grant_id: str, subject: str) -> tuple[x509.UnrecognizedExtension, ...]:
    """Return both extensions for a certificate; raise `ValueError` for an invalid identity."""
    _check(grant_id, subject)
    return (
        x509.UnrecognizedExtension(GRANT_ID_OID, encode_text(grant_id)),
        x509.UnrecognizedExtension(SUBJECT_OID, encode_text(subject)),
    )


def read_identity(certificate: x509.Certificate) -> tuple[str, str]:
    """Return grant id and subject of an untrusted certificate.

    Raises `ValueError` that names the fault: an extension missing, doubled or critical, a wrong tag or length,
    trailing bytes, a grant id that is no UUID, a subject that is not 1 to 127 printable ASCII characters.
    """
    try:
        extensions = tuple(certificate.extensions)
    except x509.DuplicateExtension as e:
        raise ValueError(f"the {_NAMES.get(e.oid, e.oid.dotted_string)} extension occurs twice") from None
    except (ValueError, TypeError, x509.UnsupportedGeneralNameType) as e:
        raise ValueError("the extensions cannot be read") from e
    grant_id, subject = _text(extensions, GRANT_ID_OID), _text(extensions, SUBJECT_OID)
    _check(grant_id, subject)
    return grant_id, subject


def _text(extensions: tuple[x509.Extension[x509.ExtensionType], ...], oid: ObjectIdentifier) -> str:
    name = _NAMES[oid]
    found = next((extension for extension in extensions if extension.oid == oid), None)
    if found is None:
        raise ValueError(f"the {name} extension is missing")
    if found.critical:
        raise ValueError(f"the {name} extension is critical")
    if not isinstance(found.value, x509.UnrecognizedExtension):
        raise ValueError(f"the {name} extension cannot be read")  # noqa: TRY004 - one kind of fault for all of them
    return _decode(found.value.value, name)


def _decode(der: bytes, name: str) -> str:
    if len(der) < 2 or der[0] != _UTF8_STRING:  # noqa: PLR2004 - tag and length
        raise ValueError(f"the {name} extension is not a UTF8String")
    length, content = der[1], der[2:]
    if length > MAX_TEXT or length > len(content):
        raise ValueError(f"the {name} extension has a wrong length")
    if length < len(content):
        raise ValueError(f"the {name} extension has trailing bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError(f"the {name} extension is not UTF-8") from None


def _check(grant_id: str, subject: str) -> None:
    if not is_grant_id(grant_id):
        raise ValueError("the grant id is not a UUID")
    if not is_subject(subject):
        raise ValueError("the subject is not 1 to 127 printable ASCII characters")
