"""The stream of grpc.aio over a run: to the chain, a stream is one call whose outcome is how it ended."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Protocol

import grpc
from grpc.aio import EOF, AioRpcError, Metadata

from federation.client.aio.call import final_outcome, rpc_error, soon
from federation.client.chain.flow import Call, Cancelled, Outcome
from federation.client.chain.methods import Method, remaining
from federation.client.chain.outcomes import closed, from_wire, timed_out
from federation.client.chain.runner import FlowRunner, Step
from federation.client.interceptors.tagging import stripped
from federation.client.transport.connections import Connection, PeerChannel

__all__ = ["FlowStream", "StreamDriver"]


class _Base(Protocol):
    loop: asyncio.AbstractEventLoop
    channel: PeerChannel

    def now(self) -> float: ...
    def at_home(self, function: Callable[[], object]) -> Callable[[], None]: ...
    def soon(self, function: Callable[[], object]) -> None: ...
    def timer(self, at: float, function: Callable[[], object]) -> Callable[[], object]: ...
    def ending(self, cancel: Callable[[], object]) -> Callable[[], object]: ...


class StreamDriver:
    """Opens one stream; its end resumes the run. `wire` is gRPC's own stream once the chain asked for it."""

    def __init__(self, base: _Base, method: Method, requests: Any) -> None:
        self._base, self._method, self._requests = base, method, requests
        self.wire: Any = None
        self.at_home, self.soon, self.timer = base.at_home, base.soon, base.timer

    def send(self, run: FlowRunner, step: Step, call: Call) -> Outcome | None:
        """Start gRPC's own stream."""
        channel, loop = self._base.channel, self._base.loop
        refusal = channel.refusal()
        if refusal is not None:
            return refusal
        left = remaining(self._base.now(), call.deadline)
        if left == 0.0:
            return timed_out()
        line = channel.acquire(loop, fresh=call.probe)
        start = line.channel.stream_stream(
            call.method, self._method.request.SerializeToString, self._method.response.FromString
        )
        try:
            wire = start(self._requests, timeout=left, metadata=Metadata(*call.metadata))
        except grpc.aio.UsageError:
            channel.release(loop, line, fresh=call.probe)
            return closed()
        self.attach(run, step, wire, partial(self._release, line, call))
        return None

    def attach(self, run: FlowRunner, step: Step, wire: Any, release: Callable[[Outcome], object]) -> None:
        """Take gRPC's own stream: the step ends with it, and it with the step."""
        self.wire = wire
        step.on_claim(self._base.ending(wire.cancel))
        wire.add_done_callback(lambda _: self._ended(run, step, wire, release))

    def _release(self, line: Connection, call: Call, outcome: Outcome) -> None:
        self._base.channel.release(self._base.loop, line, fresh=call.probe, proven=outcome.ok)

    def _ended(self, run: FlowRunner, step: Step, wire: Any, release: Callable[[Outcome], object]) -> None:
        code = soon(wire.code()) or grpc.StatusCode.UNKNOWN
        initial, trailing = soon(wire.initial_metadata()), soon(wire.trailing_metadata())
        outcome = from_wire(code, b"", soon(wire.details()) or "", initial or (), trailing or ())
        if code is grpc.StatusCode.CANCELLED and wire.cancelled():  # not by the run: the channel was closed
            outcome = closed()
        release(outcome)
        run.answer(step, outcome)


class FlowStream(grpc.aio.StreamStreamCall[Any, Any]):
    """A bidirectional stream under the chain, which ends with the chain's outcome."""

    def __init__(self, run: FlowRunner, port: StreamDriver, peer: str, remaining_s: Callable[[], float | None]) -> None:
        self._run, self._port, self._peer, self._remaining = run, port, peer, remaining_s
        self._messages: AsyncIterator[Any] | None = None

    def __del__(self) -> None:
        run: FlowRunner | None = getattr(self, "_run", None)
        if run is not None:
            run.drop()

    @property
    def _done_writing_flag(self) -> bool:
        return bool(self._port.wire is None or self._port.wire._done_writing_flag)  # its interceptors ask for it

    def done(self) -> bool:
        """Whether the stream has ended."""
        return self._run.done

    def cancelled(self) -> bool:
        """Whether it ended by being cancelled here."""
        return self._run.done and isinstance(self._run.error, Cancelled)

    def cancel(self) -> bool:
        """End the stream at the peer as well; `False` if it has ended."""
        return self._run.cancel()

    def time_remaining(self) -> float | None:
        """Return the seconds of the deadline that are left, `None` without one."""
        return self._remaining()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with this stream at its end; at once if it has come."""
        self._run.when_done(lambda: callback(self))

    async def initial_metadata(self) -> Metadata:
        """Return the peer's initial metadata as soon as it is there."""
        if self._port.wire is None:
            return Metadata(*(await self._ended()).initial)
        received = tuple(await self._port.wire.initial_metadata() or ())
        return Metadata(*stripped(received))

    async def trailing_metadata(self) -> Metadata:
        """Return the trailing metadata with `_source` and `_cached`, when the stream has ended."""
        return Metadata(*(await self._ended()).trailing)

    async def code(self) -> grpc.StatusCode:
        """Return the status code, when the stream has ended."""
        return (await self._ended()).code

    async def details(self) -> str:
        """Return the status text, when the stream has ended."""
        return (await self._ended()).details

    async def debug_error_string(self) -> str:
        """Return the status text: there is no other."""
        return await self.details()

    async def wait_for_connection(self) -> None:
        """Wait until the peer has answered with metadata; raise where the stream failed before."""
        if self._port.wire is None:
            await self._raise_for_status()
            return
        try:
            await self._port.wire.wait_for_connection()
        except AioRpcError:
            await self._raise_for_status()

    async def write(self, request: Any) -> None:
        """Send a request."""
        if self._port.wire is None:
            raise asyncio.InvalidStateError("the stream has ended")
        await self._port.wire.write(request)

    async def done_writing(self) -> None:
        """Tell the peer that no more requests come."""
        if self._port.wire is not None:
            await self._port.wire.done_writing()

    async def read(self) -> Any:
        """Return the next response, or `grpc.aio.EOF`. Raises what a failed stream raises."""
        return await self._receive(self._port.wire.read if self._port.wire is not None else None)

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._messages is None:
            self._messages = self._iterate()
        return self._messages

    async def _iterate(self) -> AsyncIterator[Any]:
        wire = self._port.wire
        receive = None if wire is None else partial(anext, aiter(wire), EOF)
        while (message := await self._receive(receive)) is not EOF:
            yield message

    async def _receive(self, receive: Callable[[], Any] | None) -> Any:
        try:
            message = EOF if receive is None else await receive()
        except AioRpcError:
            message = EOF
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._run.outcome is None or (task is not None and task.cancelling()):
                self._run.cancel()
                raise
            message = EOF  # the run was given its outcome, and cancelled the wire for that
        if message is EOF:
            await self._raise_for_status()
        return message

    async def _raise_for_status(self) -> None:
        outcome = await self._ended()
        if self._run.error is not None:
            raise asyncio.CancelledError if isinstance(self._run.error, Cancelled) else self._run.error
        if not outcome.ok:
            raise rpc_error(outcome)

    async def _ended(self) -> Outcome:
        if not self._run.done:
            future = asyncio.get_running_loop().create_future()
            self._run.when_done(lambda: None if future.done() else future.set_result(None))
            await future
        return final_outcome(self._run, self._peer)
