"""How flows reach the wire from threads: by blocking, or by gRPC's futures."""

from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

import grpc

from federation.client.chain.flow import Call, Outcome
from federation.client.chain.methods import remaining
from federation.client.chain.outcomes import CONNECTION_FAILURE_CODES, closed, from_wire, timed_out
from federation.client.chain.runner import FlowRunner, Step
from federation.client.transport.background_loop import BackgroundLoop
from federation.client.transport.connections import Connection, PeerChannel

__all__ = ["BlockingPort", "FuturePort", "Wire", "failed"]


class Wire:
    """What every sync port of one peer uses: its lines, the clock, and the thread that keeps timers."""

    def __init__(self, channel: PeerChannel, background: BackgroundLoop, now: Callable[[], float]) -> None:
        self.channel, self.background, self.now = channel, background, now

    def open(self, call: Call) -> tuple[Connection, float | None] | Outcome:
        """Return a line with the call counted on it and the seconds that are left, or why there is none."""
        refusal = self.channel.refusal()
        if refusal is not None:
            return refusal
        left = remaining(self.now(), call.deadline)
        return timed_out() if left == 0.0 else (self.channel.acquire(None, fresh=call.probe), left)

    def close(self, call: Call, line: Connection, outcome: Outcome | None) -> None:
        """Count the call off its line."""
        proven = outcome is not None and outcome.code not in CONNECTION_FAILURE_CODES
        self.channel.release(None, line, fresh=call.probe, proven=proven)


def failed(error: Any, line: Connection | None = None) -> Outcome:
    """Return a failed sync call as an outcome. One that a closing channel cancelled is UNAVAILABLE."""
    if line is not None and line.closed and error.code() is grpc.StatusCode.CANCELLED:
        return closed()
    initial, trailing = error.initial_metadata() or (), error.trailing_metadata() or ()
    code = error.code() or grpc.StatusCode.UNKNOWN
    return from_wire(code, b"", error.details() or "", _pairs(initial), _pairs(trailing))


def succeeded(body: bytes, call: Any) -> Outcome:
    """Return a good answer as an outcome."""
    initial, trailing = call.initial_metadata() or (), call.trailing_metadata() or ()
    return from_wire(grpc.StatusCode.OK, body, "", _pairs(initial), _pairs(trailing))


def _pairs(metadata: Any) -> tuple[tuple[str, str | bytes], ...]:
    return tuple((key, value) for key, value in metadata)


class BlockingPort:
    """Sends by blocking the calling thread, which alone steps the flow: whatever others have for it comes by post."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._post: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._timers: list[tuple[float, Callable[[], object]]] = []

    def at_home(self, function: Callable[[], object]) -> Callable[[], None]:
        """Have `function` called by the blocked thread."""
        return lambda: self._post.put(function)

    def soon(self, function: Callable[[], object]) -> None:
        """Have `function` called by the blocked thread."""
        self._post.put(function)

    def timer(self, at: float, function: Callable[[], object]) -> Callable[[], object]:
        """Have the blocked thread call `function` at a monotonic instant."""
        entry = (at, function)
        self._timers.append(entry)
        return lambda: self._timers.remove(entry) if entry in self._timers else None

    def send(self, run: FlowRunner, step: Step, call: Call) -> Outcome | None:
        """Make gRPC's own blocking call."""
        opened = self._wire.open(call)
        if isinstance(opened, Outcome):
            return opened
        line, left = opened
        outcome = None
        try:
            outcome = _blocking_call(line, call, left)
        finally:
            self._wire.close(call, line, outcome)
        return outcome

    def wait(self, run: FlowRunner) -> None:
        """Serve the post and the timers until the run has ended."""
        while not run.done:
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


def _blocking_call(line: Connection, call: Call, left: float | None) -> Outcome:
    try:
        body, inner = line.unary(call.method).with_call(call.request, timeout=left, metadata=call.metadata)
    except grpc.RpcError as e:
        return failed(e, line)
    except ValueError:  # gRPC's word for a closed channel
        return closed()
    return succeeded(body, inner)


class FuturePort:
    """Sends by gRPC's futures. Flows are stepped in whichever thread brings the news, and none of them blocks."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def at_home(self, function: Callable[[], object]) -> Callable[[], None]:
        """Return `function`: every thread will do."""
        return lambda: _discard(function())

    def soon(self, function: Callable[[], object]) -> None:
        """Call `function` in the background thread."""
        self._wire.background.post(function)

    def timer(self, at: float, function: Callable[[], object]) -> Callable[[], object]:
        """Call `function` in the background thread at a monotonic instant."""
        return self._wire.background.call_later(max(0.0, at - self._wire.now()), function)

    def send(self, run: FlowRunner, step: Step, call: Call) -> Outcome | None:
        """Start gRPC's own future; its end resumes the run."""
        opened = self._wire.open(call)
        if isinstance(opened, Outcome):
            return opened
        line, left = opened
        try:
            inner = line.unary(call.method).future(call.request, timeout=left, metadata=call.metadata)
        except ValueError:  # gRPC's word for a closed channel
            self._wire.close(call, line, None)
            return closed()
        step.on_claim(inner.cancel)
        inner.add_done_callback(lambda ended: self._arrived(run, step, call, line, ended))
        return None

    def _arrived(self, run: FlowRunner, step: Step, call: Call, line: Connection, ended: Any) -> None:
        good = ended.code() is grpc.StatusCode.OK
        outcome = succeeded(ended.result(), ended) if good else failed(ended, line)
        self._wire.close(call, line, outcome)
        run.answer(step, outcome)


def _discard(_: object) -> None:
    return None
