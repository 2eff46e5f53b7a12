"""The Prometheus endpoint `/metrics`, one HTTP server per gateway. Requires the extra `prometheus`."""

import logging
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from threading import Lock, Thread
from typing import Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from prometheus_client import CollectorRegistry, Metric, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from federation.config import parse_address
from federation.errors import ConfigError

LOGGER: Final = logging.getLogger(__name__)
FIELD: Final = "telemetry.prometheus"
IDLE_TIMEOUT_S: Final = 10.0
"""Seconds that an idle connection may occupy its thread."""


class MetricsPage:
    """The `/metrics` endpoint of one gateway at `listen` (host:port), serving what `reader` collects.

    It has neither authentication nor TLS: use it on loopback or in a protected network.
    """

    def __init__(self, listen: str) -> None:
        self._host, self._port = parse_address(listen, FIELD)
        self._registry = _SerialRegistry()
        self.reader = PrometheusMetricReader(scope_info_enabled=False, registry=self._registry)
        """Register this reader with a meter provider before `start`."""
        self._server: WSGIServer | None = None
        self._thread: Thread | None = None

    @property
    def url(self) -> str:
        """The URL of the endpoint; empty unless it is served."""
        if self._server is None:
            return ""
        host, port = str(self._server.server_address[0]), self._server.server_port
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"

    def start(self) -> None:
        """Serve in a background thread. Blocks while it resolves a host name.

        Raises `ConfigError` if it cannot listen on the address.
        """
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, _, _, _, address = found[0]
            kind = type("Server", (ThreadingWSGIServer,), {"address_family": family})
            app = make_wsgi_app(self._registry)
            self._server = make_server(str(address[0]), self._port, app, kind, handler_class=_Handler)
        except (OSError, UnicodeError) as e:
            raise ConfigError(FIELD, f"cannot listen on {self._host} port {self._port}: {e}") from e
        if not ip_address(str(address[0])).is_loopback:
            LOGGER.warning("every host that can reach %s can read the metrics there", self.url)
        self._thread = Thread(target=self._server.serve_forever, name="federation-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the server; blocks for up to half a second. Idempotent, also before `start`."""
        server, self._server = self._server, None
        if server is not None and self._thread is not None:
            server.shutdown()
            self._thread.join()
            server.server_close()


class _Handler(WSGIRequestHandler):
    timeout = IDLE_TIMEOUT_S

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's parameter name
        """Log nothing per request."""


class _SerialRegistry(CollectorRegistry):
    """Serializes collections: the exporter collects into shared state, so concurrent scrapes would mix."""

    def __init__(self) -> None:
        super().__init__()
        self._collecting = Lock()

    def collect(self) -> Iterable[Metric]:
        """Return every metric family once."""
        with self._collecting:
            return tuple(super().collect())
