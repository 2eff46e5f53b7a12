"""A verb run inside the gateway for one of its users: on its own data, or at a peer through the chain."""

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.message import Message

from federation.admin.parts import GatewayParts
from federation.admin.users import require_user
from federation.errors import FederationError, InputError, Reason, Refusal
from federation.scope import KNOWN_RESOURCES, MAX_ROWS_LIMIT, SENSITIVE_RESOURCES, Scope
from federation.server.paging import PageTokens
from federation.server.verbs import Verbs
from federation.store.grants import Grant, GrantStatus
from federation.v1 import admin_pb2 as pb
from federation.v1 import federation_pb2
from federation.wire.metadata import CACHED, first
from federation.wire.status import error_detail_of

__all__ = ["QueryDesk"]

LOCAL: Final = "local"
FEDERATED: Final = "federated:"
RESOURCES: Final = tuple(sorted(KNOWN_RESOURCES)) + tuple(sorted(SENSITIVE_RESOURCES))
Ask = Callable[[Message], Awaitable[tuple[Message, bool]]]


class QueryDesk:
    """Answers the operator's queries. A local one sees what the user sees, without any grant's narrowing."""

    def __init__(self, parts: GatewayParts) -> None:
        self._parts = parts
        tokens = PageTokens(parts.page_key)
        self._verbs = Verbs(parts.config.name, parts.version, parts.provider, tokens)

    async def answer(self, request: pb.QueryRequest) -> pb.QueryResponse:
        """Run the verb that the request holds. Raises `InputError`, `NotFoundError`, or the `Refusal` of the peer."""
        verb = request.WhichOneof("verb")
        if verb is None:
            raise InputError("verb", "name one: list, get, search or capabilities")
        await require_user(self._parts, request.user)
        ask = self._source(request.source, request.user, verb)
        began = time.perf_counter()
        message, cached = await ask(getattr(request, verb))
        reply = _reply(message, request.source, cached=cached)
        reply.latency_ms = (time.perf_counter() - began) * 1e3
        return reply

    def _source(self, source: str, user: str, verb: str) -> Ask:
        if source == LOCAL:
            return self._local(user, verb)
        if source == "all":
            raise InputError("source", "all is not offered yet; ask local and each federated:PEER by itself")
        name = source.removeprefix(FEDERATED)
        if not source.startswith(FEDERATED) or not name:
            raise InputError("source", f"{source!r} is neither local nor federated:PEER")
        return self._federated(source, name, user, verb)

    def _local(self, user: str, verb: str) -> Ask:
        handler: Any = getattr(self._verbs, verb)
        grant = Grant(
            id=f"local user {user}",
            peer=self._parts.config.name,
            subject=user,
            scope=Scope(resources=RESOURCES, max_rows_per_query=MAX_ROWS_LIMIT),
            status=GrantStatus.ACTIVE,
            created_at_us=0,
        )

        async def ask(request: Message) -> tuple[Message, bool]:
            try:
                reply = await handler(grant, request)
            except Refusal as refusal:
                raise _as_local(refusal) from None
            return reply.message, False

        return ask

    def _federated(self, source: str, name: str, user: str, verb: str) -> Ask:
        stub = self._parts.federation.stub(name, user)
        method: Any = getattr(stub, verb.capitalize())

        async def ask(request: Message) -> tuple[Message, bool]:
            call = method(request)
            try:
                message: Message = await call
            except grpc.aio.AioRpcError as e:
                _raise_as_refusal(e, source)
            return message, first(await call.trailing_metadata(), CACHED) == "true"

        return ask


def _reply(message: Message, source: str, *, cached: bool) -> pb.QueryResponse:
    reply = pb.QueryResponse(source=source)
    match message:
        case federation_pb2.ListResponse():
            reply.next_page_token = message.next_page_token
            reply.rows.extend(pb.QueryRow(row=row, source=source, cached=cached) for row in message.rows)
        case federation_pb2.GetResponse():
            reply.rows.add(row=message.row, source=source, cached=cached)
        case federation_pb2.SearchResponse():
            reply.next_page_token = message.next_page_token
            reply.rows.extend(
                pb.QueryRow(row=hit.row, source=source, cached=cached, score=hit.score, snippet=hit.snippet)
                for hit in message.hits
            )
        case federation_pb2.CapabilitiesResponse():
            reply.capabilities.CopyFrom(message)
    return reply


def _as_local(refusal: Refusal) -> FederationError:
    """Return a refusal in words that fit a gateway's own user: no grant stands between them and their data."""
    if refusal.reason is Reason.SCOPE_VIOLATION:
        return InputError("resource", f"unknown here; known are {', '.join(RESOURCES)}")
    if refusal.reason is Reason.ROW_NOT_FOUND:
        return Refusal(Reason.ROW_NOT_FOUND, "no such row that this user may read")
    return refusal


def _raise_as_refusal(error: grpc.aio.AioRpcError, source: str) -> NoReturn:
    detail = error_detail_of(error)
    text = f"{source}: {error.details() or 'no details'}"
    if detail.reason in Reason.__members__:
        raise Refusal(Reason(detail.reason), text, retry_after_s=detail.retry_after_s) from error
    raise FederationError(f"{text} ({error.code().name})") from error
