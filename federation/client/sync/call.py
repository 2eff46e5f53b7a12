"""The call object of sync gRPC for a flow: future, call and exception in one."""

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from federation.client.aio.call import final_outcome
from federation.client.chain.flow import Cancelled, Outcome
from federation.client.chain.methods import Method
from federation.client.chain.outcomes import undecodable
from federation.client.chain.runner import FlowRunner
from federation.client.interceptors.tagging import tags
from federation.wire.metadata import Metadata

_LOG: Final = logging.getLogger(__name__)
_UNSET: Final = object()


class FlowFuture(grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[type-arg] # generic in its stubs alone
    """A unary call: the result of `.future()`, the second value of `.with_call()`, and the exception of either."""

    def __init__(self, runner: FlowRunner, method: Method, peer: str, remaining_s: Callable[[], float | None]) -> None:
        super().__init__()
        self._runner, self._method, self._peer, self._remaining = runner, method, peer, remaining_s
        self._message: Any = _UNSET

    def __del__(self) -> None:
        runner: FlowRunner | None = getattr(self, "_runner", None)
        if runner is not None:
            runner.cancel_soon()

    def __str__(self) -> str:
        if not self._runner.done:
            return f"<call to {self._peer} under way>"
        outcome = self._outcome()
        return f"<call to {self._peer} that ended with {outcome.code.name}: {outcome.details}>"

    __repr__ = __str__

    def is_active(self) -> bool:
        """Whether the call has not ended yet."""
        return not self._runner.done

    def time_remaining(self) -> float | None:  # type: ignore[override] # gRPC returns None, too
        """Return the seconds left until the deadline, `None` without one."""
        return self._remaining()

    def cancel(self) -> bool:
        """Cancel the call, at the peer as well; `False` if it has ended."""
        return self._runner.cancel()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call `callback` at the end of the call; return `False`, without calling it, if the call has ended."""
        if self._runner.done:
            return False
        self._runner.when_done(lambda: _guarded(callback))
        return True

    def initial_metadata(self) -> Metadata:
        """Return the peer's initial metadata; waits for the end of the call."""
        return self._ended().initial

    def trailing_metadata(self) -> Metadata:  # type: ignore[override] # the stubs name a class of their own
        """Return the trailing metadata with `_source` and `_cached`; waits for the end of the call."""
        return self._ended().trailing

    def code(self) -> grpc.StatusCode:
        """Return the status code; waits for the end of the call."""
        return self._ended().code

    def details(self) -> str:
        """Return the status text; waits for the end of the call."""
        return self._ended().details

    def debug_error_string(self) -> str:
        """Return the status text; there is no further detail."""
        return self._ended().details

    def _ended(self) -> Outcome:
        self._wait(None)
        return self._outcome()

    def _outcome(self) -> Outcome:
        return final_outcome(self._runner, self._peer)

    def _wait(self, timeout: float | None) -> None:
        """Wait for the end of the call; raise `grpc.FutureTimeoutError` after `timeout` seconds."""
        if self._runner.done:
            return
        ended = threading.Lock()
        ended.acquire()
        self._runner.when_done(ended.release)
        if not ended.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            raise grpc.FutureTimeoutError

    def _raise_interrupt(self) -> None:
        error = self._runner.error
        if error is not None and not isinstance(error, Cancelled):
            raise error

    def cancelled(self) -> bool:
        """Whether the call was cancelled on this side."""
        return self._runner.done and isinstance(self._runner.error, Cancelled)

    def running(self) -> bool:
        """Whether the call has not ended yet."""
        return not self._runner.done

    def done(self) -> bool:
        """Whether the call has ended."""
        return self._runner.done

    def result(self, timeout: float | None = None) -> Any:
        """Return the message.

        Raises this call itself if it failed, `grpc.FutureCancelledError` if it was cancelled on this side, and
        `grpc.FutureTimeoutError` if it has not ended after `timeout` seconds.
        """
        self._wait(timeout)
        if self._message is _UNSET:
            self._message = self._decoded()
        return self._message

    def exception(self, timeout: float | None = None) -> Exception | None:
        """Return the exception that `result` raises, or `None`."""
        try:
            self.result(timeout)
        except (grpc.FutureTimeoutError, grpc.FutureCancelledError):
            raise
        except Exception as e:  # noqa: BLE001 - the exception is the return value
            return e
        return None

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """Return the traceback of the exception that `result` raises, or `None`."""
        error = self.exception(timeout)
        return None if error is None else error.__traceback__

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call `fn` with this call at its end; at once if it has ended."""
        self._runner.when_done(lambda: _guarded(lambda: fn(self)))

    def _decoded(self) -> Any:
        self._raise_interrupt()
        outcome = self._outcome()
        if self.cancelled():
            raise grpc.FutureCancelledError
        if not outcome.ok:
            raise self
        try:
            return self._method.decode(outcome.body)
        except DecodeError:
            broken = undecodable(self._peer, self._method.response.__name__)
            trailing = (*broken.trailing, *tags(self._peer, cached=outcome.cached))
            self._runner.outcome = broken._replace(trailing=trailing)
            raise self from None


def _guarded(callback: Callable[[], object]) -> None:
    try:
        callback()
    except Exception:  # noqa: BLE001 - as gRPC: a callback that raises does not fail the call
        _LOG.exception("exception in a call's done callback")
