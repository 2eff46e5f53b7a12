"""The watch service: streams on which peers receive revocations and changes, and acknowledge them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from federation.clock import MICROSECONDS, Clock
from federation.errors import Reason, Refusal
from federation.server.audit.trail import AuditTrail
from federation.server.call_stats import CallCounters
from federation.server.pipeline.authorization import authorize
from federation.server.pipeline.error_boundary import Context
from federation.server.pipeline.identity import CallerIdentity, caller_of
from federation.server.watch.subscriptions import Event, EventType, SubscriptionRegistry, Watcher, too_slow
from federation.store.grants.model import Grant
from federation.store.grants.registry import GrantRegistry
from federation.telemetry.spans import OutcomeName, outcome_of_code
from federation.v1 import federation_pb2 as pb
from federation.verbs.validation import invalid
from federation.wire.metadata import is_instance

HEARTBEAT_INTERVAL_S: Final = 10.0
MAX_MISSED_HEARTBEATS: Final = 3
"""Heartbeat intervals without a message after which a watch is closed."""
MAX_STREAMS: Final = 1_024
"""Open streams of all grants together."""
MAX_PER_GRANT: Final = 64
MARGIN_S: Final = 0.01
_CALL_ENDED: Final = (grpc.aio.InternalError, grpc.aio.UsageError, asyncio.InvalidStateError)
"""The errors of gRPC for a write to a call that has just ended."""


class WatchService:
    """Serves `Watch`. The rules of calls apply to a stream, and are checked again at each heartbeat interval.

    `is_revoking` tells whether a grant is being revoked: then its streams stay open, and new ones are admitted, to
    carry the event and the acknowledgement, until the revocation closes them.
    """

    def __init__(
        self,
        subscriptions: SubscriptionRegistry,
        grants: GrantRegistry,
        audit: AuditTrail,
        *,
        is_revoking: Callable[[str], bool],
        clock: Clock,
        heartbeat_interval_s: float,
        counters: CallCounters,
    ) -> None:
        self._subscriptions, self._grants, self._audit, self._clock = subscriptions, grants, audit, clock
        self._is_revoking, self._heartbeat_interval_s = is_revoking, heartbeat_interval_s
        self._counters = counters
        self._streams: Counter[str] = Counter()
        self._closing = False

    async def serve(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Serve one stream, from its first message to its end. Raises `Refusal`."""
        with ExitStack() as held:
            caller = None
            try:
                caller = caller_of(context.auth_context(), self._clock.now_us())
                held.enter_context(self._stream_slot(self._admit(caller)))
                await context.send_initial_metadata(())
                instance = await self._read_subscribe(requests)
                # No `await` between these two: an earlier revocation refuses here, a later one reaches the watcher.
                self._admit(caller)
                watcher = None if self._closing else self._subscriptions.add(caller.grant_id, instance)
            except Refusal as refusal:
                self._record_refusal(refusal, caller, context.peer())
                raise
            if watcher is not None:
                self._grants.record_use(caller.grant_id, caller.serial)
                self._counters.record("watch", OutcomeName.OK, grant_id=caller.grant_id)
                await self._run_stream(watcher, caller, requests, context)

    async def close(self) -> None:
        """Close every stream, and arm no further one."""
        self._closing = True
        self._subscriptions.close_all()

    async def _run_stream(
        self, watcher: Watcher, caller: CallerIdentity, requests: AsyncIterator[bytes], context: Context
    ) -> None:
        watcher.last_message_at = self._clock.monotonic()
        reader = asyncio.create_task(self._read_messages(watcher, requests))
        writer = asyncio.create_task(_send_events(watcher, context, self._heartbeat_interval_s))
        try:
            while not await _first_done(reader, writer, watcher.ended, timeout_s=self._check_interval_s(caller)):
                self._check(watcher, caller, context)
            if reader.done() and not watcher.ended.done():
                await self._drain(watcher, writer)
        finally:
            self._subscriptions.remove(watcher)
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)
        if watcher.ended.done() and (refusal := watcher.ended.result()) is not None:
            raise refusal
        self._authorized(caller)

    async def _drain(self, watcher: Watcher, writer: asyncio.Task[None]) -> None:
        """Write the queued events for a peer that half-closed its stream: it relies on missing none."""
        self._subscriptions.remove(watcher)
        watcher.drain()
        await asyncio.wait({writer}, timeout=self._heartbeat_interval_s)
        if not writer.done():
            watcher.close(too_slow())

    async def _read_subscribe(self, requests: AsyncIterator[bytes]) -> str:
        try:
            async with asyncio.timeout(MAX_MISSED_HEARTBEATS * self._heartbeat_interval_s):
                request = _decode(await anext(requests))
        except (TimeoutError, StopAsyncIteration):
            raise invalid("subscribe", "must be the first message") from None
        if request.WhichOneof("kind") != "subscribe":
            raise invalid("subscribe", "must be the first message")
        if not is_instance(request.subscribe.instance_id):
            raise invalid("subscribe.instance_id", "must be 32 lower-case hexadecimal digits")
        return request.subscribe.instance_id

    def _check(self, watcher: Watcher, caller: CallerIdentity, context: Context) -> None:
        """Raise `Refusal` if the stream must end; close it if heartbeats are missing."""
        caller_of(context.auth_context(), self._clock.now_us())
        silent_s = self._clock.monotonic() - watcher.last_message_at
        if silent_s > MAX_MISSED_HEARTBEATS * self._heartbeat_interval_s:
            watcher.close(invalid("heartbeat", f"none for {silent_s:.0f} s; open a new watch"))
            return
        self._admit(caller)

    def _admit(self, caller: CallerIdentity) -> Grant:
        """Return the caller's grant.

        A grant that is being revoked may still be watched: its revocation waits for the ack.
        """
        try:
            return self._authorized(caller)
        except Refusal as refusal:
            grant = self._grants.get(caller.grant_id)
            if grant is None or refusal.reason is not Reason.GRANT_REVOKED or not self._is_revoking(grant.id):
                raise
            return grant

    def _authorized(self, caller: CallerIdentity) -> Grant:
        return authorize(self._grants.get(caller.grant_id), caller, self._clock.now_us())

    def _check_interval_s(self, caller: CallerIdentity) -> float:
        """Return the time to the next check: a heartbeat interval, or less if certificate or grant end earlier."""
        grant, end_us = self._grants.get(caller.grant_id), caller.not_after_us
        if grant is not None and grant.expires_at_us is not None:
            end_us = min(end_us, grant.expires_at_us)
        left_s = (end_us - self._clock.now_us()) / MICROSECONDS
        return max(0.0, min(self._heartbeat_interval_s, left_s)) + MARGIN_S

    @contextmanager
    def _stream_slot(self, grant: Grant) -> Iterator[None]:
        if self._streams[grant.id] >= MAX_PER_GRANT or self._streams.total() >= MAX_STREAMS:
            raise Refusal(
                Reason.RATE_LIMITED,
                "too many watches are open",
                retry_after_s=self._heartbeat_interval_s,
                detail="watches",
            )
        self._streams[grant.id] += 1
        try:
            yield
        finally:
            self._streams[grant.id] -= 1
            if not self._streams[grant.id]:
                del self._streams[grant.id]

    def _record_refusal(self, refusal: Refusal, caller: CallerIdentity | None, source: str) -> None:
        """Record a watch that is refused before it is armed in the audit trail and the counters."""
        grant = self._grants.get(caller.grant_id) if caller else None
        grant_id, outcome = grant.id if grant else None, outcome_of_code(refusal.code)
        reason = ": ".join(filter(None, (refusal.reason.value, refusal.detail)))
        self._counters.record("watch", outcome, grant_id=grant_id, reason=reason)
        self._audit.record_act(
            "watch",
            outcome.value,
            grant_id=grant_id,
            peer=grant.peer if grant else "",
            subject=caller.subject if caller else "",
            reason=reason,
            source=source,
        )

    async def _read_messages(self, watcher: Watcher, requests: AsyncIterator[bytes]) -> None:
        async for raw in requests:
            request = _decode(raw)
            watcher.last_message_at = self._clock.monotonic()
            match request.WhichOneof("kind"):
                case "ack":
                    watcher.ack(request.ack.event_id, request.ack.failed_in_flight)
                case "heartbeat":
                    pass
                case _:
                    raise invalid("request", "must be an ack or a heartbeat")


async def _first_done(*waits: asyncio.Future[Any], timeout_s: float) -> bool:
    """Wait until a future is done, and raise its exception; return false on timeout."""
    done, _ = await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for one in done:
        one.result()
    return bool(done)


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
    except _CALL_ENDED:
        return


def _decode(raw: bytes) -> pb.WatchRequest:
    try:
        return pb.WatchRequest.FromString(raw)
    except DecodeError:
        raise invalid("request", "not a WatchRequest") from None


def _armed(watcher: Watcher) -> bytes:
    return pb.WatchResponse(event_id=watcher.next_event_id(), armed=pb.WatchArmed()).SerializeToString()


def _heartbeat(watcher: Watcher) -> bytes:
    return pb.WatchResponse(event_id=watcher.next_event_id(), heartbeat=pb.WatchHeartbeat()).SerializeToString()


def _message(watcher: Watcher, event: Event) -> bytes:
    message = pb.WatchResponse(event_id=watcher.next_event_id(event))
    match event.event_type:
        case EventType.GRANT_REVOKED:
            message.grant_revoked.reason = event.text
        case EventType.GRANT_CHANGED:
            message.grant_changed.SetInParent()
        case EventType.RESOURCE_CHANGED:
            message.resource_changed.resource = event.text
    return message.SerializeToString()
