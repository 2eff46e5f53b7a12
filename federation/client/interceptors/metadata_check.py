"""Validation of the caller's request metadata."""

import re
from typing import Any, Final

from federation.wire.metadata import Metadata, is_sendable

_KEY: Final = re.compile(r"[0-9a-z_.-]+\Z")


def fault_of(metadata: Metadata) -> str:
    """Return the fault of the first pair that gRPC could not send unchanged, or an empty string."""
    for pair in metadata:
        fault = _fault(pair)
        if fault:
            return fault
    return ""


def _fault(pair: Any) -> str:
    if not isinstance(pair, tuple) or len(pair) != 2:  # noqa: PLR2004 - a pair
        return "an entry is not a pair of key and value"
    key, value = pair
    if not isinstance(key, str) or not _KEY.match(key):
        return f"the key {key!r} must be lower-case letters, digits, '_', '-' or '.'"
    if key.startswith("grpc-"):
        return f"the key {key!r} is reserved by gRPC"
    if key.endswith("-bin"):
        return "" if isinstance(value, bytes) else f"the value of {key!r} must be bytes"
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    if not isinstance(text, str) or not is_sendable(text):
        return f"the value of {key!r} must be printable ASCII"
    return ""
