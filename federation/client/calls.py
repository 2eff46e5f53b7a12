"""The common part of the asyncio and the sync API: call objects, channels and the refusal of `Watch`."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.message import DecodeError
from grpc.aio import AioRpcError, Metadata

from federation.client.chain.flow import Call, Cancelled, Flow, Outcome
from federation.client.chain.methods import method_in, method_of, new_call, remaining
from federation.client.chain.outcomes import LOCALLY_CANCELLED, closed, undecodable
from federation.client.chain.runner import FlowRunner
from federation.client.interceptors.tagging import tags
from federation.client.peers.peer import Peer
from federation.wire.verbs import Verb

_UNSET: Final = object()


def final_outcome(runner: FlowRunner, peer: str) -> Outcome:
    """Return the outcome of a finished runner, also of a cancelled or broken one."""
    if runner.outcome is not None:
        return runner.outcome
    trailing = tags(peer, cached=False)
    if isinstance(runner.error, Cancelled):
        return Outcome(grpc.StatusCode.CANCELLED, details=LOCALLY_CANCELLED, trailing=trailing)
    return Outcome(grpc.StatusCode.UNKNOWN, details=f"the chain broke: {runner.error!r}", trailing=trailing)


def rpc_error(outcome: Outcome) -> AioRpcError:
    """Build the exception of a failed aio call."""
    initial, trailing = Metadata(*outcome.initial), Metadata(*outcome.trailing)
    return AioRpcError(outcome.code, initial, trailing, details=outcome.details, debug_error_string=outcome.details)


def refuse_watch(peer: str, *_: Any, **__: Any) -> NoReturn:
    """Raise the UNIMPLEMENTED error of a `Watch` call through the chain; `peer` is the peer's name."""
    text = "Watch cannot be called through the federation's channels and interceptors: it watches each peer by itself"
    raise rpc_error(Outcome(grpc.StatusCode.UNIMPLEMENTED, details=text, trailing=tags(peer, cached=False)))


class BaseCall:
    """A unary call that a runner drives. A call object that is garbage-collected cancels its call."""

    def __init__(self, runner: FlowRunner, method: Verb, call: Call, now: Callable[[], float]) -> None:
        super().__init__()
        self._runner, self._method, self._now = runner, method, now
        self._peer, self._deadline = call.peer, call.deadline
        self._message: Any = _UNSET

    def __del__(self) -> None:
        runner: FlowRunner | None = getattr(self, "_runner", None)
        if runner is not None:
            runner.cancel_soon()

    def done(self) -> bool:
        """Whether the call has ended."""
        return self._runner.done

    def cancelled(self) -> bool:
        """Whether the call was cancelled on this side."""
        return self._runner.done and isinstance(self._runner.error, Cancelled)

    def cancel(self) -> bool:
        """Cancel the call, at the peer as well; `False` if it has ended."""
        return self._runner.cancel()

    def time_remaining(self) -> float | None:
        """Return the seconds left until the deadline, `None` without one."""
        return remaining(self._now(), self._deadline)

    def _final(self) -> Outcome:
        return final_outcome(self._runner, self._peer)

    def _answer(self) -> Any:
        """Return the message of a call that has ended, or raise its error."""
        if self._message is _UNSET:
            self._message = self._decoded()
        return self._message

    def _decoded(self) -> Any:
        outcome = self._final()
        if not outcome.ok:
            raise self._error(outcome)
        try:
            return self._method.response.FromString(outcome.body)
        except DecodeError:
            broken = undecodable(self._peer, self._method.response.__name__)
            trailing = (*broken.trailing, *tags(self._peer, cached=outcome.cached))
            self._runner.outcome = broken._replace(trailing=trailing)
            raise self._error(self._runner.outcome) from None

    def _error(self, outcome: Outcome) -> BaseException:
        """Return the exception of a call that failed, was cancelled or broke."""
        raise NotImplementedError


class BaseChannel:
    """The beginning of a call, and the refusal of streams. A channel is bound to no loop and no thread."""

    def __init__(self, peer: Peer, now: Callable[[], float], deadline_s: float) -> None:
        self.peer = peer
        self._now, self._deadline_s = now, deadline_s
        self._closed = False

    def stream_stream(self, method: str, *_: Any, **__: Any) -> Any:
        """Return a multicallable for `Watch` that raises UNIMPLEMENTED when it is called."""
        method_of(method, streams=True)
        return partial(refuse_watch, self.peer.name)

    def unary_stream(self, method: str, *_: Any, **__: Any) -> Any:
        """Raise `ValueError`: the federation service has no such method."""
        return method_of(method, streams=True, arity="unary_stream")

    def stream_unary(self, method: str, *_: Any, **__: Any) -> Any:
        """Raise `ValueError`: the federation service has no such method."""
        return method_of(method, streams=True, arity="stream_unary")

    def _call(self, method: Verb, request: Any, timeout: float | None, metadata: Any) -> Call:
        return new_call(method, self.peer, request, timeout, metadata, now=self._now(), default_s=self._deadline_s)

    def _flow(self, call: Call) -> Flow:
        return self.peer.answered(closed()) if self._closed else self.peer.flow(call)


class FederationStreamInterceptor(grpc.aio.StreamStreamClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Refuses `Watch` with UNIMPLEMENTED, on an aio or a sync channel."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Refuse a stream of the federation service; pass on any other."""
        if method_in(client_call_details) is not None:
            refuse_watch(self._peer.name)
        return continuation(client_call_details, request_iterator)
