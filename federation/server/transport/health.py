"""The standard health service, whose watches end when the server is to stop, and are few."""

import asyncio
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio

__all__ = ["Health"]

MAX_WATCHES: Final = 32
"""Open health watches of one server; each holds a place among its concurrent calls."""


class Health(aio.HealthServicer):
    """Says SERVING of the server as a whole and of what `begin` names, until `end`."""

    def __init__(self) -> None:
        super().__init__()
        self._watches: set[asyncio.Task[None]] = set()
        self._ended = False

    async def begin(self, service: str) -> None:
        """Say SERVING of a service."""
        await self.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802 - gRPC's name
        """Stream the state of a service; RESOURCE_EXHAUSTED where too many do."""
        if self._ended or len(self._watches) >= MAX_WATCHES:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many health watches")
        watch = asyncio.create_task(super().Watch(request, context))
        self._watches.add(watch)
        try:
            await asyncio.wait({watch})
        finally:
            self._watches.discard(watch)
            watch.cancel()
        if not watch.cancelled():
            watch.result()

    async def end(self) -> None:
        """Say NOT_SERVING to all, then end every watch, which would otherwise hold up the server's stop."""
        self._ended = True
        await self.enter_graceful_shutdown()
        await asyncio.sleep(0)
        for watch in tuple(self._watches):
            watch.cancel()
