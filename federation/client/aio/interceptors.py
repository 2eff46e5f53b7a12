"""The chain as standard `grpc.aio` client interceptors, for channels that the caller opens.

The flows are the same as behind `AioChannel`. Because of gRPC's interceptor machinery and of the given channel, some
things differ:

- Every call, also a hit, costs a task of gRPC's, so `done()` is never true at once, also right after `cancel()`;
  `time_remaining()` raises `NotImplementedError`. The message is serialized once more for the wire.
- gRPC references every intercepted call until it has ended, so a call that the program drops runs until its deadline.
- The chain cannot dial. A probe uses the given channel, so gRPC's own backoff may delay the recovery of a peer; an
  open circuit does not keep an idle channel from redialling; a rotated certificate needs a new channel; the own
  certificate's expiry is not checked before dialling.
- A channel that is closed without grace cancels its calls: their tasks see `CancelledError`, not UNAVAILABLE.

Put them last, so that the wire gets the metadata of propagation. Calls of other services on the same channel pass
unchanged. There is one class for each arity of the federation service: unary, and bidirectional for `Watch`, which
is refused.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from grpc.aio import AioRpcError, ClientCallDetails, Metadata

from federation.client.aio.call import FlowCall
from federation.client.aio.driver import AioDriver
from federation.client.calls import FederationStreamInterceptor
from federation.client.chain.flow import Call, Outcome, refused
from federation.client.chain.methods import method_in, new_call, remaining
from federation.client.chain.outcomes import closed, from_error, from_wire, timed_out
from federation.client.chain.runner import FlowRunner, Suspension
from federation.client.peers.peer import Peer
from federation.clock import Clock
from federation.errors import Reason, Refusal
from federation.wire.verbs import Verb

Continuation: TypeAlias = Callable[[Any, Any], Awaitable[Any]]


def aio_interceptors(peer: Peer, *, clock: Clock, deadline_s: float, owner: object) -> list[grpc.aio.ClientInterceptor]:
    """Return one interceptor an arity, for `grpc.aio.secure_channel(…, interceptors=…)`."""
    return [FederationUnaryInterceptor(peer, clock, deadline_s, owner), FederationStreamInterceptor(peer)]


class FederationUnaryInterceptor(grpc.aio.UnaryUnaryClientInterceptor):
    """Runs List, Get, Search and Capabilities through the chain."""

    def __init__(self, peer: Peer, clock: Clock, deadline_s: float, owner: object) -> None:
        self._peer, self._clock, self._deadline_s, self._owner = peer, clock, deadline_s, owner
        self._now = clock.monotonic

    async def intercept_unary_unary(
        self, continuation: Continuation, client_call_details: ClientCallDetails, request: Any
    ) -> Any:
        """Start the flow, and return its call."""
        method = method_in(client_call_details)
        if method is None or method.streams:
            return await continuation(client_call_details, request)
        timeout, metadata = client_call_details.timeout, client_call_details.metadata
        call = new_call(method, self._peer, request, timeout, metadata, now=self._now(), default_s=self._deadline_s)
        base = AioDriver(asyncio.get_running_loop(), self._peer, self._clock)
        runner = FlowRunner(
            _UnaryDriver(base, method, continuation, client_call_details), self._peer.flow(call), self._owner
        )
        runner.start()
        self._peer.track(runner)
        return FlowCall(runner, method, call, self._now)


class _UnaryDriver:
    """Sends by the continuation, in a task, because the channel's other interceptors may await."""

    def __init__(self, base: AioDriver, method: Verb, continuation: Continuation, details: Any) -> None:
        self._base, self._method, self._continuation, self._details = base, method, continuation, details
        self.in_loop, self.call_soon, self.timer = base.in_loop, base.call_soon, base.timer

    def send(self, runner: FlowRunner, suspension: Suspension, call: Call) -> Outcome | None:
        left = remaining(self._base.now(), call.deadline)
        if left == 0.0:
            return timed_out()
        details = self._details._replace(timeout=left, metadata=Metadata(*call.metadata))
        task = self._base.loop.create_task(self._invoke(details, call.request))
        suspension.on_claim(self._base.ending(task.cancel))
        task.add_done_callback(lambda ended: self._arrived(runner, suspension, ended))
        return None

    async def _invoke(self, details: Any, body: bytes) -> Outcome:
        wire = await self._continuation(details, self._method.request.FromString(body))
        message = await wire
        initial, trailing = await wire.initial_metadata(), await wire.trailing_metadata()
        return from_wire(grpc.StatusCode.OK, message.SerializeToString(), "", initial or (), trailing or ())

    def _arrived(self, runner: FlowRunner, suspension: Suspension, task: asyncio.Task[Outcome]) -> None:
        if task.cancelled():  # not by the runner, whose suspension is claimed then: the channel was closed
            runner.answer(suspension, closed())
            return
        error = task.exception()
        match error:
            case None:
                runner.answer(suspension, task.result())
            case AioRpcError():
                runner.answer(suspension, from_error(error))
            case grpc.aio.UsageError():
                runner.answer(suspension, closed())
            case grpc.aio.BaseError():
                runner.answer(suspension, refused(Refusal(Reason.INTERNAL, f"the request could not be sent: {error}")))
            case _:
                runner.fail(suspension, error)
