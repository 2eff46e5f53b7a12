"""Deterministic serialization of requests, shared by the cache key, the query hash and the wire."""

import hashlib
from copy import deepcopy
from typing import Final

from google.protobuf.message import Message

from federation.scope.model import DEFAULT_PAGE_SIZE
from federation.v1 import federation_pb2 as pb

__all__ = ["VERB_OF_METHOD", "query_hash", "resource_of", "serialize"]

SERVICE: Final = "/federation.v1.FederationService/"
VERB_OF_METHOD: Final = {
    f"{SERVICE}List": "list",
    f"{SERVICE}Get": "get",
    f"{SERVICE}Search": "search",
    f"{SERVICE}Capabilities": "capabilities",
    f"{SERVICE}Watch": "watch",
}
"""The verb of each method path."""


def serialize(request: Message) -> bytes:
    """Return a request serialized deterministically, with an unset page size replaced by the default.

    The caller's message is not changed.
    """
    if isinstance(request, pb.ListRequest | pb.SearchRequest) and not request.page_size:
        request = deepcopy(request)
        request.page_size = DEFAULT_PAGE_SIZE
    return request.SerializeToString(deterministic=True)


def query_hash(serialized: bytes) -> str:
    """Return the SHA-256 of a serialized request in lower-case hexadecimal."""
    return hashlib.sha256(serialized).hexdigest()


def resource_of(request: Message) -> str:
    """Return the resource that a request names; for a search, its resources sorted and separated by commas."""
    if isinstance(request, pb.ListRequest | pb.GetRequest):
        return request.resource
    if isinstance(request, pb.SearchRequest):
        return ",".join(sorted(request.resources))
    return ""
