"""The drivers of flows for threads: blocking calls, and gRPC's futures."""

from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

import grpc

from federation.client.chain.flow import Call, Outcome
from federation.client.chain.outcomes import closed, from_error, from_wire
from federation.client.chain.runner import FlowRunner, Suspension
from federation.client.transport.connections import Connection, PeerChannel


def succeeded(body: bytes, call: Any) -> Outcome:
    """Convert a successful sync call."""
    return from_wire(grpc.StatusCode.OK, body, "", call.initial_metadata() or (), call.trailing_metadata() or ())


def _failed(error: Any, connection: Connection) -> Outcome:
    """Convert a failed sync call. A call that a closing channel cancelled becomes UNAVAILABLE."""
    return closed() if connection.closed and error.code() is grpc.StatusCode.CANCELLED else from_error(error)


class BlockingDriver:
    """Blocks the calling thread, which is the only one to step the flow. Other threads hand it callbacks by a queue."""

    def __init__(self, channel: PeerChannel, now: Callable[[], float]) -> None:
        self._channel, self._now = channel, now
        self._post: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._timers: list[tuple[float, Callable[[], object]]] = []

    def in_loop(self, function: Callable[[], object]) -> Callable[[], None]:
        """Have `function` called by the blocked thread."""
        return lambda: self._post.put(function)

    def call_soon(self, function: Callable[[], object]) -> None:
        """Have `function` called by the blocked thread."""
        self._post.put(function)

    def timer(self, at: float, function: Callable[[], object]) -> Callable[[], object]:
        """Have the blocked thread call `function` at a monotonic instant."""
        entry = (at, function)
        self._timers.append(entry)
        return lambda: self._timers.remove(entry) if entry in self._timers else None

    def send(self, runner: FlowRunner, suspension: Suspension, call: Call) -> Outcome | None:
        """Make gRPC's own blocking call."""
        opened = self._channel.open(None, call, self._now())
        if isinstance(opened, Outcome):
            return opened
        connection, left = opened
        outcome = None
        try:
            outcome = _blocking_call(connection, call, left)
        finally:
            self._channel.end(None, call, connection, outcome)
        return outcome

    def wait(self, runner: FlowRunner) -> None:
        """Run queued callbacks and timers until the runner has ended."""
        while not runner.done:
            try:
                self._post.get(timeout=self._pause())()
            except Empty:
                self._fire()

    def _pause(self) -> float | None:
        if not self._timers:
            return None
        return max(0.0, min(at for at, _ in self._timers) - self._now())

    def _fire(self) -> None:
        now = self._now()
        for entry in [entry for entry in self._timers if entry[0] <= now]:
            self._timers.remove(entry)
            entry[1]()


def _blocking_call(connection: Connection, call: Call, left: float | None) -> Outcome:
    try:
        body, inner = connection.unary(call.method).with_call(call.request, timeout=left, metadata=call.metadata)
    except grpc.RpcError as e:
        return _failed(e, connection)
    except ValueError:  # the channel is closed
        return closed()
    return succeeded(body, inner)


class FutureDriver:
    """Sends by gRPC's futures. The thread that brings an answer steps the flow; no flow blocks."""

    def __init__(self, channel: PeerChannel, now: Callable[[], float]) -> None:
        self._channel, self._now = channel, now

    def in_loop(self, function: Callable[[], object]) -> Callable[[], None]:
        """Return `function` itself: any thread may step the flow."""
        return lambda: _discard(function())

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call `function` in the background thread."""
        self._channel.background.post(function)

    def timer(self, at: float, function: Callable[[], object]) -> Callable[[], object]:
        """Call `function` in the background thread at a monotonic instant."""
        return self._channel.background.call_later(max(0.0, at - self._now()), function)

    def send(self, runner: FlowRunner, suspension: Suspension, call: Call) -> Outcome | None:
        """Start gRPC's own future; its end resumes the runner."""
        opened = self._channel.open(None, call, self._now())
        if isinstance(opened, Outcome):
            return opened
        connection, left = opened
        try:
            inner = connection.unary(call.method).future(call.request, timeout=left, metadata=call.metadata)
        except ValueError:  # the channel is closed
            self._channel.end(None, call, connection, None)
            return closed()
        suspension.on_claim(inner.cancel)
        inner.add_done_callback(lambda ended: self._arrived(runner, suspension, call, connection, ended))
        return None

    def _arrived(
        self, runner: FlowRunner, suspension: Suspension, call: Call, connection: Connection, ended: Any
    ) -> None:
        good = ended.code() is grpc.StatusCode.OK
        outcome = succeeded(ended.result(), ended) if good else _failed(ended, connection)
        self._channel.end(None, call, connection, outcome)
        runner.answer(suspension, outcome)


def _discard(_: object) -> None:
    return None
