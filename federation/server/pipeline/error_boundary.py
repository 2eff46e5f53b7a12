"""The error boundary of a gRPC server turns each exception of a handler into a status.

A refusal becomes a rich status. Any other exception becomes an incident: the caller learns the id of the incident and
nothing else; the text and the traceback are in the log under that id.
"""

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, Final

import grpc

from federation.errors import Reason, Refusal, log_incident
from federation.wire.metadata import Metadata
from federation.wire.status import refusal_status

LOGGER: Final = logging.getLogger(__name__)

Context = Any
"""`grpc.aio.ServicerContext`; its type parameters say nothing here."""
Translate = Callable[[Exception, str], tuple[grpc.StatusCode, str, Metadata]]
"""Returns code, details and trailing metadata for an exception of a method."""
Abort = Callable[[Context, Exception], Awaitable[None]]


def add_trailing(context: Context, metadata: Metadata) -> None:
    """Append `metadata` to the trailing metadata of a call."""
    context.set_trailing_metadata((*(context.trailing_metadata() or ()), *metadata))


def incident(fault: Exception, method: str) -> Refusal:
    """Log a fault under a new incident id, and return a refusal that contains only the id."""
    return Refusal(Reason.INTERNAL, f"internal error; incident {log_incident(LOGGER, fault, method)}")


def _federation_status(fault: Exception, method: str) -> tuple[grpc.StatusCode, str, Metadata]:
    return refusal_status(fault if isinstance(fault, Refusal) else incident(fault, method))


class ErrorBoundary(grpc.aio.ServerInterceptor):
    """The outermost interceptor of a server, which also covers inner interceptors and decoding.

    It decodes messages itself, because gRPC would answer a malformed message with the decoder's error text. `translate`
    returns the status of an exception.
    """

    def __init__(self, translate: Translate = _federation_status) -> None:
        self._translate = translate

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the method's handler inside the error boundary."""
        method = str(handler_call_details.method)
        abort = partial(self._abort, method)
        try:
            handler = await continuation(handler_call_details)
        except Exception as e:  # noqa: BLE001 - an incident, or a refusal
            return grpc.unary_unary_rpc_method_handler(partial(_fail, abort, e))
        return None if handler is None else _inside_boundary(handler, method, abort)

    async def _abort(self, method: str, context: Context, fault: Exception) -> None:
        code, message, trailing = self._translate(fault, method)
        await context.abort(code, message, (*(context.trailing_metadata() or ()), *trailing))


def _inside_boundary(handler: Any, method: str, abort: Abort) -> Any:
    decode = _decoder(handler.request_deserializer, method)
    arguments = partial(_decoded, decode) if handler.request_streaming else decode
    sides = (handler.request_streaming, handler.response_streaming)
    arity = "_".join("stream" if streams else "unary" for streams in sides)
    boundary = _stream if handler.response_streaming else _unary
    method_in_boundary = boundary(getattr(handler, arity), arguments, abort)
    return getattr(grpc, f"{arity}_rpc_method_handler")(method_in_boundary, None, handler.response_serializer)


async def _fail(abort: Abort, fault: Exception, _raw: bytes, context: Context) -> None:
    await abort(context, fault)


def _unary(behaviour: Any, decode: Callable[[Any], Any], abort: Abort) -> Callable[[Any, Context], Awaitable[Any]]:
    async def call(raw: Any, context: Context) -> Any:
        try:
            answer = behaviour(decode(raw), context)
            return await answer if inspect.isawaitable(answer) else answer
        except grpc.aio.AbortError:
            raise
        except Exception as e:  # noqa: BLE001 - an incident, or a refusal
            await abort(context, e)

    return call


def _stream(behaviour: Any, decode: Callable[[Any], Any], abort: Abort) -> Callable[[Any, Context], Awaitable[None]]:
    async def call(raw: Any, context: Context) -> None:
        try:
            answers = behaviour(decode(raw), context)
            if inspect.isasyncgen(answers):
                async with aclosing(answers):  # a cancelled call must not leave the generator to the garbage collector
                    async for answer in answers:
                        await context.write(answer)
            else:
                await answers
        except grpc.aio.AbortError:
            raise
        except Exception as e:  # noqa: BLE001 - an incident, or a refusal
            await abort(context, e)

    return call


def _decoder(decode: Callable[[bytes], Any] | None, method: str) -> Callable[[Any], Any]:
    def decoded(raw: Any) -> Any:
        try:
            return raw if decode is None else decode(raw)
        except Exception as e:
            raise Refusal(Reason.INVALID_REQUEST, f"request: not a message of {method[:200]}") from e

    return decoded


async def _decoded(decode: Callable[[bytes], Any], requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for raw in requests:
        yield decode(raw)
