"""The handlers of the reading verbs: check the request, apply the scope, query the provider as the subject."""

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from federation.errors import Reason, Refusal
from federation.resources.provider import ListQuery, Position, ResourceProvider, Row, SearchHit, SearchQuery
from federation.store.grants.model import Grant
from federation.v1 import federation_pb2 as pb
from federation.verbs.conversion import fill_hit, fill_row, position_of, size_bound
from federation.verbs.page_tokens import PageTokens, list_context, search_context
from federation.verbs.validation import (
    MAX_ID,
    MAX_QUERY,
    MAX_RESOURCE,
    bounded_text,
    checked_page_size,
    checked_resources,
    checked_where,
    invalid,
)
from federation.wire.channel_args import MEBIBYTE
from federation.wire.verbs import VERBS

PAGE_BYTES: Final = MEBIBYTE
"""Bytes of serialized rows in one page; a page holds at least one row of any size."""
ITEM_OVERHEAD: Final = 8
"""An upper bound of the bytes of a row's tag and length within a page."""
SERVED_VERBS: Final = tuple(verb.name for verb in VERBS if not verb.streams)
"""The verbs of `Verbs`, as `Capabilities` reports them."""
Item = TypeVar("Item", Row, SearchHit)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `cacheable_resource` is the resource of an answer that the peer may cache; empty for other answers."""

    message: Message
    cacheable_resource: str = ""


class Verbs:
    """Answers requests under an authorized grant. Raises `Refusal` for every request that cannot be answered."""

    def __init__(self, gateway: str, version: str, provider: ResourceProvider, tokens: PageTokens) -> None:
        self._gateway, self._version = gateway, version
        self._provider, self._tokens = provider, tokens

    async def list(self, grant: Grant, request: pb.ListRequest) -> Reply:
        """Return a page of rows of one resource."""
        resource = bounded_text("resource", request.resource, MAX_RESOURCE)
        size = checked_page_size(request.page_size)
        where = checked_where(request.where)
        context = list_context(grant.id, resource, where)
        after = self._position(context, request)
        query = ListQuery(resource, grant.scope.check(resource), grant.scope.cap(size), where, after)
        page = await self._provider.list(grant.subject, query)
        response = pb.ListResponse()
        filled = _fill(response.rows, page.items[: query.limit], fill_row)
        if filled and (page.more or filled < len(page.items)):
            response.next_page_token = self._tokens.of_position(context, page.items[filled - 1].position)
        return Reply(response, resource)

    async def get(self, grant: Grant, request: pb.GetRequest) -> Reply:
        """Return one row. Raises ROW_NOT_FOUND alike for a row that does not exist and one that is not visible."""
        resource = bounded_text("resource", request.resource, MAX_RESOURCE)
        row_id = bounded_text("id", request.id, MAX_ID)
        row = await self._provider.get(grant.subject, resource, row_id, grant.scope.check(resource))
        if row is None:
            raise Refusal(Reason.ROW_NOT_FOUND, "no such row that this grant may read")
        response = pb.GetResponse()
        fill_row(response.row, row)
        return Reply(response, resource)

    async def search(self, grant: Grant, request: pb.SearchRequest) -> Reply:
        """Return a page of hits, best first."""
        text = bounded_text("query", request.query, MAX_QUERY)
        if not text.strip():
            raise invalid("query", "has no search terms")
        size = checked_page_size(request.page_size)
        resources = checked_resources(request.resources)
        context = search_context(grant.id, text, resources)
        offset = self._tokens.offset(context, request.page_token) if request.page_token else 0
        filters = {name: grant.scope.check(name) for name in resources or grant.scope.open_resources}
        response = pb.SearchResponse()
        if not filters:
            return Reply(response)
        query = SearchQuery(text, filters, grant.scope.cap(size), offset)
        page = await self._provider.search(grant.subject, query)
        filled = _fill(response.hits, page.items[: query.limit], fill_hit)
        if filled and (page.more or filled < len(page.items)):
            response.next_page_token = self._tokens.of_offset(context, offset + filled)
        return Reply(response)

    async def capabilities(self, grant: Grant, _request: pb.CapabilitiesRequest) -> Reply:
        """Return the resources and limits of the grant, and the gateway's name and version."""
        return Reply(
            pb.CapabilitiesResponse(
                resources=grant.scope.open_resources,
                excluded_resources=grant.scope.excluded_resources,
                max_rows_per_query=grant.scope.max_rows_per_query,
                verbs=SERVED_VERBS,
                gateway=self._gateway,
                gateway_version=self._version,
            )
        )

    def _position(self, context: bytes, request: pb.ListRequest) -> Position | None:
        match request.WhichOneof("position"):
            case "page_token":
                return self._tokens.position(context, request.page_token) if request.page_token else None
            case "after":
                row_id = bounded_text("after.id", request.after.id, MAX_ID)
                if not request.after.HasField("created_at"):
                    raise invalid("after.created_at", "is missing")
                try:
                    return position_of(request.after.created_at, row_id)
                except ValueError as e:
                    raise invalid("after.created_at", str(e)) from None
            case _:
                return None


@cache
def version() -> str:
    """Return the installed version of this package, or `0` where it is not installed."""
    try:
        return importlib.metadata.version("mosaic-federation")
    except importlib.metadata.PackageNotFoundError:
        return "0"


def _fill(messages: Any, items: Sequence[Item], fill: Callable[[Any, Item], None]) -> int:
    """Add items while they fit into a page, and return the number added."""
    if sum(map(size_bound, items)) <= PAGE_BYTES:
        for item in items:
            fill(messages.add(), item)
        return len(items)
    total = 0
    for count, item in enumerate(items):
        message = messages.add()
        fill(message, item)
        total += message.ByteSize() + ITEM_OVERHEAD
        if total > PAGE_BYTES and count:
            del messages[count:]
            return count
    return len(items)
