"""Metadata keys of the contract, and how to read values that a peer may have made up."""

import re
from collections.abc import Iterable
from typing import Final

__all__ = [
    "CACHED",
    "INSTANCE",
    "LEASE_MS",
    "MAX_LEASE_MS",
    "RESERVED_FOR_TAGS",
    "SOURCE",
    "TRACEPARENT",
    "TRACERESPONSE",
    "Metadata",
    "first",
    "is_instance",
    "is_sendable",
]

Metadata = tuple[tuple[str, str | bytes], ...]
"""Metadata as the package passes it on; appended to, never replaced."""

TRACEPARENT: Final = "traceparent"
"""Request; W3C Trace Context, level 1."""
INSTANCE: Final = "mosaic-instance"
"""Request; 32 lower-case hexadecimal digits: the random id of one cache object."""
LEASE_MS: Final = "mosaic-lease-ms"
"""Response, trailing; how long the answer may be kept. Absent or 0: not at all."""
MAX_LEASE_MS: Final = 30_000
"""The longest lease that any gateway gives."""
TRACERESPONSE: Final = "traceresponse"
"""Response, trailing; the span that answered."""
SOURCE: Final = "_source"
"""`local` or `federated:<peer>`; written by the asking gateway alone."""
CACHED: Final = "_cached"
"""`true` or `false`; written by the asking gateway alone."""
RESERVED_FOR_TAGS: Final = frozenset({SOURCE, CACHED})
"""Keys that are stripped from whatever a peer sends."""
_INSTANCE: Final = re.compile(r"[0-9a-f]{32}\Z")


def first(metadata: Iterable[tuple[str, str | bytes]] | None, key: str) -> str | None:
    """Return the first text value of a key, or `None`."""
    for name, value in metadata or ():
        if name == key and isinstance(value, str):
            return value
    return None


def is_instance(value: str) -> bool:
    """Tell whether a value has the form of a `mosaic-instance`."""
    return _INSTANCE.match(value) is not None


def is_sendable(value: str) -> bool:
    """Tell whether a value may stand in gRPC metadata: printable ASCII (gRPC over HTTP/2, Custom-Metadata)."""
    return value.isascii() and value.isprintable()
