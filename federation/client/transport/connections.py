"""The connections to one peer: dialled at first use, one a loop and one for threads, replaced without a failed call."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias
from weakref import WeakSet

import grpc

from federation.client.chain.flow import Call, Outcome
from federation.client.chain.methods import remaining
from federation.client.chain.outcomes import CONNECTION_FAILURE_CODES, timed_out
from federation.client.transport.background_loop import BackgroundLoop

LoopKey: TypeAlias = asyncio.AbstractEventLoop | None
"""The owner of a channel: an asyncio loop, or `None` for all threads."""


class Dialer(Protocol):
    """Opens channels to a peer, and says if its credentials cannot be used."""

    def refusal(self) -> Outcome | None:
        """Return why no call may be made with these credentials, or `None`."""
        ...

    def aio(self) -> grpc.aio.Channel:
        """Open a channel on the running loop."""
        ...

    def sync(self) -> grpc.Channel:
        """Open a channel for threads."""
        ...


class Connection:
    """One open channel. After `close_when_idle` it takes no new call, and closes when its last call has ended."""

    def __init__(self, channel: Any, dialer: Dialer, close: Callable[[Any], None]) -> None:
        self.channel = channel
        self.dialer = dialer
        self._close = close
        self._lock = threading.Lock()
        self._calls = 0
        self._retired = False
        self._closed = False
        self._unary: dict[str, Any] = {}

    @property
    def closed(self) -> bool:
        """Whether the channel was closed."""
        return self._closed

    def unary(self, path: str) -> Any:
        """Return the multicallable of a method; requests and responses are bytes."""
        found = self._unary.get(path)
        if found is None:
            found = self._unary[path] = self.channel.unary_unary(path)
        return found

    def begin_call(self) -> None:
        """Count a call that uses this connection."""
        with self._lock:
            self._calls += 1

    def end_call(self) -> None:
        """Count the end of a call."""
        with self._lock:
            self._calls -= 1
            close = self._retired and self._calls == 0
        if close:
            self.close()

    def close_when_idle(self) -> None:
        """Close as soon as no call uses the connection."""
        with self._lock:
            self._retired = True
            close = self._calls == 0
        if close:
            self.close()

    def close(self) -> None:
        """Close at once; calls in flight fail."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._close(self.channel)


class PeerChannel:
    """The connections to one peer.

    `swap` uses new credentials at once and lets the calls on the old connections end. `disconnect` closes every
    connection when idle, so that nothing redials; the next call, or the probe of a half-open circuit, dials again.
    """

    def __init__(self, dialer: Dialer, background: BackgroundLoop) -> None:
        self.background = background
        """Runs the timers of sync calls, and closes connections of threads."""
        self._dialer = dialer
        self._lock = threading.Lock()
        self._connections: dict[LoopKey, Connection] = {}
        self._all: WeakSet[Connection] = WeakSet()
        self._closing: set[asyncio.Task[None]] = set()

    def refusal(self) -> Outcome | None:
        """Return why a call would fail before dialling, such as an own certificate that expired, or `None`."""
        return self._dialer.refusal()

    def acquire(self, key: LoopKey, *, fresh: bool = False) -> Connection:
        """Return the connection of `key` with a call counted on it; dial if there is none, or if `fresh`.

        A fresh connection is not shared until `release` promotes it. For a loop, call this on it.
        """
        with self._lock:
            connection = None if fresh else self._connections.get(key)
            if connection is None:
                connection = self._dial(key)
                if not fresh:
                    self._remove_dead_loops()
                    self._connections[key] = connection
            connection.begin_call()
        return connection

    def release(self, key: LoopKey, connection: Connection, *, fresh: bool = False, proven: bool = False) -> None:
        """Count the end of a call. A fresh connection that has `proven` to work is promoted; another one is closed."""
        if fresh:
            with self._lock:
                promoted = proven and connection.dialer is self._dialer
                old = self._connections.get(key)
                if promoted:
                    self._connections[key] = connection
            if not promoted:
                connection.close_when_idle()
            elif old is not None:
                old.close_when_idle()
        connection.end_call()

    def open(self, key: LoopKey, call: Call, now: float) -> tuple[Connection, float | None] | Outcome:
        """Return a connection with the call counted on it and the seconds left; or the outcome, if it cannot be sent.

        The caller counts the end of the call by `end`.
        """
        refusal = self.refusal()
        if refusal is not None:
            return refusal
        left = remaining(now, call.deadline)
        return timed_out() if left == 0.0 else (self.acquire(key, fresh=call.probe), left)

    def end(self, key: LoopKey, call: Call, connection: Connection, outcome: Outcome | None) -> None:
        """Count the end of a call that `open` counted. The outcome tells whether the connection works."""
        proven = outcome is not None and outcome.code not in CONNECTION_FAILURE_CODES
        self.release(key, connection, fresh=call.probe, proven=proven)

    def current(self, key: LoopKey) -> Connection | None:
        """Return the connection of `key` if one is open."""
        return self._connections.get(key)

    def swap(self, dialer: Dialer) -> None:
        """Use other credentials from the next call on; calls in flight end on the old connections."""
        with self._lock:
            self._dialer = dialer
        self.disconnect()

    def disconnect(self) -> None:
        """Close every connection once its calls have ended. Any thread may call this."""
        with self._lock:
            connections, self._connections = list(self._connections.values()), {}
        for connection in connections:
            connection.close_when_idle()

    def disconnect_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the connection of a loop that is about to end, once its calls have ended."""
        with self._lock:
            connection = self._connections.pop(loop, None)
        if connection is not None:
            connection.close_when_idle()

    def close(self) -> None:
        """Close every connection at once, draining ones too."""
        with self._lock:
            connections, self._connections = list(self._all), {}
        for connection in connections:
            connection.close()

    def abandon_after_fork(self) -> None:
        """Drop every connection without closing it: in a forked child, gRPC's objects must not be touched."""
        self._lock = threading.Lock()
        self._connections, self._all = {}, WeakSet()

    async def wait_closed(self) -> None:
        """Wait until the connections being closed on this loop are closed."""
        loop = asyncio.get_running_loop()
        while closing := [task for task in self._closing if task.get_loop() is loop]:
            await asyncio.gather(*closing, return_exceptions=True)

    def _dial(self, key: LoopKey) -> Connection:
        if key is None:
            connection = Connection(self._dialer.sync(), self._dialer, self._close_sync)
        else:
            connection = Connection(self._dialer.aio(), self._dialer, lambda channel: self._close_aio(key, channel))
        self._all.add(connection)
        return connection

    def _remove_dead_loops(self) -> None:
        for key in [key for key in self._connections if key is not None and key.is_closed()]:
            del self._connections[key]

    def _close_sync(self, channel: grpc.Channel) -> None:
        # The last call may end in the channel's own thread, which must not close it.
        if not self.background.post(channel.close):
            channel.close()

    def _close_aio(self, loop: asyncio.AbstractEventLoop, channel: grpc.aio.Channel) -> None:
        def close() -> None:
            task = loop.create_task(channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

        try:
            if asyncio.get_running_loop() is loop:
                close()
                return
        except RuntimeError:  # no loop runs in this thread
            pass
        try:
            loop.call_soon_threadsafe(close)
        except RuntimeError:  # the loop ended, and its channels with it
            return
