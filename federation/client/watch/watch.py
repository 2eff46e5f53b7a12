"""The watch of one peer: keeps one stream armed, replaces it before it is too old, and redials a lost one."""

import asyncio
import logging
import random
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

import grpc

from federation.aio import cancel_and_wait
from federation.client.peers.peer import Peer
from federation.client.peers.watch_handle import WatchState, WatchStatus
from federation.client.watch.events import EVENT_KINDS, EventHandler
from federation.client.watch.policy import EventRate, RedialBackoff, WatchSettings
from federation.client.watch.stream import StreamEnd, WatchStream
from federation.clock import Clock
from federation.errors import Reason
from federation.v1 import federation_pb2 as pb

LOGGER: Final = logging.getLogger(__name__)


class PeerWatch:
    """The watch of a peer, on the background loop of the runtime.

    The loss of the stream flushes nothing: the leases bound how long an entry is served. Each arming after a gap
    flushes once. `start`, `wake`, `move` and `cancel` may be called from any thread: `post` calls a function on the
    loop. `gate` limits how many watches dial at the same time.
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
        on_event: Callable[[str], None] = lambda _: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._peer, self._clock, self._settings, self._instance_id = peer, clock, settings, instance_id
        self._post, self._gate = post, gate
        self._on_event, self._chance = on_event, chance
        self._rate = EventRate(settings.max_events_per_s)
        self._events = EventHandler(
            peer.grant_id, peer.cache, revoke=peer.on_revoked, fail=self._fail_calls, rate=self._rate
        )
        self._backoff = RedialBackoff(settings, chance)
        self._status = WatchStatus(WatchState.OFF, clock.now_us())
        self._task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._woken = self._moving = False
        self._pending_acks = False
        """Whether the peer may await the ack of a revocation: it was watched, and the event has not arrived."""
        self._last_reported = ""
        self._first_attempt: Future[None] = Future()
        self._streams: set[WatchStream] = set()

    @property
    def status(self) -> WatchStatus:
        """The state of the watch, and since when."""
        return self._status

    @property
    def running(self) -> bool:
        """Whether the watch has started and not ended."""
        return self._task is not None

    async def first_attempt_done(self, timeout_s: float) -> bool:
        """Wait until the watch is armed or its first attempt has failed; tell whether it is armed. Any loop."""
        if not self._is_revoked():
            await asyncio.wait({asyncio.wrap_future(self._first_attempt)}, timeout=timeout_s)
        return self._status.state is WatchState.ARMED

    def start(self) -> None:
        """Keep a stream armed from now on; do nothing if the watch runs already or the grant was revoked."""
        self._post(self._launch)

    async def stop(self) -> None:
        """Cancel the stream and wait until it has ended. Call this on the loop."""
        if self._task is not None:
            await cancel_and_wait(self._task)

    def cancel(self) -> None:
        """Cancel the stream, from any thread."""
        self._post(self._cancel)

    def abandon_after_fork(self) -> None:
        """Drop the stream without touching it, in a forked child."""
        self._post = lambda _: None
        self._task = self._waiter = None
        self._status = WatchStatus(WatchState.OFF, self._clock.now_us())
        self._streams = set()

    def wake(self) -> None:
        """Check again whether to dial: the circuit has changed, or the grant was revoked."""
        self._post(self._wake)

    def move(self) -> None:
        """Replace the armed stream by a new one: the credentials have changed."""
        self._moving = True
        self.wake()

    # -- messages of a stream

    def _on_armed(self, *, planned: bool) -> None:
        """Flush the cache, unless another stream was armed all the time: the replacement of a stream is planned."""
        self._pending_acks = True
        if not planned:
            self._events.on_rearmed()
            self._transition(WatchState.ARMED)
            self._last_reported = ""
            self._set_first_attempt_done()

    def _on_message(self, event: pb.WatchResponse) -> pb.WatchAck | None:
        kind = event.WhichOneof("kind")
        self._peer.health.record_contact()
        if kind in EVENT_KINDS:
            self._on_event(kind)
        if kind == "grant_revoked":
            self._pending_acks = False
        return self._events.handle(event, self._clock.monotonic())

    def _is_revoked(self) -> bool:
        return self._peer.revocation is not None

    # -- the task

    def _launch(self) -> None:
        if self._task is None and not self._is_revoked():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="watch")
            self._task.add_done_callback(self._on_done)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        self._transition(WatchState.OFF)
        self._set_first_attempt_done()
        if not task.cancelled() and (error := task.exception()) is not None:
            LOGGER.error("the watch of %s failed", self._peer.name, exc_info=error)

    async def _run(self) -> None:
        try:
            while not self._is_revoked():
                await self._wait_for_circuit()
                pause_s = await self._watch_once()
                if not self._is_revoked():
                    await self._wait(timeout_s=pause_s)
            await self._finish()
        finally:
            for stream in self._streams.copy():
                await self._close(stream)

    async def _finish(self) -> None:
        """Arm once more if a call reported the revocation and the stream was lost before the event arrived on it.

        The peer admits such a stream while it awaits the acknowledgement; without one it would wait for the end of the
        lease.
        """
        deadline = self._clock.monotonic() + self._settings.silence_timeout_s
        while self._pending_acks and self._clock.monotonic() < deadline and self._denied_s() is None:
            await self._wait(timeout_s=await self._watch_once())

    async def _watch_once(self) -> float:
        """Arm a stream and serve it until it is lost; return how long to pause."""
        self._transition(WatchState.CONNECTING)
        stream = await self._open(planned=False)
        if stream.armed.done() and not stream.armed.cancelled():
            armed_at = self._clock.monotonic()
            last = await self._hold(stream)
            self._events.on_lost()
            pause_s = self._backoff.after_stream(self._clock.monotonic() - armed_at)
        else:
            last = await self._ended(stream)
            pause_s = self._pause_after(last)
        self._pending_acks = self._pending_acks and last.reason != Reason.GRANT_REVOKED
        self._report(last)
        self._set_first_attempt_done()
        return pause_s

    async def _wait_for_circuit(self) -> None:
        """Wait while the circuit is not closed."""
        while not self._is_revoked() and (retry_s := self._denied_s()) is not None:
            self._transition(WatchState.OFF)
            self._set_first_attempt_done()
            await self._wait(timeout_s=min(retry_s, self._settings.circuit_poll_s))

    def _denied_s(self) -> float | None:
        denied = self._peer.circuit.check(self._clock.monotonic())
        return None if denied is None else denied.retry_after_s

    async def _open(self, *, planned: bool) -> WatchStream:
        """Dial, and return the stream once it is armed or has ended."""
        async with self._gate:
            stream = WatchStream(
                self._peer,
                self._clock,
                self._settings,
                instance_id=self._instance_id(),
                on_armed=partial(self._on_armed, planned=planned),
                on_message=self._on_message,
                pause_s=lambda: self._rate.pause_s if self._rate.flooded else 0.0,
            )
            self._streams.add(stream)
            while not (stream.armed.done() or stream.ended.done()):
                await self._wait(stream.armed, stream.ended)
                if self._denied_s() is not None and not stream.armed.done():
                    await self._close(stream)
        return stream

    async def _hold(self, stream: WatchStream) -> StreamEnd:
        """Stay armed, replacing streams, until the armed one is lost; return how that ended."""
        move_at = self._next_move()
        while not stream.ended.done() and not self._is_revoked():
            await self._wait(stream.ended, timeout_s=max(0.0, move_at - self._clock.monotonic()))
            due = self._moving or self._clock.monotonic() >= move_at
            if due and not stream.ended.done() and not self._is_revoked() and self._denied_s() is None:
                self._moving = False
                stream, moved = await self._replace(stream)
                move_at = self._next_move() if moved else self._clock.monotonic() + self._backoff.after_failure()
        if self._is_revoked():  # the event may still arrive, and the peer awaits its acknowledgement
            await asyncio.wait({stream.ended}, timeout=self._settings.silence_timeout_s)
        return await self._ended(stream)

    def _next_move(self) -> float:
        return self._clock.monotonic() + self._settings.move_after_s(self._chance())

    async def _replace(self, old: WatchStream) -> tuple[WatchStream, bool]:
        """Arm a new stream, then close the old one. Flushes the cache if the old one did not end cleanly."""
        new = await self._open(planned=True)
        if not new.armed.done() or new.armed.cancelled():
            await self._close(new)
            return old, False
        if not await old.close():
            self._events.on_rearmed()
        self._streams.discard(old)
        return new, True

    async def _ended(self, stream: WatchStream) -> StreamEnd:
        await self._close(stream)
        if stream.ended.cancelled():
            return StreamEnd(grpc.StatusCode.CANCELLED, "", "the watch was cancelled")
        return stream.ended.result()

    async def _close(self, stream: WatchStream) -> None:
        await stream.cancel()
        self._streams.discard(stream)

    def _pause_after(self, end: StreamEnd) -> float:
        if end.code is grpc.StatusCode.UNIMPLEMENTED:
            self._transition(WatchState.OFF)
            return self._backoff.after_unsupported()
        pause_s = self._backoff.after_failure()
        retry_s = end.retry_after_s if end.reason != Reason.CIRCUIT_OPEN else None
        return max(pause_s, min(retry_s or 0.0, self._settings.max_pause_s))

    async def _wait(self, *tasks: asyncio.Future[Any], timeout_s: float | None = None) -> None:
        """Wait for `wake`, for one of the tasks, or for a time."""
        if not self._woken:
            self._waiter = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._waiter, *tasks}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        self._woken, self._waiter = False, None

    def _wake(self) -> None:
        self._woken = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _set_first_attempt_done(self) -> None:
        if not self._first_attempt.done():
            self._first_attempt.set_result(None)

    # -- effects

    def _fail_calls(self) -> int:
        refusal = self._peer.refusal
        return self._peer.fail_calls(refusal) if refusal is not None else 0

    def _transition(self, state: WatchState) -> None:
        if state is not self._status.state:
            self._status = WatchStatus(state, self._clock.now_us())

    def _report(self, end: StreamEnd) -> None:
        """Log why the watch is not armed, once for each cause."""
        self._transition(WatchState.OFF if end.code is grpc.StatusCode.UNIMPLEMENTED else WatchState.CONNECTING)
        reported = end.reason or end.code.name
        if reported != self._last_reported:
            self._last_reported = reported
            LOGGER.info("%s (user %s) is not watched: %s; this is retried", self._peer.name, self._peer.user, end)
