"""The drivers of flows for threads: blocking calls, and gRPC's futures."""

from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

import grpc

from federation.client.chain.flow import Call, Outcome
from federation.client.chain.methods import remaining
from federation.client.chain.outcomes import CONNECTION_FAILURE_CODES, closed, from_wire, timed_out
from federation.client.chain.runner import FlowRunner, Suspension
from federation.client.transport.background_loop import BackgroundLoop
from federation.client.transport.connections import Connection, PeerChannel


class Wire:
    """The shared resources of one peer's sync drivers: connections, clock, and the background loop for timers."""

    def __init__(self, channel: PeerChannel, background: BackgroundLoop, now: Callable[[], float]) -> None:
        self.channel, self.background, self.now = channel, background, now

    def open(self, call: Call) -> tuple[Connection, float | None] | Outcome:
        """Return a connection with the call counted on it and the seconds left, or an outcome if there is none."""
        refusal = self.channel.refusal()
        if refusal is not None:
            return refusal
        left = remaining(self.now(), call.deadline)
        return timed_out() if left == 0.0 else (self.channel.acquire(None, fresh=call.probe), left)

    def close(self, call: Call, connection: Connection, outcome: Outcome | None) -> None:
        """Count the end of the call on its connection."""
        proven = outcome is not None and outcome.code not in CONNECTION_FAILURE_CODES
        self.channel.release(None, connection, fresh=call.probe, proven=proven)


def failed(error: Any, connection: Connection | None = None) -> Outcome:
    """Convert a failed sync call. A call that a closing channel cancelled becomes UNAVAILABLE."""
    if connection is not None and connection.closed and error.code() is grpc.StatusCode.CANCELLED:
        return closed()
    initial, trailing = error.initial_metadata() or (), error.trailing_metadata() or ()
    code = error.code() or grpc.StatusCode.UNKNOWN
    return from_wire(code, b"", error.details() or "", _pairs(initial), _pairs(trailing))


def succeeded(body: bytes, call: Any) -> Outcome:
    """Convert a successful sync call."""
    initial, trailing = call.initial_metadata() or (), call.trailing_metadata() or ()
    return from_wire(grpc.StatusCode.OK, body, "", _pairs(initial), _pairs(trailing))


def _pairs(metadata: Any) -> tuple[tuple[str, str | bytes], ...]:
    return tuple((key, value) for key, value in metadata)


class BlockingDriver:
    """Blocks the calling thread, which is the only one to step the flow. Other threads hand it callbacks by a queue."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
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
        opened = self._wire.open(call)
        if isinstance(opened, Outcome):
            return opened
        connection, left = opened
        outcome = None
        try:
            outcome = _blocking_call(connection, call, left)
        finally:
            self._wire.close(call, connection, outcome)
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
        return max(0.0, min(at for at, _ in self._timers) - self._wire.now())

    def _fire(self) -> None:
        now = self._wire.now()
        for entry in [entry for entry in self._timers if entry[0] <= now]:
            self._timers.remove(entry)
            entry[1]()


def _blocking_call(connection: Connection, call: Call, left: float | None) -> Outcome:
    try:
        body, inner = connection.unary(call.method).with_call(call.request, timeout=left, metadata=call.metadata)
    except grpc.RpcError as e:
        return failed(e, connection)
    except ValueError:  # the channel is closed
        return closed()
    return succeeded(body, inner)


class FutureDriver:
    """Sends by gRPC's futures. The thread that brings an answer steps the flow; no flow blocks."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def in_loop(self, function: Callable[[], object]) -> Callable[[], None]:
        """Return `function` itself: any thread may step the flow."""
        return lambda: _discard(function())

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call `function` in the background thread."""
        self._wire.background.post(function)

    def timer(self, at: float, function: Callable[[], object]) -> Callable[[], object]:
        """Call `function` in the background thread at a monotonic instant."""
        return self._wire.background.call_later(max(0.0, at - self._wire.now()), function)

    def send(self, runner: FlowRunner, suspension: Suspension, call: Call) -> Outcome | None:
        """Start gRPC's own future; its end resumes the runner."""
        opened = self._wire.open(call)
        if isinstance(opened, Outcome):
            return opened
        connection, left = opened
        try:
            inner = connection.unary(call.method).future(call.request, timeout=left, metadata=call.metadata)
        except ValueError:  # the channel is closed
            self._wire.close(call, connection, None)
            return closed()
        suspension.on_claim(inner.cancel)
        inner.add_done_callback(lambda ended: self._arrived(runner, suspension, call, connection, ended))
        return None

    def _arrived(
        self, runner: FlowRunner, suspension: Suspension, call: Call, connection: Connection, ended: Any
    ) -> None:
        good = ended.code() is grpc.StatusCode.OK
        outcome = succeeded(ended.result(), ended) if good else failed(ended, connection)
        self._wire.close(call, connection, outcome)
        runner.answer(suspension, outcome)


def _discard(_: object) -> None:
    return None
