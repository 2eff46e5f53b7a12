"""The server of the admin socket: locks the socket, binds it for the gateway's user alone, removes it at the end."""

from contextlib import ExitStack
from pathlib import Path
from typing import cast

import grpc

from federation.admin.address import target
from federation.admin.context import AdminContext
from federation.admin.errors import status_of_exception
from federation.admin.service import AdminService
from federation.admin.socket import claim_socket, private_umask
from federation.errors import ConfigError
from federation.server.pipeline.error_boundary import ErrorBoundary
from federation.v1.admin_pb2_grpc import AdminServiceServicer, add_AdminServiceServicer_to_server

OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]


class AdminServer:
    """Serves one admin socket. Call `claim` before any other part of the gateway starts. `stop` may be called twice."""

    def __init__(self, path: Path, context: AdminContext) -> None:
        self._path = path
        self._lock_stack = ExitStack()
        self._service = AdminService(context)
        self._server: grpc.aio.Server | None = None

    def claim(self) -> None:
        """Acquire the lock of the socket. Raises `LockedError` or `ConfigError`."""
        self._lock_stack.enter_context(claim_socket(self._path))

    async def start(self) -> None:
        """Bind the socket and serve it. Raises `ConfigError` if the socket cannot be bound."""
        server = grpc.aio.server(interceptors=(ErrorBoundary(status_of_exception),), options=OPTIONS)
        add_AdminServiceServicer_to_server(cast("AdminServiceServicer", self._service), server)
        with private_umask():
            try:
                server.add_insecure_port(target(self._path))
            except RuntimeError as e:
                raise ConfigError("admin_socket", f"cannot listen on {self._path}") from e
        self._server = server
        await server.start()

    async def stop(self, grace_s: float = 5.0) -> None:
        """Stop serving, wait for operations in progress, then release the socket and its lock."""
        server, self._server = self._server, None
        self._service.end_streams()
        if server is not None:
            await server.stop(grace_s)
        await self._service.close()
        self._lock_stack.close()
