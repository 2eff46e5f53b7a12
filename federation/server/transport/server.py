"""The two ports of a serving gateway: federation (mutual TLS) and enrollment (server TLS)."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import grpc
from grpc_health.v1 import health_pb2_grpc

from federation.config import parse_address
from federation.errors import ConfigError
from federation.server.pipeline.error_boundary import IncidentGuard
from federation.server.pipeline.service import FederationService
from federation.server.transport.health import Health
from federation.server.transport.tls import ServerIdentity, TlsMaterial
from federation.v1 import enrollment_pb2_grpc
from federation.wire.channel_args import SERVER, ServerOptions
from federation.wire.verbs import SERVICE_NAME

__all__ = ["GatewayServer"]

LOGGER: Final = logging.getLogger(__name__)
MAX_CALLS: Final = 1_024
"""Federation calls under way at once; one more is RESOURCE_EXHAUSTED. Whoever serves watches adds room for them."""
MAX_ENROLLMENTS: Final = 32
ENROLLMENT: Final = ServerOptions(
    max_connection_age_ms=60_000, max_concurrent_streams=8, overload_protection=1, max_receive_message_length=65_536
)
"""Anybody may connect here, so connections are short, messages small, and whoever hurries may be refused."""

StopHook = Callable[[], Awaitable[None]]


class GatewayServer:
    """Serves one gateway. `start` binds both ports, `stop` ends them gracefully; then it cannot start again.

    `listen` and `enroll` are host:port; port 0 takes a free one, which the address properties tell. `before_stop`
    hooks run before calls are refused: what holds streams open ends them there. `interceptors` of the federation port
    stand within the incident guard; `services` are further ones of that port, which check their callers themselves.
    """

    def __init__(
        self,
        *,
        listen: str,
        enroll: str,
        identity: ServerIdentity,
        service: FederationService,
        enrollment: enrollment_pb2_grpc.EnrollmentServiceServicer,
        options: ServerOptions = SERVER,
        max_calls: int = MAX_CALLS,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        services: Sequence[grpc.GenericRpcHandler] = (),
    ) -> None:
        self._listen, self._enroll = listen, enroll
        self._service, self._enrollment = service, enrollment
        self._options, self._max_calls = options, max_calls
        self._interceptors, self._services = tuple(interceptors), tuple(services)
        self._health = Health()
        self._servers: list[grpc.aio.Server] = []
        self._federation_address = self._enrollment_address = ""
        self.tls = TlsMaterial(identity)
        """The certificate shown on both ports; `publish` a new one there."""
        self.before_stop: list[StopHook] = []

    @property
    def federation_address(self) -> str:
        """host:port as bound; empty before `start`."""
        return self._federation_address

    @property
    def enrollment_address(self) -> str:
        """host:port as bound; empty before `start`."""
        return self._enrollment_address

    async def start(self) -> None:
        """Bind both ports and serve.

        Raises `ConfigError` that names `listen` or `enroll` where the address cannot be had; nothing stays bound.
        """
        federation = _server(self._options, self._max_calls, self._interceptors)
        federation.add_generic_rpc_handlers((self._service.rpc_handler(), *self._services))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, federation)
        enrollment = _server(ENROLLMENT, MAX_ENROLLMENTS, ())
        enrollment_pb2_grpc.add_EnrollmentServiceServicer_to_server(self._enrollment, enrollment)
        self._servers = [federation, enrollment]
        try:
            mutual, plain = (self.tls.credentials(client_certificates=wanted) for wanted in (True, False))
            self._federation_address = _bind(federation, self._listen, "listen", mutual)
            self._enrollment_address = _bind(enrollment, self._enroll, "enroll", plain)
        except ConfigError:
            # A server that never started keeps its ports when it is stopped.
            await asyncio.gather(federation.start(), enrollment.start())
            await self._end(None)
            raise
        await self._health.begin(SERVICE_NAME)
        await federation.start()
        await enrollment.start()

    async def stop(self, grace_s: float = 5.0) -> None:
        """Say NOT_SERVING, end streams, refuse new calls, give those under way `grace_s`, and end. Twice is fine."""
        if self._servers:
            await self._health.end()
            for hook in self.before_stop:
                try:
                    await hook()
                except Exception:
                    LOGGER.exception("a stop hook failed; the server stops all the same")
        await self._end(grace_s)

    async def _end(self, grace_s: float | None) -> None:
        servers, self._servers = self._servers, []
        await asyncio.gather(*(server.stop(grace_s) for server in servers))


def _server(options: ServerOptions, most: int, interceptors: tuple[grpc.aio.ServerInterceptor, ...]) -> grpc.aio.Server:
    return grpc.aio.server(
        interceptors=(IncidentGuard(), *interceptors), options=options.to_grpc(), maximum_concurrent_rpcs=most
    )


def _bind(server: grpc.aio.Server, address: str, name: str, credentials: grpc.ServerCredentials) -> str:
    host, port = parse_address(address, name)
    cure = f"stop what uses it, or set {name} in gateway.toml to another host:port"
    try:
        _try_out(host, port)  # gRPC would not say why, and write lines of its own
        port = server.add_secure_port(address, credentials)
    except OSError as e:
        raise ConfigError(name, f"cannot listen on {address}: {e.strerror or e}; {cure}") from None
    except RuntimeError:
        raise ConfigError(name, f"cannot listen on {address}; {cure}") from None
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _try_out(host: str, port: int) -> None:
    """Raise `OSError` where a plain socket cannot listen there either."""
    family, kind, number, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, number) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(where)
        probe.listen()
