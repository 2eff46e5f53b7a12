"""The gateway as an agent's server asks it: one user, one session, and an event loop that is never blocked."""

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

__all__ = ["GatewayClient"]

PATIENCE_S: Final = 60.0
"""Longest wait for an answer of a gateway that accepts connections."""
LIVE: Final = [*OPTIONS, ("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1_000)]
"""A gateway that was started again is found again within a second."""


class GatewayClient:
    """A line to the running gateway for one user. `budget` is what each peer may take, in seconds; 0 as it is set.

    Open it by `async with`. Its methods raise `GatewayUnavailableError`.
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

    async def ask(self, source: str, **verb: Any) -> Answers:
        """Run a verb of `QueryRequest` at a source and return all that came, and the `fault` that ended it, if any."""
        request = pb.QueryRequest(
            user=self.user, source=source, session=self._session, budget_ms=self._budget_ms, **verb
        )
        await self._reach()
        answers = Answers()
        try:
            async for part in self._admin.Query(request, timeout=PATIENCE_S, wait_for_ready=True):
                answers.take(part)
        except grpc.RpcError as e:
            answers.fault = error_of(e)
        return answers

    async def peers(self) -> list[pb.PeerStatus]:
        """Return how this user's peers are, and nobody else's."""
        await self._reach()
        try:
            reply = await self._admin.Status(pb.StatusRequest(user=self.user), timeout=PATIENCE_S, wait_for_ready=True)
        except grpc.RpcError as e:
            raise error_of(e) from None
        return [peer for peer in reply.peers if peer.user == self.user]

    async def _reach(self) -> None:
        """Raise unless the gateway runs, in the words of every other command."""
        await asyncio.to_thread(require_serving, self.config, self._directory)
