"""The call object of grpc.aio for a flow: one class for hits, live calls and refusals."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import grpc
from grpc.aio import Metadata

from federation.client.calls import BaseCall, rpc_error
from federation.client.chain.flow import Cancelled, Outcome
from federation.client.chain.runner import FlowRunner


def result_if_done(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine that ends without waiting, `None` otherwise."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    return None


def end_of(runner: FlowRunner) -> asyncio.Future[None]:
    """Return a future that is done when the runner is; cancelling it ends nothing else."""
    future = asyncio.get_running_loop().create_future()
    runner.when_done(lambda: None if future.done() else future.set_result(None))
    return future


class FlowCall(BaseCall, grpc.aio.UnaryUnaryCall[Any, Any]):
    """A unary call driven by callbacks: it has no task, and a call that ends at once needs no loop iteration.

    It behaves as gRPC's own, and better in three cases: a call object that is garbage-collected cancels its call,
    `code()` of a call that could not be sent returns, and a channel that closes during the call is UNAVAILABLE, not a
    cancellation.
    """

    @property
    def outcome(self) -> Outcome:
        """The outcome of a call that has ended. `cached` and `age_s` describe a cached answer."""
        if not self._runner.done:
            raise asyncio.InvalidStateError("the call has not ended")
        return self._final()

    def message(self) -> Any:
        """Return the answer of a call that has ended. Raises what awaiting the call raises."""
        if not self._runner.done:
            raise asyncio.InvalidStateError("the call has not ended")
        return self._answer()

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
            raise self._error(outcome)

    def __await__(self) -> Generator[Any, None, Any]:
        if not self._runner.done:
            try:
                yield from end_of(self._runner).__await__()
            except asyncio.CancelledError:
                self._runner.cancel()
                raise
        return self._answer()

    def _error(self, outcome: Outcome) -> BaseException:
        error = self._runner.error
        if error is None:
            return rpc_error(outcome)
        return asyncio.CancelledError() if isinstance(error, Cancelled) else error

    async def _ended(self) -> Outcome:
        if not self._runner.done:
            await end_of(self._runner)
        return self._final()

    def _notify(self, callback: Callable[[Any], None]) -> None:
        try:
            callback(self)
        except Exception as e:  # noqa: BLE001 - as asyncio: a callback that raises does not fail the call
            context = {"message": "exception in a call's done callback", "exception": e}
            asyncio.get_running_loop().call_exception_handler(context)
