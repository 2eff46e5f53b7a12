"""The admin socket served: claimed first, bound with nobody else let in, removed at the end."""

from contextlib import ExitStack
from pathlib import Path
from typing import cast

import grpc

from federation.admin.address import target
from federation.admin.context import AdminContext
from federation.admin.errors import status_of_fault
from federation.admin.service import AdminService
from federation.admin.socket import claimed, private_umask
from federation.errors import ConfigError
from federation.server.pipeline.error_boundary import IncidentGuard
from federation.v1.admin_pb2_grpc import AdminServiceServicer, add_AdminServiceServicer_to_server

__all__ = ["AdminServer"]

OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]


class AdminServer:
    """Serves one socket. `claim` may be refused while nothing has begun; `stop` twice is fine."""

    def __init__(self, path: Path, parts: AdminContext) -> None:
        self._path, self._parts = path, parts
        self._held = ExitStack()
        self._server: grpc.aio.Server | None = None
        self._service: AdminService | None = None

    def claim(self) -> None:
        """Take the socket's lock. Raises `LockedError` or `ConfigError`."""
        self._held.enter_context(claimed(self._path))

    async def start(self) -> None:
        """Bind and serve."""
        self._service = AdminService(self._parts)
        server = grpc.aio.server(interceptors=(IncidentGuard(status_of_fault),), options=OPTIONS)
        add_AdminServiceServicer_to_server(cast("AdminServiceServicer", self._service), server)
        with private_umask():
            try:
                server.add_insecure_port(target(self._path))
            except RuntimeError as e:
                raise ConfigError("admin_socket", f"cannot listen on {self._path}") from e
        self._server = server
        await server.start()

    async def stop(self, grace_s: float = 5.0) -> None:
        """Let acts under way end, then give the socket up."""
        server, self._server = self._server, None
        if self._service is not None:
            self._service.end_streams()
        if server is not None:
            await server.stop(grace_s)
        if self._service is not None:
            await self._service.close()
        self._held.close()
