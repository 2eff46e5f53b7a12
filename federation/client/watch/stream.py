"""One `Watch` stream of one peer, from its subscription to its end."""

import asyncio
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, Final, NamedTuple, Protocol

import grpc
from google.protobuf.message import Message

from federation.client.aio.channel import AioDriver
from federation.client.aio.stream import FlowStream, StreamDriver
from federation.client.chain.call_stats import printable
from federation.client.chain.flow import Call, Outcome
from federation.client.chain.methods import METHODS
from federation.client.chain.runner import FlowRunner, Step
from federation.client.peers.registry import Peer
from federation.client.transport.connections import Connection
from federation.client.watch.policy import WatchSettings
from federation.clock import Clock
from federation.v1 import federation_pb2 as pb
from federation.wire.requests import SERVICE
from federation.wire.status import error_detail

__all__ = ["Listener", "StreamEnd", "WatchStream"]

WATCH: Final = METHODS[f"{SERVICE}Watch"]
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


class _OwnLine(StreamDriver):
    """Opens its stream on a connection of its own, so that the stream's age is the connection's."""

    def send(self, run: FlowRunner, step: Step, call: Call) -> Outcome | None:
        return super().send(run, step, call._replace(probe=True))

    def _release(self, line: Connection, call: Call, outcome: Outcome) -> None:
        self._base.channel.release(self._base.loop, line, fresh=True)


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
        self._call = _open(peer, clock, loop)
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
            self._call.cancel()
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
        except grpc.RpcError:
            return
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
        message: Any = await self._call.read()
        if message is grpc.aio.EOF:
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
        with suppress(*_GONE):
            async with self._writing:
                await self._call.write(request)

    async def _close_requests(self) -> None:
        with suppress(*_GONE, TimeoutError):
            async with asyncio.timeout(self._settings.close_timeout_s), self._writing:
                await self._call.done_writing()

    async def _ending(self) -> StreamEnd:
        if self._fault:
            self._call.cancel()
            return StreamEnd(grpc.StatusCode.CANCELLED, "", self._fault)
        code, details = await self._call.code(), printable(await self._call.details())
        trailing = tuple((key, value) for key, value in await self._call.trailing_metadata())
        detail = error_detail(trailing)
        return StreamEnd(code, detail.reason, details, detail.retry_after_s)


def _open(peer: Peer, clock: Clock, loop: asyncio.AbstractEventLoop) -> FlowStream:
    """Start the stream through the chain. It is none of the peer's `runs`: no flush may cut it before its ack."""
    port = _OwnLine(AioDriver(loop, peer, clock), WATCH, None)
    run = FlowRunner(port, peer.flow(WATCH.stream(peer, (), inf)))
    run.start()
    return FlowStream(run, port, peer.name, partial(_no_deadline))


def _no_deadline() -> None:
    return None
