"""The call object of grpc.aio for a flow: one class for hits, live calls and refusals."""

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


def result_if_done(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine that ends without waiting, `None` otherwise."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    return None


class FlowCall(grpc.aio.UnaryUnaryCall[Any, Any]):
    """A unary call driven by callbacks: it has no task, and a call that ends at once needs no loop iteration.

    It behaves as gRPC's own, and better in three cases: a call object that is garbage-collected cancels its call,
    `code()` of a call that could not be sent returns, and a channel that closes during the call is UNAVAILABLE, not a
    cancellation.
    """

    def __init__(self, runner: FlowRunner, method: Method, peer: str, remaining: Callable[[], float | None]) -> None:
        self._runner, self._method, self._peer = runner, method, peer
        self._remaining = remaining
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

    @property
    def outcome(self) -> Outcome:
        """The outcome of a call that has ended. `cached` and `age_s` describe a cached answer."""
        if not self._runner.done:
            raise asyncio.InvalidStateError("the call has not ended")
        return final_outcome(self._runner, self._peer)

    def message(self) -> Any:
        """Return the answer of a call that has ended. Raises what awaiting the call raises."""
        if not self._runner.done:
            raise asyncio.InvalidStateError("the call has not ended")
        return self._answer()

    def time_remaining(self) -> float | None:
        """Return the seconds left until the deadline, `None` without one."""
        return self._remaining()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with this call at its end; at once if it has ended."""
        self._runner.when_done(lambda: self._notify(callback))

    async def initial_metadata(self) -> Metadata:
        """Return the peer's initial metadata, after the end of the call."""
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
        """Return the status text; there is no further detail."""
        return (await self._ended()).details

    async def wait_for_connection(self) -> None:
        """Wait for the end of the call, as gRPC's own unary calls do; raise the error of a failed call."""
        outcome = await self._ended()
        if not outcome.ok:
            raise self._raised(outcome)

    def __await__(self) -> Generator[Any, None, Any]:
        if not self._runner.done:
            try:
                yield from self._end().__await__()
            except asyncio.CancelledError:
                self._runner.cancel()
                raise
        return self._answer()

    def _answer(self) -> Any:
        if self._message is _UNSET:
            self._message = self._decoded()
        return self._message

    def _decoded(self) -> Any:
        outcome = final_outcome(self._runner, self._peer)
        if not outcome.ok:
            raise self._raised(outcome)
        try:
            return self._method.decode(outcome.body)
        except DecodeError:
            broken = undecodable(self._peer, self._method.response.__name__)
            trailing = (*broken.trailing, *tags(self._peer, cached=outcome.cached))
            self._runner.outcome = broken._replace(trailing=trailing)
            raise rpc_error(self._runner.outcome) from None

    def _raised(self, outcome: Outcome) -> BaseException:
        error = self._runner.error
        if error is None:
            return rpc_error(outcome)
        return asyncio.CancelledError() if isinstance(error, Cancelled) else error

    def _end(self) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()  # one a waiter: cancelling one wait ends no other
        self._runner.when_done(lambda: None if future.done() else future.set_result(None))
        return future

    async def _ended(self) -> Outcome:
        if not self._runner.done:
            await self._end()
        return final_outcome(self._runner, self._peer)

    def _notify(self, callback: Callable[[Any], None]) -> None:
        try:
            callback(self)
        except Exception as e:  # noqa: BLE001 - as asyncio: a callback that raises does not fail the call
            context = {"message": "exception in a call's done callback", "exception": e}
            asyncio.get_running_loop().call_exception_handler(context)
