"""The connections to one peer: dialled at first use, one a loop and one for threads, replaced without a failed call."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias
from weakref import WeakSet

import grpc

from federation.client.chain.flow import Outcome
from federation.client.transport.background_loop import BackgroundLoop

__all__ = ["Connection", "Dialer", "PeerChannel"]

LoopKey: TypeAlias = asyncio.AbstractEventLoop | None
"""Where a channel lives: an asyncio loop, or `None` for the one that threads use."""


class Dialer(Protocol):
    """How to open a channel to the peer, and whether that makes sense at all."""

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
    """One open channel. Once retired it takes no new call, and it closes when its last call has ended."""

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

    def begin(self) -> None:
        """Count a call that uses this line."""
        with self._lock:
            self._calls += 1

    def end(self) -> None:
        """Count it off again."""
        with self._lock:
            self._calls -= 1
            close = self._retired and self._calls == 0
        if close:
            self.kill()

    def retire(self) -> None:
        """Close as soon as no call uses the line any more."""
        with self._lock:
            self._retired = True
            close = self._calls == 0
        if close:
            self.kill()

    def kill(self) -> None:
        """Close at once; calls under way fail."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._close(self.channel)


class PeerChannel:
    """The lines to one peer.

    `swap` publishes other credentials first and lets the calls on the old lines end. `rest` gives every connection
    up, so that nothing redials; the next call, or the probe of a half-open circuit, dials anew.
    """

    def __init__(self, dialer: Dialer, background: BackgroundLoop) -> None:
        self._dialer = dialer
        self._background = background
        self._lock = threading.Lock()
        self._lines: dict[LoopKey, Connection] = {}
        self._every: WeakSet[Connection] = WeakSet()
        self._closing: set[asyncio.Task[None]] = set()

    def refusal(self) -> Outcome | None:
        """Return why a call would be in vain before anything is dialled, such as an own certificate that expired."""
        return self._dialer.refusal()

    def acquire(self, home: LoopKey, *, fresh: bool = False) -> Connection:
        """Return the line of `home` with a call counted on it; dial where there is none, or `fresh` is asked for.

        A fresh line is nobody else's until `release` promotes it. For a loop, call this on it.
        """
        with self._lock:
            line = None if fresh else self._lines.get(home)
            if line is None:
                line = self._dial(home)
                if not fresh:
                    self._forget_dead_loops()
                    self._lines[home] = line
            line.begin()
        return line

    def release(self, home: LoopKey, line: Connection, *, fresh: bool = False, proven: bool = False) -> None:
        """Count a call off. A fresh line that has `proven` itself becomes the line of its home, another is closed."""
        if fresh:
            with self._lock:
                promoted = proven and line.dialer is self._dialer
                old = self._lines.get(home)
                if promoted:
                    self._lines[home] = line
            if not promoted:
                line.retire()
            elif old is not None:
                old.retire()
        line.end()

    def current(self, home: LoopKey) -> Connection | None:
        """Return the line of `home` where one is open."""
        return self._lines.get(home)

    def swap(self, dialer: Dialer) -> None:
        """Use other credentials from the next call on; calls under way end on the old lines."""
        with self._lock:
            self._dialer = dialer
        self.rest()

    def rest(self) -> None:
        """Give up every line once its calls have ended. Any thread may call this."""
        with self._lock:
            lines, self._lines = list(self._lines.values()), {}
        for line in lines:
            line.retire()

    def leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give up the line of one loop, which is about to end."""
        with self._lock:
            line = self._lines.pop(loop, None)
        if line is not None:
            line.retire()

    def kill(self) -> None:
        """Close every line at once, those that still drain too."""
        with self._lock:
            lines, self._lines = list(self._every), {}
        for line in lines:
            line.kill()

    def abandon_after_fork(self) -> None:
        """Forget every line without closing it: in a forked child, gRPC's objects must not be touched."""
        self._lock = threading.Lock()
        self._lines, self._every = {}, WeakSet()

    async def closed(self) -> None:
        """Wait until the lines that are being closed on this loop are."""
        loop = asyncio.get_running_loop()
        while closing := [task for task in self._closing if task.get_loop() is loop]:
            await asyncio.gather(*closing, return_exceptions=True)

    def _dial(self, home: LoopKey) -> Connection:
        if home is None:
            line = Connection(self._dialer.sync(), self._dialer, self._close_sync)
        else:
            line = Connection(self._dialer.aio(), self._dialer, lambda channel: self._close_aio(home, channel))
        self._every.add(line)
        return line

    def _forget_dead_loops(self) -> None:
        for home in [home for home in self._lines if home is not None and home.is_closed()]:
            del self._lines[home]

    def _close_sync(self, channel: grpc.Channel) -> None:
        # The last call may end in the channel's own thread, which must not close it.
        if not self._background.post(channel.close):
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
