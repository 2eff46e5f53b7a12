"""One `Watch` stream of one peer, from its subscription to its end."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Any, Final, NamedTuple

import grpc
from google.protobuf.message import Message
from grpc.aio import EOF, AioRpcError, Metadata

from federation.aio import cancel_and_wait
from federation.client.aio.call import end_of, result_if_done
from federation.client.aio.driver import AioDriver
from federation.client.calls import final_outcome
from federation.client.chain.flow import Call, Outcome
from federation.client.chain.outcomes import closed, from_wire
from federation.client.chain.runner import FlowRunner, Suspension
from federation.client.peers.peer import Peer
from federation.client.transport.connections import Connection
from federation.client.watch.policy import WatchSettings
from federation.clock import Clock
from federation.sanitize import printable
from federation.v1 import federation_pb2 as pb
from federation.wire.status import error_detail
from federation.wire.verbs import VERB_BY_NAME

WATCH: Final = VERB_BY_NAME["watch"]
_STREAM_ENDED: Final = (grpc.RpcError, grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError)
"""Exceptions of gRPC for a message to a stream that has just ended; reading the stream shows the cause."""


class StreamEnd(NamedTuple):
    """The status with which a stream ended, made safe for a terminal."""

    code: grpc.StatusCode
    reason: str
    message: str
    retry_after_s: float | None = None

    def __str__(self) -> str:
        return self.message or self.reason or self.code.name


class _StreamDriver:
    """Opens gRPC's stream on a connection of its own, so that the stream is as old as its connection."""

    def __init__(self, base: AioDriver) -> None:
        self._base = base
        self.in_loop, self.call_soon, self.timer = base.in_loop, base.call_soon, base.timer
        self.wire: Any = None
        """gRPC's stream; `None` where the chain refused the call."""

    def send(self, runner: FlowRunner, suspension: Suspension, call: Call) -> Outcome | None:
        """Start gRPC's stream; its end resumes the runner."""
        refusal = self._base.channel.refusal()
        if refusal is not None:
            return refusal
        connection = self._base.channel.acquire(self._base.loop, fresh=True)
        start = connection.channel.stream_stream(
            call.method, WATCH.request.SerializeToString, WATCH.response.FromString
        )
        try:
            self.wire = start(metadata=Metadata(*call.metadata))
        except grpc.aio.UsageError:
            self._base.channel.release(self._base.loop, connection, fresh=True)
            return closed()
        suspension.on_claim(self._base.ending(self.wire.cancel))
        self.wire.add_done_callback(lambda wire: self._ended(runner, suspension, connection, wire))
        return None

    async def read(self) -> Any:
        """Return the next message, or `grpc.aio.EOF`; the runner's outcome shows how the stream ended."""
        if self.wire is None:
            return EOF
        try:
            return await self.wire.read()
        except AioRpcError:
            return EOF
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return EOF  # the connection was closed, which cancels the stream and not the reading task

    def _ended(self, runner: FlowRunner, suspension: Suspension, connection: Connection, wire: Any) -> None:
        code = result_if_done(wire.code()) or grpc.StatusCode.UNKNOWN
        initial, trailing = result_if_done(wire.initial_metadata()), result_if_done(wire.trailing_metadata())
        outcome = from_wire(code, b"", result_if_done(wire.details()) or "", initial or (), trailing or ())
        if code is grpc.StatusCode.CANCELLED and wire.cancelled():  # the connection was closed
            outcome = closed()
        self._base.channel.release(self._base.loop, connection, fresh=True)
        runner.answer(suspension, outcome)


class WatchStream:
    """A stream with a task of its own on the running loop. `ended` resolves when task and stream have ended.

    `on_armed` is called once, when the peer confirms the stream. `on_message` is called with each message, and returns
    the acknowledgement if the peer awaits one. `pause_s` returns how long to wait before the next message is read. All
    are called on the loop, and must not block.
    """

    def __init__(
        self,
        peer: Peer,
        clock: Clock,
        settings: WatchSettings,
        *,
        instance_id: str,
        on_armed: Callable[[], None],
        on_message: Callable[[pb.WatchResponse], pb.WatchAck | None],
        pause_s: Callable[[], float],
    ) -> None:
        self._settings, self._on_armed, self._on_message, self._pause_s = settings, on_armed, on_message, pause_s
        loop = asyncio.get_running_loop()
        self._subscribe = pb.WatchRequest(subscribe=pb.WatchSubscribe(instance_id=instance_id))
        self._writing = asyncio.Lock()
        self._requests_closed = self._closing = False
        self._fault = ""
        self._peer = peer
        self._driver = _StreamDriver(AioDriver(loop, peer, clock))
        # The stream is not in the peer's `runners`: no flush may cancel it before its acknowledgement is sent.
        call = Call(WATCH.path, WATCH.name, "", peer.grant_id, peer.name, peer.user, b"", (), inf)
        self._runner = FlowRunner(self._driver, peer.flow(call))
        self._runner.start()
        self.armed: asyncio.Future[None] = loop.create_future()
        """Done once the peer confirmed the stream; cancelled if it ended before."""
        self.ended: asyncio.Task[StreamEnd] = loop.create_task(self._serve(), name=f"watch of {peer.name}")

    async def close(self) -> bool:
        """Close the stream and wait for its end. True if the peer ended it with OK, so that no message was missed."""
        self._requests_closed = True
        if not self.ended.done():
            await self._close_requests()
            await asyncio.wait({self.ended}, timeout=self._settings.close_timeout_s)
        clean = self.ended.done() and not self.ended.cancelled() and self.ended.result().code is grpc.StatusCode.OK
        await self.cancel()
        return clean

    async def cancel(self) -> None:
        """Cancel the stream and wait for its end."""
        await cancel_and_wait(self.ended)

    async def _serve(self) -> StreamEnd:
        try:
            await self._listen()
            return await self._end()
        finally:
            self._runner.cancel()
            self.armed.cancel()

    async def _listen(self) -> None:
        """Read until the stream ends, on either side; a fault is stored in `_fault`."""
        heartbeats: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(self._settings.arm_timeout_s):
                await self._write(self._subscribe)
                while not self.armed.done():
                    if not await self._receive():
                        return
            heartbeats = asyncio.create_task(self._send_heartbeats())
            while await self._receive_in_time():  # noqa: ASYNC110 - it waits for the peer
                await asyncio.sleep(self._pause_s())
        except TimeoutError:
            awaited = "send a heartbeat" if self.armed.done() else "confirm the watch"
            self._fault = f"the peer did not {awaited} in time"
        except Exception as e:  # noqa: BLE001 - a peer may send anything; an error ends this stream alone
            self._fault = f"the peer's message cannot be handled: {type(e).__name__}"
        finally:
            if heartbeats is not None:
                heartbeats.cancel()

    async def _receive_in_time(self) -> bool:
        """Receive one message; a stream that is being closed gets a short time to end.

        A stream whose grant was revoked is closed only after the event was acknowledged: a call may have learned of
        the revocation first.
        """
        if self._closing and not self._requests_closed:
            self._requests_closed = True
            await self._close_requests()
        timeout_s = self._settings.close_timeout_s if self._requests_closed else self._settings.silence_timeout_s
        async with asyncio.timeout(timeout_s):
            return await self._receive()

    async def _receive(self) -> bool:
        message = await self._driver.read()
        if message is EOF:
            return False
        if message.WhichOneof("kind") == "armed" and not self.armed.done():
            self._on_armed()
            self.armed.set_result(None)
        ack = self._on_message(message)
        if ack is not None:
            await self._write(pb.WatchRequest(ack=ack))
        self._closing = self._closing or message.WhichOneof("kind") == "grant_revoked"
        return True

    async def _send_heartbeats(self) -> None:
        heartbeat = pb.WatchRequest(heartbeat=pb.WatchHeartbeat())
        while True:
            await asyncio.sleep(self._settings.heartbeat_interval_s)
            await self._write(heartbeat)

    async def _write(self, request: Message) -> None:
        """Send a message; gRPC takes one at a time."""
        if self._driver.wire is None:
            return
        with suppress(*_STREAM_ENDED):
            async with self._writing:
                await self._driver.wire.write(request)

    async def _close_requests(self) -> None:
        if self._driver.wire is None:
            return
        with suppress(*_STREAM_ENDED, TimeoutError):
            async with asyncio.timeout(self._settings.close_timeout_s), self._writing:
                await self._driver.wire.done_writing()

    async def _end(self) -> StreamEnd:
        if self._fault:
            return StreamEnd(grpc.StatusCode.CANCELLED, "", self._fault)
        await end_of(self._runner)
        outcome = final_outcome(self._runner, self._peer.name)
        detail = error_detail(outcome.trailing)
        return StreamEnd(outcome.code, detail.reason, printable(outcome.details), detail.retry_after_s)
