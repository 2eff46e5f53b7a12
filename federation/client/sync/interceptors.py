"""The chain as standard gRPC client interceptors for threads, for `grpc.intercept_channel`.

The flows are the same as behind `SyncChannel`. The given channel limits them as in
`federation.client.aio.interceptors`: a probe has no fresh channel, an open circuit does not disconnect, and the own
certificate is not checked before dialling. An interceptor does not know whether it serves a blocking call or a future,
so a waiter of a shared call continues in a thread of its own when the shared call ends.

Put them innermost: the last argument of `grpc.intercept_channel` is next to the wire.
"""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import grpc

from federation.client.aio.call import refuse_watch
from federation.client.chain.flow import Call, Outcome
from federation.client.chain.methods import Method, as_metadata, changed_details, deadline_of, method_in, remaining
from federation.client.chain.outcomes import timed_out
from federation.client.chain.runner import FlowRunner, Suspension
from federation.client.peers.peer import Peer
from federation.client.sync.call import FlowFuture
from federation.client.sync.drivers import FutureDriver, Wire, failed, succeeded

Continuation: TypeAlias = Callable[[Any, Any], Any]


def sync_interceptors(
    peer: Peer, wire: Wire, *, deadline_s: float, owner: object
) -> "list[SyncFederationUnaryInterceptor | SyncFederationStreamInterceptor]":
    """Return one interceptor an arity, for `grpc.intercept_channel(channel, *…)`."""
    return [SyncFederationUnaryInterceptor(peer, wire, deadline_s, owner), SyncFederationStreamInterceptor(peer)]


class SyncFederationUnaryInterceptor(grpc.UnaryUnaryClientInterceptor):
    """Runs List, Get, Search and Capabilities through the chain."""

    def __init__(self, peer: Peer, wire: Wire, deadline_s: float, owner: object) -> None:
        self._peer, self._wire, self._deadline_s, self._owner = peer, wire, deadline_s, owner

    def intercept_unary_unary(self, continuation: Continuation, client_call_details: Any, request: Any) -> Any:
        """Start the flow, and return its call; gRPC waits for it if the caller blocks."""
        method = method_in(client_call_details)
        if method is None or method.streams:
            return continuation(client_call_details, request)
        deadline = deadline_of(self._wire.now(), client_call_details.timeout, self._deadline_s)
        call = method.call(self._peer, request, as_metadata(client_call_details.metadata), deadline)
        driver = _UnaryDriver(self._wire, method, continuation, client_call_details)
        runner = FlowRunner(driver, self._peer.flow(call), self._owner)
        runner.start()
        self._peer.track(runner)
        return FlowFuture(runner, method, self._peer.name, partial(_left, self._wire, deadline))


class SyncFederationStreamInterceptor(grpc.StreamStreamClientInterceptor):
    """Refuses `Watch` with UNIMPLEMENTED."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def intercept_stream_stream(
        self, continuation: Continuation, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Refuse a stream of the federation service; pass on any other."""
        if method_in(client_call_details) is not None:
            refuse_watch(self._peer.name)
        return continuation(client_call_details, request_iterator)


class _UnaryDriver(FutureDriver):
    """Sends by the continuation, which blocks if the caller does."""

    def __init__(self, wire: Wire, method: Method, continuation: Continuation, details: Any) -> None:
        super().__init__(wire)
        self._method, self._continuation, self._details = method, continuation, details

    def in_loop(self, function: Callable[[], object]) -> Callable[[], None]:
        """Have `function` called in a thread of its own, which may block: the calling thread may be a loop's."""
        return lambda: threading.Thread(target=function, name="mosaic-waiter", daemon=True).start()

    def send(self, runner: FlowRunner, suspension: Suspension, call: Call) -> Outcome | None:
        """Call the continuation, which may block."""
        left = _left(self._wire, call.deadline)
        if left == 0.0:
            return timed_out()
        message = self._method.request.FromString(call.request)
        inner = self._continuation(changed_details(self._details, left, call.metadata), message)
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
    return failed(error)


def _broke(ended: Any) -> bool:
    return hasattr(ended, "_exception")  # gRPC's wrapper of an exception that was no RPC error


def _left(wire: Wire, deadline: float) -> float | None:
    return remaining(wire.now(), deadline)
