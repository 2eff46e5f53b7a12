"""Metadata keys of the wire contract, and validation of their values."""

import re
from collections.abc import Iterable
from typing import Final

Metadata = tuple[tuple[str, str | bytes], ...]
"""gRPC metadata. The package appends to it and never replaces it."""

TRACEPARENT: Final = "traceparent"
"""Request: the caller's span (W3C Trace Context, level 1)."""
INSTANCE: Final = "mosaic-instance"
"""Request: the random id of the caller's cache object, 32 lower-case hexadecimal digits."""
LEASE_MS: Final = "mosaic-lease-ms"
"""Trailing response: milliseconds that the answer may be cached. Absent or 0: not cacheable."""
MAX_LEASE_MS: Final = 30_000
"""The longest lease that a gateway grants, in milliseconds."""
TRACERESPONSE: Final = "traceresponse"
"""Trailing response: the server's span."""
SOURCE: Final = "_source"
"""`local` or `federated:<peer>`; set only by the calling gateway."""
CACHED: Final = "_cached"
"""`true` or `false`; set only by the calling gateway."""
RESERVED_FOR_TAGS: Final = frozenset({SOURCE, CACHED})
"""Keys that are removed from received metadata."""
_INSTANCE: Final = re.compile(r"[0-9a-f]{32}\Z")


def first(metadata: Iterable[tuple[str, str | bytes]] | None, key: str) -> str | None:
    """Return the first text value of a key, or `None`."""
    for name, value in metadata or ():
        if name == key and isinstance(value, str):
            return value
    return None


def is_instance(value: str) -> bool:
    """Tell whether a value is a valid `mosaic-instance`."""
    return _INSTANCE.match(value) is not None


def is_sendable(value: str) -> bool:
    """Tell whether a value is valid in gRPC metadata: printable ASCII (gRPC over HTTP/2, Custom-Metadata)."""
    return value.isascii() and value.isprintable()
