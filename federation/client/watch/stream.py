"""One `Watch` stream of one peer, from its subscription to its end."""

import asyncio
from contextlib import suppress
from math import inf
from typing import Any, Final, NamedTuple, Protocol

import grpc
from google.protobuf.message import Message
from grpc.aio import EOF, AioRpcError, Metadata

from federation.client.aio.call import final_outcome, soon
from federation.client.aio.driver import AioDriver
from federation.client.chain.flow import Call, Outcome
from federation.client.chain.methods import METHODS
from federation.client.chain.outcomes import closed, from_wire
from federation.client.chain.runner import FlowRunner, Step
from federation.client.peers.peer import Peer
from federation.client.transport.connections import Connection
from federation.client.watch.policy import WatchSettings
from federation.clock import Clock
from federation.sanitize import printable
from federation.v1 import federation_pb2 as pb
from federation.wire.status import error_detail
from federation.wire.verbs import VERB_BY_NAME

__all__ = ["Listener", "StreamEnd", "WatchStream"]

WATCH: Final = METHODS[VERB_BY_NAME["watch"].path]
_GONE: Final = (grpc.RpcError, grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError)
"""What gRPC raises for a message to a stream that has just ended; reading tells why it did."""


class Listener(Protocol):
    """Whom a stream tells what it hears. Called on the stream's loop; nothing here may wait."""

    def armed(self, *, planned: bool) -> None:
        """Hear that the peer confirmed the stream; `planned` where another one is armed still."""
        ...

    def take(self, event: pb.WatchResponse) -> pb.WatchAck | None:
        """Act on an event, and return how to acknowledge it where somebody waits for that."""
        ...

    def pause_s(self) -> float:
        """Return how long to wait before the next event is read."""
        ...


class StreamEnd(NamedTuple):
    """How a stream ended, in words that are safe to show."""

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
        self.at_home, self.soon, self.timer = base.at_home, base.soon, base.timer
        self.wire: Any = None
        """gRPC's stream; `None` where the chain refused the call."""

    def send(self, run: FlowRunner, step: Step, call: Call) -> Outcome | None:
        """Start gRPC's stream; its end resumes the run."""
        refusal = self._base.channel.refusal()
        if refusal is not None:
            return refusal
        line = self._base.channel.acquire(self._base.loop, fresh=True)
        start = line.channel.stream_stream(call.method, WATCH.request.SerializeToString, WATCH.response.FromString)
        try:
            self.wire = start(metadata=Metadata(*call.metadata))
        except grpc.aio.UsageError:
            self._base.channel.release(self._base.loop, line, fresh=True)
            return closed()
        step.on_claim(self._base.ending(self.wire.cancel))
        self.wire.add_done_callback(lambda wire: self._ended(run, step, line, wire))
        return None

    async def read(self) -> Any:
        """Return the next message, or `grpc.aio.EOF`; the run's outcome tells how the stream ended."""
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

    def _ended(self, run: FlowRunner, step: Step, line: Connection, wire: Any) -> None:
        code = soon(wire.code()) or grpc.StatusCode.UNKNOWN
        initial, trailing = soon(wire.initial_metadata()), soon(wire.trailing_metadata())
        outcome = from_wire(code, b"", soon(wire.details()) or "", initial or (), trailing or ())
        if code is grpc.StatusCode.CANCELLED and wire.cancelled():  # the connection was closed
            outcome = closed()
        self._base.channel.release(self._base.loop, line, fresh=True)
        run.answer(step, outcome)


class WatchStream:
    """A stream that its own task serves, on the running loop. `ended` is done when nothing of it is left."""

    def __init__(
        self,
        peer: Peer,
        clock: Clock,
        settings: WatchSettings,
        *,
        instance_id: str,
        listener: Listener,
        planned: bool = False,
    ) -> None:
        self._settings, self._listener, self._planned = settings, listener, planned
        loop = asyncio.get_running_loop()
        self._subscribe = pb.WatchRequest(subscribe=pb.WatchSubscribe(instance_id=instance_id))
        self._writing = asyncio.Lock()
        self._leaving = self._closing = False
        self._fault = ""
        self._peer = peer
        self._driver = _StreamDriver(AioDriver(loop, peer, clock))
        # The stream is none of the peer's `runs`: no flush may cut it before its acknowledgement is sent.
        self._run = FlowRunner(self._driver, peer.flow(WATCH.stream(peer, (), inf)))
        self._run.start()
        self.armed: asyncio.Future[None] = loop.create_future()
        """Done once the peer confirmed the stream; cancelled where it ended before."""
        self.ended: asyncio.Task[StreamEnd] = loop.create_task(self._serve(), name=f"watch of {peer.name}")

    async def leave(self) -> bool:
        """End the stream in peace. True: the peer had nothing more to say on it, so nothing was missed."""
        self._leaving = True
        if not self.ended.done():
            await self._close_requests()
            await asyncio.wait({self.ended}, timeout=self._settings.close_timeout_s)
        clean = self.ended.done() and not self.ended.cancelled() and self.ended.result().code is grpc.StatusCode.OK
        await self.abandon()
        return clean

    async def abandon(self) -> None:
        """End the stream at once."""
        self.ended.cancel()
        await asyncio.wait({self.ended})

    async def _serve(self) -> StreamEnd:
        try:
            await self._listen()
            return await self._ending()
        finally:
            self._run.cancel()
            self.armed.cancel()

    async def _listen(self) -> None:
        """Read until the stream ends, whoever ends it; what broke it goes into `_fault`."""
        beat: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(self._settings.arm_s):
                await self._write(self._subscribe)
                while not self.armed.done():
                    if not await self._hear():
                        return
            beat = asyncio.create_task(self._beat())
            while await self._hear_in_time():  # noqa: ASYNC110 - what it waits for is the peer
                await asyncio.sleep(self._listener.pause_s())
        except TimeoutError:
            self._fault = "the peer is silent" if self.armed.done() else "the peer did not confirm the watch in time"
        except Exception as e:  # noqa: BLE001 - a peer may send anything; whatever breaks here ends this stream alone
            self._fault = f"what the peer sent cannot be read: {type(e).__name__}"
        finally:
            if beat is not None:
                beat.cancel()

    async def _hear_in_time(self) -> bool:
        """Hear one message; a stream that has no more purpose gets a short time to end.

        One whose grant was revoked has, until the event was acknowledged: a call may have heard of it sooner.
        """
        if self._closing and not self._leaving:
            self._leaving = True
            await self._close_requests()
        patience_s = self._settings.close_timeout_s if self._leaving else self._settings.patience_s
        async with asyncio.timeout(patience_s):
            return await self._hear()

    async def _hear(self) -> bool:
        message = await self._driver.read()
        if message is EOF:
            return False
        if message.WhichOneof("kind") == "armed" and not self.armed.done():
            self._listener.armed(planned=self._planned)
            self.armed.set_result(None)
        ack = self._listener.take(message)
        if ack is not None:
            await self._write(pb.WatchRequest(ack=ack))
        self._closing = self._closing or message.WhichOneof("kind") == "grant_revoked"
        return True

    async def _beat(self) -> None:
        heartbeat = pb.WatchRequest(heartbeat=pb.WatchHeartbeat())
        while True:
            await asyncio.sleep(self._settings.heartbeat_interval_s)
            await self._write(heartbeat)

    async def _write(self, request: Message) -> None:
        """Send a message; gRPC takes one at a time."""
        if self._driver.wire is None:
            return
        with suppress(*_GONE):
            async with self._writing:
                await self._driver.wire.write(request)

    async def _close_requests(self) -> None:
        if self._driver.wire is None:
            return
        with suppress(*_GONE, TimeoutError):
            async with asyncio.timeout(self._settings.close_timeout_s), self._writing:
                await self._driver.wire.done_writing()

    async def _ending(self) -> StreamEnd:
        if self._fault:
            return StreamEnd(grpc.StatusCode.CANCELLED, "", self._fault)
        over = asyncio.get_running_loop().create_future()
        self._run.when_done(lambda: None if over.done() else over.set_result(None))
        await over
        outcome = final_outcome(self._run, self._peer.name)
        detail = error_detail(outcome.trailing)
        return StreamEnd(outcome.code, detail.reason, printable(outcome.details), detail.retry_after_s)
