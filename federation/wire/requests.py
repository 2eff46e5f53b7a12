"""The identity of a query: one deterministic serialization serves the cache key, the hash and the wire."""

import hashlib
from copy import deepcopy

from google.protobuf.message import Message

from federation.scope.model import DEFAULT_PAGE_SIZE
from federation.v1 import federation_pb2 as pb

__all__ = ["query_hash", "resource_of", "serialize"]


def serialize(request: Message) -> bytes:
    """Return the normalised request (an unset page size is the default) in deterministic form.

    The caller's message is left as it is.
    """
    if isinstance(request, pb.ListRequest | pb.SearchRequest) and not request.page_size:
        request = deepcopy(request)
        request.page_size = DEFAULT_PAGE_SIZE
    return request.SerializeToString(deterministic=True)


def query_hash(serialized: bytes) -> str:
    """Return the SHA-256 of a serialized request, lower-case hexadecimal."""
    return hashlib.sha256(serialized).hexdigest()


def resource_of(request: Message) -> str:
    """Return the one resource that a request names, or the sorted, comma-separated ones of a search."""
    if isinstance(request, pb.ListRequest | pb.GetRequest):
        return request.resource
    if isinstance(request, pb.SearchRequest):
        return ",".join(sorted(request.resources))
    return ""
