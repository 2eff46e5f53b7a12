"""Asynchronous client of the running gateway for the MCP server: one user and one session."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import uuid4

import grpc

from federation.admin.address import target
from federation.admin.client import OPTIONS, require_serving
from federation.admin.errors import error_of
from federation.config import GatewayConfig
from federation.v1 import admin_pb2 as pb
from federation.v1.admin_pb2_grpc import AdminServiceStub
from mosaic_cli.query.answers import Answers, milliseconds

if TYPE_CHECKING:
    from federation.v1.admin_pb2_grpc import AdminServiceAsyncStub

PATIENCE_S: Final = 60.0
"""Time limit of an answer of a gateway that accepts connections."""
LIVE: Final = [*OPTIONS, ("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1_000)]
"""Reconnects within a second after a restart of the gateway."""


class GatewayClient:
    """A client of the running gateway for one user.

    `budget` is the time limit of each peer in seconds; 0 means the gateway's setting. Open the client by `async with`.
    Its methods raise `GatewayUnavailableError`.
    """

    def __init__(self, config: GatewayConfig, directory: Path, user: str, budget: float = 0.0) -> None:
        self.config, self.user = config, user
        self._directory, self._budget_ms, self._session = directory, milliseconds(budget), uuid4().hex
        self._channel: Any = None
        self._admin: AdminServiceAsyncStub

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(target(self.config.socket_path), options=LIVE)
        self._admin = AdminServiceStub(self._channel)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def query(self, source: str, **verb: Any) -> Answers:
        """Run a verb of `QueryRequest` at a source. An error of the query is returned as `Answers.error`."""
        request = pb.QueryRequest(
            user=self.user, source=source, session=self._session, budget_ms=self._budget_ms, **verb
        )
        await self._require_serving()
        answers = Answers()
        try:
            async for part in self._admin.Query(request, timeout=PATIENCE_S, wait_for_ready=True):
                answers.add(part)
        except grpc.RpcError as e:
            answers.error = error_of(e)
        return answers

    async def peers(self) -> list[pb.PeerStatus]:
        """Return the status of this user's peers, without those of other users."""
        await self._require_serving()
        try:
            reply = await self._admin.Status(pb.StatusRequest(user=self.user), timeout=PATIENCE_S, wait_for_ready=True)
        except grpc.RpcError as e:
            raise error_of(e) from None
        return [peer for peer in reply.peers if peer.user == self.user]

    async def _require_serving(self) -> None:
        """Raise the same error as other commands unless the gateway runs. The check runs in a thread."""
        await asyncio.to_thread(require_serving, self.config, self._directory)
