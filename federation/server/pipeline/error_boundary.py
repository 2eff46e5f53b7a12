"""The border that every call crosses: a refusal becomes a rich status, and whatever else is raised an incident.

The caller learns an incident's id and nothing else; the text and the traceback are in the log under that id.
"""

import inspect
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, NoReturn

import grpc

from federation.errors import Reason, Refusal
from federation.wire.metadata import Metadata
from federation.wire.status import refusal_status

__all__ = ["IncidentGuard", "add_trailing", "incident"]

LOGGER: Final = logging.getLogger(__name__)

Context = Any
"""`grpc.aio.ServicerContext`; its type parameters say nothing here."""


class IncidentGuard(grpc.aio.ServerInterceptor):
    """The outermost interceptor, for every method of a server: it also covers interceptors within, and decoding.

    Decoding is taken over from gRPC, which would answer a malformed message with the decoder's own words.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the method's handler within the guard."""
        method = str(handler_call_details.method)
        try:
            handler = await continuation(handler_call_details)
        except Exception as e:  # noqa: BLE001 - nothing may pass but an incident
            return grpc.unary_unary_rpc_method_handler(_raising(e, method))
        return None if handler is None else _guarded(handler, method)


def add_trailing(context: Context, metadata: Metadata) -> None:
    """Append to the trailing metadata of a call."""
    context.set_trailing_metadata((*(context.trailing_metadata() or ()), *metadata))


def incident(fault: Exception, method: str) -> Refusal:
    """Log a fault under a new id, and return what the caller may know of it."""
    name = secrets.token_hex(8)
    LOGGER.error("incident %s in %s", name, method, exc_info=fault)
    return Refusal(Reason.INTERNAL, f"internal error; incident {name}")


def _guarded(handler: Any, method: str) -> Any:
    decode, encode = handler.request_deserializer, handler.response_serializer
    if handler.request_streaming:
        arguments = _decoded_stream(decode, method)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                _stream(handler.stream_stream, arguments, method), None, encode
            )
        return grpc.stream_unary_rpc_method_handler(_unary(handler.stream_unary, arguments, method), None, encode)
    arguments = _decoded(decode, method)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(_stream(handler.unary_stream, arguments, method), None, encode)
    return grpc.unary_unary_rpc_method_handler(_unary(handler.unary_unary, arguments, method), None, encode)


def _unary(behaviour: Any, decode: Callable[[Any], Any], method: str) -> Callable[[Any, Context], Awaitable[Any]]:
    async def call(raw: Any, context: Context) -> Any:
        try:
            answer = behaviour(decode(raw), context)
            return await answer if inspect.isawaitable(answer) else answer
        except grpc.aio.AbortError:
            raise
        except Exception as e:  # noqa: BLE001 - nothing may pass but an incident
            await _abort(context, e, method)

    return call


def _stream(behaviour: Any, decode: Callable[[Any], Any], method: str) -> Callable[[Any, Context], Awaitable[None]]:
    async def call(raw: Any, context: Context) -> None:
        try:
            answers = behaviour(decode(raw), context)
            if inspect.isasyncgen(answers):
                async with aclosing(answers):  # a cancelled call must not leave the generator to the collector
                    async for answer in answers:
                        await context.write(answer)
            else:
                await answers
        except grpc.aio.AbortError:
            raise
        except Exception as e:  # noqa: BLE001 - nothing may pass but an incident
            await _abort(context, e, method)

    return call


def _decoded(decode: Callable[[bytes], Any] | None, method: str) -> Callable[[Any], Any]:
    def decoded(raw: Any) -> Any:
        if decode is None:
            return raw
        try:
            return decode(raw)
        except Exception as e:
            raise _malformed(method) from e

    return decoded


def _decoded_stream(decode: Callable[[bytes], Any] | None, method: str) -> Callable[[Any], AsyncIterator[Any]]:
    one = _decoded(decode, method)

    async def decoded(requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for raw in requests:
            yield one(raw)

    return decoded


def _malformed(method: str) -> Refusal:
    return Refusal(Reason.INVALID_REQUEST, f"request: not a message of {method[:200]}")


def _raising(fault: Exception, method: str) -> Callable[[bytes, Context], Awaitable[bytes]]:
    async def call(_raw: bytes, context: Context) -> bytes:
        await _abort(context, fault, method)

    return call


async def _abort(context: Context, fault: Exception, method: str) -> NoReturn:
    refusal = fault if isinstance(fault, Refusal) else incident(fault, method)
    code, message, trailing = refusal_status(refusal)
    await context.abort(code, message, (*(context.trailing_metadata() or ()), *trailing))
    raise AssertionError  # abort always raises
