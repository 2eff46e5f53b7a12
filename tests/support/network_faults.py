"""Real network faults: a TCP relay that counts, freezes and resets connections, and a port that only accepts."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

import pytest


class Relay:
    """A TCP relay in front of a port. `target=None` accepts and never answers."""

    def __init__(self, target: int | None = None) -> None:
        self.target = target
        self.accepts = 0
        """Connections that were made to this port."""
        self.bytes_in = 0
        """Bytes that clients sent."""
        self._open = threading.Event()
        self._open.set()
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    def freeze(self) -> None:
        """Stop forwarding, with every connection left open."""
        self._open.clear()

    def thaw(self) -> None:
        """Continue forwarding."""
        self._open.set()

    def reset(self) -> None:
        """Reset every connection."""
        with self._lock:
            closing, self._sockets = self._sockets, []
        _reset(closing)

    def refuse(self) -> None:
        """Refuse new connections; existing ones continue."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def accept(self) -> None:
        """Accept connections again, on the same port."""
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()

    def reset_oldest(self) -> None:
        """Reset the oldest connection."""
        with self._lock:
            oldest, self._sockets = self._sockets[:2], self._sockets[2:]
        _reset(oldest)

    def close(self) -> None:
        """Close the relay: the port refuses connections from now on."""
        self.refuse()
        self._open.set()
        self.reset()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepts += 1
            self._keep(client)
            server = None
            if self.target is not None:
                try:
                    server = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    client.close()
                    continue
                self._keep(server)
                threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()

    def _keep(self, connection: socket.socket) -> None:
        with self._lock:
            self._sockets.append(connection)

    def _pump(self, source: socket.socket, sink: socket.socket | None, inward: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if inward:
                    self.bytes_in += len(data)
                self._open.wait()
                if sink is not None:
                    sink.sendall(data)
        if sink is not None:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)


def closed_port() -> int:
    """A port without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def silent_port() -> Iterator[Relay]:
    """A port that accepts and never answers."""
    relay = Relay()
    yield relay
    relay.close()


def _reset(connections: list[socket.socket]) -> None:
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.shutdown(socket.SHUT_RD)  # wakes the thread that reads
        connection.close()
