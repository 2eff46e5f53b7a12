"""The gRPC health service. It limits the number of its watches, and ends them when the server stops."""

import asyncio
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio

MAX_WATCHES: Final = 32
"""Open health watches of one server; each counts as one of its concurrent calls."""


class Health(aio.HealthServicer):
    """Reports SERVING for the whole server and for the services of `set_serving`, until `close`."""

    def __init__(self) -> None:
        super().__init__()
        self._watches: set[asyncio.Task[None]] = set()
        self._closed = False

    async def set_serving(self, service: str) -> None:
        """Report SERVING for a service."""
        await self.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802 - gRPC's name
        """Stream the state of a service; RESOURCE_EXHAUSTED if too many watches are open."""
        if self._closed or len(self._watches) >= MAX_WATCHES:
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

    async def close(self) -> None:
        """Report NOT_SERVING for all services, then end every watch, which would otherwise delay the server's stop."""
        self._closed = True
        await self.enter_graceful_shutdown()
        await asyncio.sleep(0)
        for watch in tuple(self._watches):
            watch.cancel()
