"""The two ports of a serving gateway: federation (mutual TLS) and enrollment (server TLS)."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import grpc
from grpc_health.v1 import health_pb2_grpc

from federation.config import join_address, parse_address
from federation.errors import ConfigError
from federation.pki.authority import Authority
from federation.server.pipeline.error_boundary import ErrorBoundary
from federation.server.pipeline.service import FederationService
from federation.server.transport.health import Health
from federation.server.transport.tls import TlsMaterial
from federation.v1 import enrollment_pb2_grpc
from federation.wire.channel_args import SERVER, ServerOptions
from federation.wire.verbs import SERVICE_NAME

LOGGER: Final = logging.getLogger(__name__)
MAX_CALLS: Final = 1_024
"""Concurrent federation calls; gRPC refuses more with RESOURCE_EXHAUSTED. Add `MAX_STREAMS` if watches are served."""
MAX_ENROLLMENTS: Final = 32
ENROLLMENT: Final = ServerOptions(
    max_connection_age_ms=60_000, max_concurrent_streams=8, overload_protection=1, max_receive_message_length=65_536
)
"""The enrollment port is open to every client, so connections are short and messages small."""

StopHook = Callable[[], Awaitable[None]]


class GatewayServer:
    """Serves one gateway. `start` binds both ports, `stop` ends them gracefully; then it cannot start again.

    `listen` and `enroll` are host:port; for port 0 the system chooses a port, which the address properties return.
    `before_stop` hooks run before calls are refused, and close open streams. `interceptors` of the federation port run
    inside the error boundary. `services` are further services of that port, which check their callers themselves.
    """

    def __init__(
        self,
        *,
        listen: str,
        enroll: str,
        identity: Authority,
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
        self.federation_address = self.enrollment_address = ""
        """The bound addresses, each as host:port; empty before `start`."""
        self.tls = TlsMaterial(identity)
        """The TLS configuration of both ports; `publish` a new certificate to it."""
        self.before_stop: list[StopHook] = []

    async def start(self) -> None:
        """Bind both ports and serve.

        Raises `ConfigError` that names `listen` or `enroll` if its address cannot be bound; no port stays bound.
        """
        federation = _server(self._options, self._max_calls, self._interceptors)
        federation.add_generic_rpc_handlers((self._service.rpc_handler(), *self._services))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, federation)
        enrollment = _server(ENROLLMENT, MAX_ENROLLMENTS, ())
        enrollment_pb2_grpc.add_EnrollmentServiceServicer_to_server(self._enrollment, enrollment)
        self._servers = [federation, enrollment]
        try:
            mutual, plain = (self.tls.credentials(client_certificates=wanted) for wanted in (True, False))
            self.federation_address = _bind(federation, self._listen, "listen", mutual)
            self.enrollment_address = _bind(enrollment, self._enroll, "enroll", plain)
        except ConfigError:
            # A gRPC server that never started does not release its ports when it is stopped.
            await asyncio.gather(federation.start(), enrollment.start())
            await self._end(None)
            raise
        await self._health.set_serving(SERVICE_NAME)
        await federation.start()
        await enrollment.start()

    async def stop(self, grace_s: float = 5.0) -> None:
        """Report NOT_SERVING, close streams, refuse new calls, wait up to `grace_s` for running ones. Idempotent."""
        if self._servers:
            await self._health.close()
            for hook in self.before_stop:
                try:
                    await hook()
                except Exception:
                    LOGGER.exception("a stop hook failed; the server stops nevertheless")
        await self._end(grace_s)

    async def _end(self, grace_s: float | None) -> None:
        servers, self._servers = self._servers, []
        await asyncio.gather(*(server.stop(grace_s) for server in servers))


def _server(options: ServerOptions, most: int, interceptors: tuple[grpc.aio.ServerInterceptor, ...]) -> grpc.aio.Server:
    return grpc.aio.server(
        interceptors=(ErrorBoundary(), *interceptors), options=options.to_grpc(), maximum_concurrent_rpcs=most
    )


def _bind(server: grpc.aio.Server, address: str, name: str, credentials: grpc.ServerCredentials) -> str:
    host, port = parse_address(address, name)
    cure = f"stop the program that uses it, or set {name} in gateway.toml to another host:port"
    try:
        _check_bindable(host, port)  # gRPC would not report the cause, and would write its own lines to stderr
        port = server.add_secure_port(address, credentials)
    except OSError as e:
        raise ConfigError(name, f"cannot listen on {address}: {e.strerror or e}; {cure}") from None
    except RuntimeError:
        raise ConfigError(name, f"cannot listen on {address}; {cure}") from None
    return join_address(host, port)


def _check_bindable(host: str, port: int) -> None:
    """Raise `OSError` if a plain socket cannot listen on the address."""
    family, kind, number, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, number) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(where)
        probe.listen()
