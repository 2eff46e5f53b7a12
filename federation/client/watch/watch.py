"""The watch of one peer: keeps one stream armed, moves it before it ages, and redials it when it is lost."""

import asyncio
import logging
import random
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

import grpc

from federation.client.peers.peer import Peer
from federation.client.peers.watch_handle import WatchState, WatchStatus
from federation.client.watch.events import KINDS, EventHandler
from federation.client.watch.policy import Backoff, EventRate, WatchSettings
from federation.client.watch.stream import StreamEnd, WatchStream
from federation.clock import Clock
from federation.errors import Reason
from federation.v1 import federation_pb2 as pb

__all__ = ["PeerWatch"]

LOGGER: Final = logging.getLogger(__name__)


class PeerWatch:
    """The watch of a peer, on the background loop of the runtime.

    Losing the stream drops nothing: the leases bound how long anything is served. Each arming after a gap does, once.
    `begin`, `nudge`, `move` and `dismiss` may be called from any thread: `post` calls a function on the loop. `gate`
    bounds how many watches dial at the same time.
    """

    def __init__(
        self,
        peer: Peer,
        clock: Clock,
        settings: WatchSettings,
        instance_id: Callable[[], str],
        *,
        post: Callable[[Callable[[], object]], object],
        gate: asyncio.Semaphore,
        heard: Callable[[str], None] = lambda _: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        assert peer.cache is not None  # noqa: S101 - whoever equips a peer makes its cache first
        self._peer, self._clock, self._settings, self._instance_id = peer, clock, settings, instance_id
        self._post, self._gate = post, gate
        self._heard, self._chance = heard, chance
        self._rate = EventRate(settings.most_events)
        self._events = EventHandler(
            peer.grant_id, peer.cache, revoke=peer.revoked, fail=self._fail_calls, rate=self._rate
        )
        self._backoff = Backoff(settings, chance)
        self._standing = WatchStatus(WatchState.OFF, clock.now_us())
        self._attending: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._rung = self._moving = False
        self._pending_acks = False
        """Whether the peer may await the acknowledgement of a revocation: it was watched, and never told of one."""
        self._told = ""
        self._tried: Future[None] = Future()
        self._streams: set[WatchStream] = set()

    @property
    def standing(self) -> WatchStatus:
        """How the watch stands now."""
        return self._standing

    @property
    def running(self) -> bool:
        """Whether the watch has begun and not ended."""
        return self._attending is not None

    async def tried(self, timeout_s: float) -> bool:
        """Wait until the watch stands, or its first attempt has failed; tell whether it stands. Any loop may ask."""
        if not self.over():
            await asyncio.wait({asyncio.wrap_future(self._tried)}, timeout=timeout_s)
        return self._standing.state is WatchState.ARMED

    def begin(self) -> None:
        """Keep a stream armed from now on; nothing where the watch runs already, or the grant was revoked."""
        self._post(self._launch)

    async def end(self) -> None:
        """Give the stream up and wait until nothing of it is left. Call this on the loop."""
        if self._attending is not None:
            self._attending.cancel()
            await asyncio.wait({self._attending})

    def dismiss(self) -> None:
        """Give the stream up, from any thread."""
        self._post(self._cancel)

    def abandon_after_fork(self) -> None:
        """Forget the stream without touching it: this is a forked child."""
        self._post = lambda _: None
        self._attending = self._waiter = None
        self._standing = WatchStatus(WatchState.OFF, self._clock.now_us())
        self._streams = set()

    def wake(self) -> None:
        """Look again whether to dial or to rest: the circuit has turned, or the grant was revoked."""
        self._post(self._ring)

    def move(self) -> None:
        """Let a new stream take over from the one that is armed: the credentials have changed."""
        self._moving = True
        self.wake()

    # -- what a stream tells

    def armed(self, *, planned: bool) -> None:
        """Drop what was kept, unless another stream has listened all the while."""
        self._pending_acks = True
        if not planned:
            self._events.rearmed()
            self._turn(WatchState.ARMED)
            self._told = ""
            self._have_tried()

    def take(self, event: pb.WatchResponse) -> pb.WatchAck | None:
        """Act on an event."""
        kind = event.WhichOneof("kind")
        if self._peer.health is not None:
            self._peer.health.seen()
        if kind in KINDS:
            self._heard(kind)
        if kind == "grant_revoked":
            self._pending_acks = False
        return self._events.take(event, self._clock.monotonic())

    def pause_s(self) -> float:
        """Read a flood no faster than its share."""
        return self._rate.pause_s if self._rate.flooded else 0.0

    def over(self) -> bool:
        """Tell whether the grant was revoked."""
        return self._peer.revocation is not None

    # -- the task

    def _launch(self) -> None:
        if self._attending is None and not self.over():
            self._attending = asyncio.get_running_loop().create_task(self._attend(), name="watch")
            self._attending.add_done_callback(self._gone)

    def _cancel(self) -> None:
        if self._attending is not None:
            self._attending.cancel()

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._attending = None
        self._turn(WatchState.OFF)
        self._have_tried()
        if not task.cancelled() and (error := task.exception()) is not None:
            LOGGER.error("the watch of %s broke", self._peer.name, exc_info=error)

    async def _attend(self) -> None:
        try:
            while not self.over():
                await self._rest()
                pause_s = await self._watch_once()
                if not self.over():
                    await self._until(timeout_s=pause_s)
            await self._settle()
        finally:
            for stream in self._streams.copy():
                await self._close(stream)

    async def _settle(self) -> None:
        """Arm once more where a call heard of the revocation and the stream was lost before the event came on it.

        The peer lets such a stream in as long as it awaits the acknowledgement, and it would wait out the lease.
        """
        give_up_at = self._clock.monotonic() + self._settings.patience_s
        while self._pending_acks and self._clock.monotonic() < give_up_at and self._denied_s() is None:
            await self._until(timeout_s=await self._watch_once())

    async def _watch_once(self) -> float:
        """Arm a stream and stand by it until it is lost; return how long to pause."""
        self._turn(WatchState.CONNECTING)
        stream = await self._open(planned=False)
        if stream.armed.done() and not stream.armed.cancelled():
            armed_at = self._clock.monotonic()
            last = await self._hold(stream)
            self._events.lost()
            pause_s = self._backoff.lost(self._clock.monotonic() - armed_at)
        else:
            last = await self._ended(stream)
            pause_s = self._pause_after(last)
        self._pending_acks = self._pending_acks and last.reason != Reason.GRANT_REVOKED
        self._report(last)
        self._have_tried()
        return pause_s

    async def _rest(self) -> None:
        """Wait while the circuit is not closed."""
        while not self.over() and (retry_s := self._denied_s()) is not None:
            self._turn(WatchState.OFF)
            self._have_tried()
            await self._until(timeout_s=min(retry_s, self._settings.rest_s))

    def _denied_s(self) -> float | None:
        circuit = self._peer.circuit
        denied = circuit.look(self._clock.monotonic()) if circuit is not None else None
        return None if denied is None else denied.retry_after_s

    async def _open(self, *, planned: bool) -> WatchStream:
        """Dial, and return the stream once it is armed or has ended."""
        async with self._gate:
            stream = WatchStream(
                self._peer,
                self._clock,
                self._settings,
                instance_id=self._instance_id(),
                listener=self,
                planned=planned,
            )
            self._streams.add(stream)
            while not (stream.armed.done() or stream.ended.done()):
                await self._until(stream.armed, stream.ended)
                if self._denied_s() is not None and not stream.armed.done():
                    await self._close(stream)
        return stream

    async def _hold(self, stream: WatchStream) -> StreamEnd:
        """Stay armed, moving from stream to stream, until the armed one is lost; return how that ended."""
        move_at = self._next_move()
        while not stream.ended.done() and not self.over():
            await self._until(stream.ended, timeout_s=max(0.0, move_at - self._clock.monotonic()))
            due = self._moving or self._clock.monotonic() >= move_at
            if due and not stream.ended.done() and not self.over() and self._denied_s() is None:
                self._moving = False
                stream, moved = await self._succeed(stream)
                move_at = self._next_move() if moved else self._clock.monotonic() + self._backoff.failed()
        if self.over():  # the event may still be on its way, and somebody waits for its acknowledgement
            await asyncio.wait({stream.ended}, timeout=self._settings.patience_s)
        return await self._ended(stream)

    def _next_move(self) -> float:
        return self._clock.monotonic() + self._settings.move_after_s(self._chance())

    async def _succeed(self, old: WatchStream) -> tuple[WatchStream, bool]:
        """Arm a new stream, then end the old one. Nothing is dropped if the old one said all it had to say."""
        new = await self._open(planned=True)
        if not new.armed.done() or new.armed.cancelled():
            await self._close(new)
            return old, False
        if not await old.leave():
            self._events.rearmed()
        self._streams.discard(old)
        return new, True

    async def _ended(self, stream: WatchStream) -> StreamEnd:
        await self._close(stream)
        if stream.ended.cancelled():
            return StreamEnd(grpc.StatusCode.CANCELLED, "", "the watch was given up")
        return stream.ended.result()

    async def _close(self, stream: WatchStream) -> None:
        await stream.abandon()
        self._streams.discard(stream)

    def _pause_after(self, end: StreamEnd) -> float:
        if end.code is grpc.StatusCode.UNIMPLEMENTED:
            self._turn(WatchState.OFF)
            return self._backoff.unsupported_retry_s()
        pause_s = self._backoff.failed()
        asked_s = end.retry_after_s if end.reason != Reason.CIRCUIT_OPEN else None
        return max(pause_s, min(asked_s or 0.0, self._settings.longest_pause_s))

    async def _until(self, *tasks: asyncio.Future[Any], timeout_s: float | None = None) -> None:
        """Wait for a nudge, for one of the tasks, or for a time."""
        if not self._rung:
            self._waiter = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._waiter, *tasks}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        self._rung, self._waiter = False, None

    def _ring(self) -> None:
        self._rung = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _have_tried(self) -> None:
        if not self._tried.done():
            self._tried.set_result(None)

    # -- its effects

    def _fail_calls(self) -> int:
        refusal = self._peer.refusal
        return self._peer.cut(refusal) if refusal is not None else 0

    def _turn(self, state: WatchState) -> None:
        if state is not self._standing.state:
            self._standing = WatchStatus(state, self._clock.now_us())

    def _report(self, end: StreamEnd) -> None:
        """Log what keeps the watch from standing, once for each cause."""
        self._turn(WatchState.OFF if end.code is grpc.StatusCode.UNIMPLEMENTED else WatchState.CONNECTING)
        told = end.reason or end.code.name
        if told != self._told:
            self._told = told
            LOGGER.info("%s (user %s) is not watched: %s; it is tried again", self._peer.name, self._peer.user, end)
