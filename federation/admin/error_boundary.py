"""What stands round each admin handler: errors of the package become statuses, everything else an incident."""

import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import wraps
from typing import Any, NoReturn, TypeVar

import grpc

from federation.admin.errors import status_of
from federation.errors import FederationError

__all__ = ["guarded", "guarded_stream"]

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]
_log = logging.getLogger(__name__)


def guarded(handler: Callable[[Any, Any, Context], Awaitable[T]]) -> Callable[[Any, Any, Context], Awaitable[T]]:
    """Wrap a handler that answers once."""

    @wraps(handler)
    async def answer(self: object, request: object, context: Context) -> T:
        try:
            return await handler(self, request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as e:  # noqa: BLE001 - nothing of an unforeseen error may leave
            await _abort(context, e)

    return answer


def guarded_stream(
    handler: Callable[[Any, Any, Context], AsyncIterator[T]],
) -> Callable[[Any, Any, Context], AsyncIterator[T]]:
    """Wrap a handler that answers with a stream."""

    @wraps(handler)
    async def answer(self: object, request: object, context: Context) -> AsyncIterator[T]:
        try:
            async for reply in handler(self, request, context):
                yield reply
        except grpc.aio.AbortError:
            raise
        except Exception as e:  # noqa: BLE001 - nothing of an unforeseen error may leave
            await _abort(context, e)

    return answer


async def _abort(context: Context, error: Exception) -> NoReturn:
    if not isinstance(error, FederationError):
        incident = secrets.token_hex(8)
        _log.error("incident %s in an admin call", incident, exc_info=error)
        await context.abort(grpc.StatusCode.INTERNAL, f"incident {incident}; the gateway's log says more")
    code, message, trailing = status_of(error)
    await context.abort(code, message, trailing)
    raise AssertionError  # abort always raises
