"""The chain as standard gRPC client interceptors for threads, for `grpc.intercept_channel`.

The flows are the same as behind `SyncChannel`. The given channel limits them as in
`federation.client.aio.interceptors`: a probe has no fresh channel, an open circuit does not disconnect, and the own
certificate is not checked before dialling. An interceptor does not know whether it serves a blocking call or a future,
so a waiter of a shared call continues in a thread of its own when the shared call ends.

Put them innermost: the last argument of `grpc.intercept_channel` is next to the wire.
"""

import threading
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc

from federation.client.calls import FederationStreamInterceptor
from federation.client.chain.flow import Call, Outcome
from federation.client.chain.methods import method_in, new_call, remaining
from federation.client.chain.outcomes import from_error, timed_out
from federation.client.chain.runner import FlowRunner, Suspension
from federation.client.peers.peer import Peer
from federation.client.sync.call import FlowFuture
from federation.client.sync.drivers import FutureDriver, succeeded
from federation.client.transport.connections import PeerChannel
from federation.clock import Clock
from federation.wire.verbs import Verb

Continuation: TypeAlias = Callable[[Any, Any], Any]


def sync_interceptors(peer: Peer, *, clock: Clock, deadline_s: float, owner: object) -> list[Any]:
    """Return one interceptor an arity, for `grpc.intercept_channel(channel, *…)`."""
    return [SyncFederationUnaryInterceptor(peer, clock, deadline_s, owner), FederationStreamInterceptor(peer)]


class SyncFederationUnaryInterceptor(grpc.UnaryUnaryClientInterceptor):
    """Runs List, Get, Search and Capabilities through the chain."""

    def __init__(self, peer: Peer, clock: Clock, deadline_s: float, owner: object) -> None:
        self._peer, self._now, self._deadline_s, self._owner = peer, clock.monotonic, deadline_s, owner

    def intercept_unary_unary(self, continuation: Continuation, client_call_details: Any, request: Any) -> Any:
        """Start the flow, and return its call; gRPC waits for it if the caller blocks."""
        method = method_in(client_call_details)
        if method is None or method.streams:
            return continuation(client_call_details, request)
        timeout, metadata = client_call_details.timeout, client_call_details.metadata
        call = new_call(method, self._peer, request, timeout, metadata, now=self._now(), default_s=self._deadline_s)
        driver = _UnaryDriver(self._peer.channel, self._now, method, continuation, client_call_details)
        runner = FlowRunner(driver, self._peer.flow(call), self._owner)
        runner.start()
        self._peer.track(runner)
        return FlowFuture(runner, method, call, self._now)


class _UnaryDriver(FutureDriver):
    """Sends by the continuation, which blocks if the caller does."""

    def __init__(
        self, channel: PeerChannel, now: Callable[[], float], method: Verb, continuation: Continuation, details: Any
    ) -> None:
        super().__init__(channel, now)
        self._method, self._continuation, self._details = method, continuation, details

    def in_loop(self, function: Callable[[], object]) -> Callable[[], None]:
        """Have `function` called in a thread of its own, which may block: the calling thread may be a loop's."""
        return lambda: threading.Thread(target=function, name="mosaic-waiter", daemon=True).start()

    def send(self, runner: FlowRunner, suspension: Suspension, call: Call) -> Outcome | None:
        """Call the continuation, which may block."""
        left = remaining(self._now(), call.deadline)
        if left == 0.0:
            return timed_out()
        message = self._method.request.FromString(call.request)
        inner = self._continuation(self._details._replace(timeout=left, metadata=call.metadata), message)
        if inner.done():
            return _outcome(inner)
        suspension.on_claim(inner.cancel)
        inner.add_done_callback(lambda ended: self._came(runner, suspension, ended))
        return None

    def _came(self, runner: FlowRunner, suspension: Suspension, ended: Any) -> None:
        try:
            outcome = _outcome(ended)
        except Exception as e:  # noqa: BLE001 - a fault inside the given channel is thrown into the flow
            runner.fail(suspension, e)
        else:
            runner.answer(suspension, outcome)


def _outcome(ended: Any) -> Outcome:
    """Convert a finished call. Raises a fault inside the given channel that is no RPC error."""
    if ended.code() is grpc.StatusCode.OK:
        return succeeded(ended.result().SerializeToString(), ended)
    error = ended if isinstance(ended, grpc.RpcError) and not _broke(ended) else ended.exception()
    if not isinstance(error, grpc.RpcError):
        raise error
    return from_error(error)


def _broke(ended: Any) -> bool:
    return hasattr(ended, "_exception")  # gRPC's wrapper of an exception that was no RPC error
