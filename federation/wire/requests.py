"""Deterministic serialization of requests, shared by the cache key, the query hash and the wire."""

import hashlib
from copy import deepcopy
from typing import Any, Final

from federation.scope.model import DEFAULT_PAGE_SIZE
from federation.wire.verbs import VERBS

_PAGED: Final = frozenset(verb.request for verb in VERBS if verb.paged)
_WITH_RESOURCE: Final = frozenset(
    verb.request for verb in VERBS if "resource" in verb.request.DESCRIPTOR.fields_by_name
)
_WITH_RESOURCES: Final = frozenset(
    verb.request for verb in VERBS if "resources" in verb.request.DESCRIPTOR.fields_by_name
)


def serialize(request: Any) -> bytes:
    """Return the deterministic serialization of a request, in which an unset page size becomes the default.

    The caller's message is not changed.
    """
    if type(request) in _PAGED and not request.page_size:
        request = deepcopy(request)
        request.page_size = DEFAULT_PAGE_SIZE
    body: bytes = request.SerializeToString(deterministic=True)
    return body


def query_hash(serialized: bytes) -> str:
    """Return the SHA-256 of a serialized request in lower-case hexadecimal."""
    return hashlib.sha256(serialized).hexdigest()


def resource_of(request: Any) -> str:
    """Return the `resource` field of a request, or its `resources` sorted and separated by commas, or ""."""
    if type(request) in _WITH_RESOURCE:
        resource: str = request.resource
        return resource
    return ",".join(sorted(request.resources)) if type(request) in _WITH_RESOURCES else ""
