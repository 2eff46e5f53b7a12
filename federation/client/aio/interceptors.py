"""The chain as standard `grpc.aio` client interceptors, for people who bring their own channel.

The flows are the same as behind `AioChannel`. What grpc's interceptor machinery, or a channel of somebody else, does
not allow, is different:

- Every call costs a task of grpc's, hits too, so `done()` is never true at birth, and right after `cancel()` it is not
  yet; `time_remaining()` raises `NotImplementedError`. The message is serialized once more for the wire.
- gRPC holds every intercepted call until it has ended, so one that the program drops runs on to its deadline.
- The chain can't dial. A probe goes out on the given channel, so gRPC's own backoff may delay the recovery of a peer;
  an open circuit does not keep an idle channel from redialling; a rotated certificate needs a new channel; the own
  certificate's expiry is not checked before dialling.
- A channel that is closed without grace cancels its calls: their tasks see `CancelledError`, not UNAVAILABLE.

Put them last, so that the wire gets what propagation writes. Calls of other services on the same channel pass
untouched. There is one class for each arity that the federation service has: unary, and bidirectional for `Watch`,
which is refused.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from grpc.aio import AioRpcError, ClientCallDetails, Metadata

from federation.client.aio.call import FlowCall, refuse_watch
from federation.client.aio.driver import AioDriver
from federation.client.chain.flow import Call, Outcome, refused
from federation.client.chain.methods import Method, as_metadata, changed_details, deadline_of, method_in, remaining
from federation.client.chain.outcomes import closed, from_wire, timed_out
from federation.client.chain.runner import FlowRunner, Step
from federation.client.peers.peer import Peer
from federation.clock import Clock
from federation.errors import Reason, Refusal

__all__ = ["FederationStreamInterceptor", "FederationUnaryInterceptor", "aio_interceptors"]

Continuation: TypeAlias = Callable[[Any, Any], Awaitable[Any]]


def aio_interceptors(peer: Peer, *, clock: Clock, deadline_s: float, owner: object) -> list[grpc.aio.ClientInterceptor]:
    """Return one interceptor an arity, for `grpc.aio.secure_channel(…, interceptors=…)`."""
    return [FederationUnaryInterceptor(peer, clock, deadline_s, owner), FederationStreamInterceptor(peer)]


class FederationUnaryInterceptor(grpc.aio.UnaryUnaryClientInterceptor):
    """Runs List, Get, Search and Capabilities through the chain."""

    def __init__(self, peer: Peer, clock: Clock, deadline_s: float, owner: object) -> None:
        self._peer, self._clock, self._deadline_s, self._owner = peer, clock, deadline_s, owner

    async def intercept_unary_unary(
        self, continuation: Continuation, client_call_details: ClientCallDetails, request: Any
    ) -> Any:
        """Start the flow, and return its call."""
        method = method_in(client_call_details)
        if method is None or method.streams:
            return await continuation(client_call_details, request)
        now = self._clock.monotonic
        deadline = deadline_of(now(), client_call_details.timeout, self._deadline_s)
        call = method.call(self._peer, request, as_metadata(client_call_details.metadata), deadline)
        base = AioDriver(asyncio.get_running_loop(), self._peer, self._clock)
        run = FlowRunner(
            _UnaryPort(base, method, continuation, client_call_details), self._peer.flow(call), self._owner
        )
        run.start()
        self._peer.track(run)
        return FlowCall(run, method, self._peer.name, lambda: remaining(now(), deadline))


class FederationStreamInterceptor(grpc.aio.StreamStreamClientInterceptor):
    """Refuses `Watch` with UNIMPLEMENTED."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def intercept_stream_stream(
        self, continuation: Continuation, client_call_details: ClientCallDetails, request_iterator: Any
    ) -> Any:
        """Refuse a stream of the federation service; pass on any other."""
        if method_in(client_call_details) is not None:
            refuse_watch(self._peer.name)
        return await continuation(client_call_details, request_iterator)


class _UnaryPort:
    """Sends by the continuation, in a task, because whatever else the channel has may await there."""

    def __init__(self, base: AioDriver, method: Method, continuation: Continuation, details: ClientCallDetails) -> None:
        self._base, self._method, self._continuation, self._details = base, method, continuation, details
        self.at_home, self.soon, self.timer = base.at_home, base.soon, base.timer

    def send(self, run: FlowRunner, step: Step, call: Call) -> Outcome | None:
        left = remaining(self._base.now(), call.deadline)
        if left == 0.0:
            return timed_out()
        task = self._base.loop.create_task(
            self._invoke(changed_details(self._details, left, Metadata(*call.metadata)), call.request)
        )
        step.on_claim(self._base.ending(task.cancel))
        task.add_done_callback(lambda ended: self._arrived(run, step, ended))
        return None

    async def _invoke(self, details: Any, body: bytes) -> Outcome:
        wire = await self._continuation(details, self._method.request.FromString(body))
        message = await wire
        initial, trailing = await wire.initial_metadata(), await wire.trailing_metadata()
        return from_wire(grpc.StatusCode.OK, message.SerializeToString(), "", initial or (), trailing or ())

    def _arrived(self, run: FlowRunner, step: Step, task: asyncio.Task[Outcome]) -> None:
        if task.cancelled():  # not by the run, which no longer listens then: the channel was closed
            run.answer(step, closed())
            return
        error = task.exception()
        match error:
            case None:
                run.answer(step, task.result())
            case AioRpcError():
                initial, trailing = error.initial_metadata() or (), error.trailing_metadata() or ()
                run.answer(step, from_wire(error.code(), b"", error.details() or "", initial, trailing))
            case grpc.aio.UsageError():
                run.answer(step, closed())
            case grpc.aio.BaseError():
                run.answer(step, refused(Refusal(Reason.INTERNAL, f"the request could not be sent: {error}")))
            case _:
                run.fail(step, error)
