"""Sealing of private keys at rest: AES-256-GCM under one seal key that is never stored in the database."""

import base64
import binascii
import os
import re
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from federation.errors import ConflictError, SealError

SEAL_KEY_FILE: Final = "seal.key"
SEAL_KEY_VARIABLE: Final = "MOSAIC_SEAL_KEY"
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
PREFIX: Final = b"MS1\0"
"""Identifies the layout `prefix, nonce, AES-256-GCM ciphertext`; another layout gets another number."""
MAX_KEY_FILE: Final = 1_024
_HEX: Final = re.compile(r"[0-9a-fA-F]{64}\Z")


class Sealer:
    """Seals and opens bytes under one key of 32 bytes.

    `purpose` is authenticated data: bytes sealed for one purpose do not open for another, so an attacker who can write
    to the database cannot replace one key by another.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise SealError(f"a seal key has {KEY_BYTES} bytes, not {len(key)}")
        self._key = key
        self._aead = AESGCM(self.derive("seal"))

    @classmethod
    def create(cls, directory: Path, environment: Mapping[str, str] = os.environ) -> "Sealer":
        """Create the key file of a new gateway, or use `MOSAIC_SEAL_KEY` if it is set, and write nothing.

        Raises `ConflictError` if the file exists, `SealError` if it cannot be written.
        """
        given = environment.get(SEAL_KEY_VARIABLE)
        if given:
            return cls(_parse(given, f"${SEAL_KEY_VARIABLE}"))
        key, path = secrets.token_bytes(KEY_BYTES), directory / SEAL_KEY_FILE
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise ConflictError(f"{path} exists already; without it the gateway's keys cannot be opened") from None
        except OSError as e:
            raise SealError(f"cannot write {path}: {e.strerror}") from e
        with os.fdopen(fd, "w", encoding="ascii") as file:
            os.fchmod(fd, 0o600)
            file.write(key.hex() + "\n")
            file.flush()
            os.fsync(fd)
        return cls(key)

    @classmethod
    def load(cls, directory: Path, environment: Mapping[str, str] = os.environ) -> "Sealer":
        """Read `MOSAIC_SEAL_KEY`, or else the key file, which only its owner may access. Raises `SealError`."""
        given = environment.get(SEAL_KEY_VARIABLE)
        if given:
            return cls(_parse(given, f"${SEAL_KEY_VARIABLE}"))
        path = directory / SEAL_KEY_FILE
        return cls(_parse(_read(path), str(path)))

    def seal(self, plaintext: bytes, purpose: str) -> bytes:
        """Return bytes that only this key opens, and only for `purpose`. The nonce is random."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return PREFIX + nonce + self._aead.encrypt(nonce, plaintext, _bound(purpose))

    def open(self, sealed: bytes, purpose: str) -> bytes:
        """Return the sealed plaintext; raise `SealError` for another key or purpose, and for changed bytes."""
        if not sealed.startswith(PREFIX):
            raise SealError(f"the sealed {purpose} has an unknown format; restore the database from a backup")
        body = sealed[len(PREFIX) :]
        try:
            return self._aead.decrypt(body[:NONCE_BYTES], body[NONCE_BYTES:], _bound(purpose))
        except (InvalidTag, ValueError):
            raise SealError(
                f"the sealed {purpose} cannot be opened: another seal key sealed it, or the stored bytes were changed; "
                f"restore {SEAL_KEY_FILE} (or ${SEAL_KEY_VARIABLE}) and the database from one backup"
            ) from None

    def derive(self, purpose: str) -> bytes:
        """Return 32 bytes derived from this key for `purpose` by HKDF-SHA256 (RFC 5869)."""
        kdf = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=b"mosaic/" + purpose.encode())
        return kdf.derive(self._key)


def _bound(purpose: str) -> bytes:
    return PREFIX + purpose.encode()


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise SealError(f"{path} is not a regular file")
            mode = stat.S_IMODE(found.st_mode)
            if mode & 0o077:
                raise SealError(f"{path} may be read or changed by others (mode {mode:04o}): chmod 600 {path}")
            return file.read(MAX_KEY_FILE).decode("ascii", "replace")
    except FileNotFoundError:
        raise SealError(f"{path} is missing: restore it from a backup, or set ${SEAL_KEY_VARIABLE}") from None
    except OSError as e:
        raise SealError(f"cannot read {path}: {e.strerror}") from e


def _parse(text: str, where: str) -> bytes:
    text = text.strip()
    try:
        key = bytes.fromhex(text) if _HEX.match(text) else base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise SealError(f"{where} must hold {KEY_BYTES} bytes as 64 hexadecimal digits or as base64")
    return key
