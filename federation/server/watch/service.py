"""`Watch`: the stream on which a peer hears of revocations and changes, and says that it acted on them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from federation.clock import MICROSECONDS, SYSTEM_CLOCK, Clock
from federation.errors import Reason, Refusal
from federation.server.audit.trail import AuditTrail
from federation.server.call_stats import CallCounters
from federation.server.pipeline.authorization import authorize
from federation.server.pipeline.error_boundary import Context
from federation.server.pipeline.identity import CallerIdentity, caller_of
from federation.server.pipeline.service import GrantSource
from federation.server.watch.subscriptions import Event, EventType, SubscriptionRegistry, Watcher
from federation.store.grants.registry import Grant
from federation.telemetry.spans import OutcomeName, outcome_of_code
from federation.v1 import federation_pb2 as pb
from federation.verbs.validation import invalid
from federation.wire.metadata import is_instance

__all__ = ["MAX_STREAMS", "WatchService"]

BEAT_S: Final = 10.0
SILENT_BEATS: Final = 3
"""Beats without a word after which a peer counts as gone."""
MAX_STREAMS: Final = 1_024
"""Open streams of all grants together."""
MAX_PER_GRANT: Final = 64
MARGIN_S: Final = 0.01
_GONE: Final = (grpc.aio.InternalError, grpc.aio.UsageError, asyncio.InvalidStateError)
"""What gRPC raises where the call that a message is written to has just ended."""


class WatchService:
    """Serves `Watch`. A stream is refused and ended by the same rules as any call, looked at every beat.

    `withdrawing` tells whether a grant's revocation is under way: then its streams stay, and new ones are let in, to
    carry the event and the acknowledgement, until whoever revokes ends them.
    """

    def __init__(
        self,
        hub: SubscriptionRegistry,
        grants: GrantSource,
        audit: AuditTrail,
        *,
        withdrawing: Callable[[str], bool],
        clock: Clock = SYSTEM_CLOCK,
        heartbeat_interval_s: float = BEAT_S,
        counters: CallCounters | None = None,
    ) -> None:
        self._hub, self._grants, self._audit, self._clock = hub, grants, audit, clock
        self._withdrawing, self._beat_s = withdrawing, heartbeat_interval_s
        self._counters = counters or CallCounters(clock)
        self._streams: Counter[str] = Counter()
        self._closing = False

    async def serve(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Serve one stream, from its first message to its end. Raises `Refusal`."""
        with ExitStack() as held:
            with self._recorded(context):
                caller = caller_of(context.auth_context(), self._clock.now_us())
                held.enter_context(self._place(self._admit(caller)))
                await context.send_initial_metadata(())
                instance = await self._subscription(requests)
                # A revocation is over before both of these, and refuses here, or is told to the watcher.
                self._admit(caller)
                watcher = None if self._closing else self._hub.add(caller.grant_id, instance)
            if watcher is not None:
                self._grants.record_use(caller.grant_id, caller.serial)
                self._counters.ended("watch", OutcomeName.OK, grant_id=caller.grant_id)
                await self._attend(watcher, caller, requests, context)

    async def close(self) -> None:
        """End every stream, and let no other one arm."""
        self._closing = True
        self._hub.end_all()

    async def _attend(
        self, watcher: Watcher, caller: CallerIdentity, requests: AsyncIterator[bytes], context: Context
    ) -> None:
        heard = _LastHeartbeat(self._clock)
        reader = asyncio.create_task(_listen(watcher, requests, heard))
        writer = asyncio.create_task(_send_events(watcher, context, self._beat_s))
        try:
            while not await _first_done(reader, writer, watcher.ended, timeout_s=self._patience_s(caller)):
                self._check(watcher, caller, heard, context)
            if reader.done() and not watcher.ended.done():
                await self._say_the_rest(watcher, writer)
        finally:
            self._hub.remove(watcher)
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)
        if watcher.ended.done() and (refusal := watcher.ended.result()) is not None:
            raise refusal
        self._authorized(caller)

    async def _say_the_rest(self, watcher: Watcher, writer: asyncio.Task[None]) -> None:
        """Write what waits for a peer that has closed its side: it relies on having missed nothing by then."""
        self._hub.remove(watcher)
        watcher.close()
        await asyncio.wait({writer}, timeout=self._beat_s)
        if not writer.done():
            watcher.end(Refusal(Reason.RATE_LIMITED, "the watch fell behind; arm it again", retry_after_s=1.0))

    async def _subscription(self, requests: AsyncIterator[bytes]) -> str:
        try:
            async with asyncio.timeout(SILENT_BEATS * self._beat_s):
                request = _decode(await anext(requests))
        except (TimeoutError, StopAsyncIteration):
            raise invalid("subscribe", "must be the first message") from None
        if request.WhichOneof("kind") != "subscribe":
            raise invalid("subscribe", "must be the first message")
        if not is_instance(request.subscribe.instance_id):
            raise invalid("subscribe.instance_id", "must be 32 lower-case hexadecimal digits")
        return request.subscribe.instance_id

    def _check(self, watcher: Watcher, caller: CallerIdentity, heard: "_LastHeartbeat", context: Context) -> None:
        """Raise `Refusal` where the stream may not go on."""
        caller_of(context.auth_context(), self._clock.now_us())
        if heard.ago_s > SILENT_BEATS * self._beat_s:
            watcher.end(invalid("heartbeat", f"none for {heard.ago_s:.0f} s; arm the watch again"))
            return
        self._admit(caller)

    def _admit(self, caller: CallerIdentity) -> Grant:
        """Return the caller's grant; one that is being revoked may be watched, for somebody awaits the ack."""
        try:
            return self._authorized(caller)
        except Refusal as refusal:
            grant = self._grants.get(caller.grant_id)
            if grant is None or refusal.reason is not Reason.GRANT_REVOKED or not self._withdrawing(grant.id):
                raise
            return grant

    def _authorized(self, caller: CallerIdentity) -> Grant:
        return authorize(self._grants.get(caller.grant_id), caller, self._clock.now_us())

    def _patience_s(self, caller: CallerIdentity) -> float:
        """Return how long to wait before the next look: a beat, or until the certificate or the grant ends."""
        grant, end_us = self._grants.get(caller.grant_id), caller.not_after_us
        if grant is not None and grant.expires_at_us is not None:
            end_us = min(end_us, grant.expires_at_us)
        left_s = (end_us - self._clock.now_us()) / MICROSECONDS
        return max(0.0, min(self._beat_s, left_s)) + MARGIN_S

    @contextmanager
    def _place(self, grant: Grant) -> Iterator[None]:
        if self._streams[grant.id] >= MAX_PER_GRANT or self._streams.total() >= MAX_STREAMS:
            raise Refusal(
                Reason.RATE_LIMITED, "too many watches are open", retry_after_s=self._beat_s, detail="watches"
            )
        self._streams[grant.id] += 1
        try:
            yield
        finally:
            self._streams[grant.id] -= 1
            if not self._streams[grant.id]:
                del self._streams[grant.id]

    @contextmanager
    def _recorded(self, context: Context) -> Iterator[None]:
        """Put a watch that is not let in on record."""
        try:
            yield
        except Refusal as refusal:
            caller = _named(context, self._clock.now_us())
            grant = self._grants.get(caller.grant_id) if caller else None
            grant_id, word = grant.id if grant else None, outcome_of_code(refusal.code)
            reason = ": ".join(filter(None, (refusal.reason.value, refusal.detail)))
            self._counters.ended("watch", word, grant_id=grant_id, reason=reason)
            self._audit.record_act(
                "watch",
                word.value,
                grant_id=grant_id,
                peer=grant.peer if grant else "",
                subject=caller.subject if caller else "",
                reason=reason,
                source=context.peer(),
            )
            raise


class _LastHeartbeat:
    """When a peer was heard last."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.now()

    def now(self) -> None:
        """Note that it was heard."""
        self._at = self._clock.monotonic()

    @property
    def ago_s(self) -> float:
        """Seconds since then."""
        return self._clock.monotonic() - self._at


def _named(context: Context, now_us: int) -> CallerIdentity | None:
    try:
        return caller_of(context.auth_context(), now_us)
    except Refusal:
        return None


async def _first_done(*waits: asyncio.Future[Any], timeout_s: float) -> bool:
    """Wait until one of them is done, and raise what it raised; false where none was in time."""
    done, _ = await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for one in done:
        one.result()
    return bool(done)


async def _listen(watcher: Watcher, requests: AsyncIterator[bytes], heard: _LastHeartbeat) -> None:
    async for raw in requests:
        request = _decode(raw)
        heard.now()
        match request.WhichOneof("kind"):
            case "ack":
                watcher.acked(request.ack.event_id, request.ack.failed_in_flight)
            case "heartbeat":
                pass
            case _:
                raise invalid("request", "must be an ack or a heartbeat")


async def _send_events(watcher: Watcher, context: Context, heartbeat_interval_s: float) -> None:
    try:
        await context.write(_armed(watcher))
        while True:
            try:
                async with asyncio.timeout(heartbeat_interval_s):
                    event = await watcher.next()
            except TimeoutError:
                await context.write(_heartbeat(watcher))
            else:
                if event is None:
                    return
                await context.write(_message(watcher, event))
    except _GONE:
        return


def _decode(raw: bytes) -> pb.WatchRequest:
    try:
        return pb.WatchRequest.FromString(raw)
    except DecodeError:
        raise invalid("request", "not a WatchRequest") from None


def _armed(watcher: Watcher) -> bytes:
    return pb.WatchResponse(event_id=watcher.number(), armed=pb.WatchArmed()).SerializeToString()


def _heartbeat(watcher: Watcher) -> bytes:
    return pb.WatchResponse(event_id=watcher.number(), heartbeat=pb.WatchHeartbeat()).SerializeToString()


def _message(watcher: Watcher, event: Event) -> bytes:
    message = pb.WatchResponse(event_id=watcher.number(event))
    match event.word:
        case EventType.GRANT_REVOKED:
            message.grant_revoked.reason = event.text
        case EventType.GRANT_CHANGED:
            message.grant_changed.SetInParent()
        case EventType.RESOURCE_CHANGED:
            message.resource_changed.resource = event.text
    return message.SerializeToString()
