"""The call object of grpc.aio over a run: one class for hits, live calls and refusals."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.message import DecodeError
from grpc.aio import AioRpcError, Metadata

from federation.client.chain.flow import Cancelled, Outcome
from federation.client.chain.methods import Method
from federation.client.chain.outcomes import LOCALLY_CANCELLED, undecodable
from federation.client.chain.runner import FlowRunner
from federation.client.interceptors.tagging import tags

__all__ = ["FlowCall", "final_outcome", "refuse_watch", "rpc_error", "soon"]

_UNSET: Final = object()


def final_outcome(run: FlowRunner, peer: str) -> Outcome:
    """Return what a finished run amounts to, cancelled or broken ones too."""
    if run.outcome is not None:
        return run.outcome
    trailing = tags(peer, cached=False)
    if isinstance(run.error, Cancelled):
        return Outcome(grpc.StatusCode.CANCELLED, details=LOCALLY_CANCELLED, trailing=trailing)
    return Outcome(grpc.StatusCode.UNKNOWN, details=f"the chain broke: {run.error!r}", trailing=trailing)


def rpc_error(outcome: Outcome) -> AioRpcError:
    """Return what a failed aio call raises."""
    initial, trailing = Metadata(*outcome.initial), Metadata(*outcome.trailing)
    return AioRpcError(outcome.code, initial, trailing, details=outcome.details, debug_error_string=outcome.details)


def refuse_watch(peer: str, *_: Any, **__: Any) -> NoReturn:
    """Raise the UNIMPLEMENTED error of a `Watch` call through the chain; `peer` is the peer's name."""
    text = "Watch cannot be called through the federation's channels and interceptors: it watches each peer by itself"
    raise rpc_error(Outcome(grpc.StatusCode.UNIMPLEMENTED, details=text, trailing=tags(peer, cached=False)))


def soon(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine that has nothing left to wait for, `None` where it has none."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    return None


class FlowCall(grpc.aio.UnaryUnaryCall[Any, Any]):
    """A unary call that is stepped by callbacks: no task of its own, and none at all where it ended at birth.

    It behaves as gRPC's own, and better in three places: a call that nobody holds any more is cancelled, `code()` of a
    call that could not be sent answers, and a channel that closes under the call is UNAVAILABLE, not a cancellation.
    """

    def __init__(self, run: FlowRunner, method: Method, peer: str, remaining: Callable[[], float | None]) -> None:
        self._run, self._method, self._peer = run, method, peer
        self._remaining = remaining
        self._message: Any = _UNSET

    def __del__(self) -> None:
        run: FlowRunner | None = getattr(self, "_run", None)
        if run is not None:
            run.drop()

    def done(self) -> bool:
        """Whether the call has ended."""
        return self._run.done

    def cancelled(self) -> bool:
        """Whether the call ended by being cancelled here."""
        return self._run.done and isinstance(self._run.error, Cancelled)

    def cancel(self) -> bool:
        """Cancel the call at the peer as well; `False` if it has ended."""
        return self._run.cancel()

    @property
    def outcome(self) -> Outcome:
        """What the call ended with; only after its end. `cached` and `age_s` tell whether it is a kept answer."""
        if not self._run.done:
            raise asyncio.InvalidStateError("the call has not ended")
        return final_outcome(self._run, self._peer)

    def message(self) -> Any:
        """Return the answer of a call that has ended. Raises what awaiting it raises."""
        if not self._run.done:
            raise asyncio.InvalidStateError("the call has not ended")
        return self._answer()

    def time_remaining(self) -> float | None:
        """Return the seconds of the budget that are left."""
        return self._remaining()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with this call at its end; at once if it has come."""
        self._run.when_done(lambda: self._notify(callback))

    async def initial_metadata(self) -> Metadata:
        """Return the peer's initial metadata, when the call has ended."""
        return Metadata(*(await self._ended()).initial)

    async def trailing_metadata(self) -> Metadata:
        """Return the trailing metadata with `_source` and `_cached`."""
        return Metadata(*(await self._ended()).trailing)

    async def code(self) -> grpc.StatusCode:
        """Return the status code."""
        return (await self._ended()).code

    async def details(self) -> str:
        """Return the status text."""
        return (await self._ended()).details

    async def debug_error_string(self) -> str:
        """Return the status text: there is no other."""
        return (await self._ended()).details

    async def wait_for_connection(self) -> None:
        """Wait for the end of the call, as gRPC's own unary calls do; raise what a failed one raises."""
        outcome = await self._ended()
        if not outcome.ok:
            raise self._raised(outcome)

    def __await__(self) -> Generator[Any, None, Any]:
        if not self._run.done:
            try:
                yield from self._end().__await__()
            except asyncio.CancelledError:
                self._run.cancel()
                raise
        return self._answer()

    def _answer(self) -> Any:
        if self._message is _UNSET:
            self._message = self._decoded()
        return self._message

    def _decoded(self) -> Any:
        outcome = final_outcome(self._run, self._peer)
        if not outcome.ok:
            raise self._raised(outcome)
        try:
            return self._method.decode(outcome.body)
        except DecodeError:
            broken = undecodable(self._peer, self._method.response.__name__)
            trailing = (*broken.trailing, *tags(self._peer, cached=outcome.cached))
            self._run.outcome = broken._replace(trailing=trailing)
            raise rpc_error(self._run.outcome) from None

    def _raised(self, outcome: Outcome) -> BaseException:
        error = self._run.error
        if error is None:
            return rpc_error(outcome)
        return asyncio.CancelledError() if isinstance(error, Cancelled) else error

    def _end(self) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()  # one a waiter: cancelling one wait ends no other
        self._run.when_done(lambda: None if future.done() else future.set_result(None))
        return future

    async def _ended(self) -> Outcome:
        if not self._run.done:
            await self._end()
        return final_outcome(self._run, self._peer)

    def _notify(self, callback: Callable[[Any], None]) -> None:
        try:
            callback(self)
        except Exception as e:  # noqa: BLE001 - as asyncio does: a callback's fault is not the call's
            context = {"message": "exception in a call's done callback", "exception": e}
            asyncio.get_running_loop().call_exception_handler(context)
