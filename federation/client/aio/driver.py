"""The asyncio driver of flows: gRPC's own aio calls, driven by callbacks instead of tasks."""

import asyncio
import threading
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import grpc
from grpc.aio import AioRpcError, Metadata

from federation.client.aio.call import result_if_done
from federation.client.chain.flow import Call, Outcome, refused
from federation.client.chain.outcomes import closed, from_error, from_wire
from federation.client.chain.runner import FlowRunner, Suspension
from federation.client.peers.peer import Peer
from federation.client.transport.connections import Connection
from federation.clock import Clock
from federation.errors import Reason, Refusal


class AioDriver:
    """Sends calls on one loop. It steps gRPC's own call as `asyncio.Task` would, without a task."""

    def __init__(self, loop: asyncio.AbstractEventLoop, peer: Peer, clock: Clock) -> None:
        self.loop = loop
        self._thread = threading.get_ident()
        self.channel = peer.channel
        self.now = clock.monotonic

    def in_loop(self, function: Callable[[], object]) -> Callable[[], None]:
        """Have `function` called on the loop; at once in the loop's own thread. Does nothing if the loop is closed."""

        def call() -> None:
            if threading.get_ident() == self._thread:
                function()
            else:
                self.call_soon(function)

        return call

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call `function` in a later iteration of the loop."""
        try:
            self.loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop is closed, and its callers with it
            return

    def timer(self, at: float, function: Callable[[], object]) -> Callable[[], object]:
        """Call `function` on the loop at a monotonic instant."""
        return self.loop.call_at(self.loop.time() + max(0.0, at - self.now()), function).cancel

    def ending(self, cancel: Callable[[], object]) -> Callable[[], object]:
        """Wrap a cancellation so that it does nothing once the loop is closed."""
        return lambda: None if self.loop.is_closed() else cancel()

    def send(self, runner: FlowRunner, suspension: Suspension, call: Call) -> Outcome | None:
        """Start gRPC's own call; its end resumes the runner."""
        opened = self.channel.open(self.loop, call, self.now())
        if isinstance(opened, Outcome):
            return opened
        connection, left = opened
        try:
            wire = connection.unary(call.method)(call.request, timeout=left, metadata=Metadata(*call.metadata))
        except grpc.aio.UsageError:
            self.channel.end(self.loop, call, connection, None)
            return closed()
        waiting = wire.__await__()
        future = waiting.send(None)
        future._asyncio_future_blocking = False  # asyncio's protocol for awaiting a future, here without a task
        suspension.on_claim(self.ending(wire.cancel))
        future.add_done_callback(partial(self._arrived, runner, suspension, call, connection, wire, waiting))
        return None

    def _arrived(
        self,
        runner: FlowRunner,
        suspension: Suspension,
        call: Call,
        connection: Connection,
        wire: Any,
        waiting: Generator[Any, None, Any],
        _: object,
    ) -> None:
        outcome = _outcome(wire, waiting)
        self.channel.end(self.loop, call, connection, outcome)
        runner.answer(suspension, outcome)


def _outcome(wire: Any, waiting: Generator[Any, None, Any]) -> Outcome:
    """Convert a call whose response task has ended. `code()` never returns for a request that could not be sent."""
    try:
        waiting.send(None)
    except StopIteration as end:
        initial, trailing = result_if_done(wire.initial_metadata()), result_if_done(wire.trailing_metadata())
        return from_wire(grpc.StatusCode.OK, end.value, "", initial or (), trailing or ())
    except AioRpcError as e:
        return from_error(e)
    except asyncio.CancelledError:  # not by the runner, whose suspension is claimed then: the channel was closed
        return closed()
    except Exception as e:  # noqa: BLE001 - gRPC's own errors outside RpcError: the request could not be sent
        return refused(Refusal(Reason.INTERNAL, f"the request could not be sent: {e}"))
    return refused(Refusal(Reason.INTERNAL, "gRPC's call ended without a result"))
