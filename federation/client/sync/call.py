"""The call object of sync gRPC for a flow: future, call and exception in one."""

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

import grpc

from federation.client.calls import BaseCall
from federation.client.chain.flow import Cancelled, Outcome
from federation.wire.metadata import Metadata

_LOG: Final = logging.getLogger(__name__)


class FlowFuture(BaseCall, grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[misc, type-arg] # gRPC's stubs
    """A unary call: the result of `.future()`, the second value of `.with_call()`, and the exception of either."""

    def __str__(self) -> str:
        if not self._runner.done:
            return f"<call to {self._peer} under way>"
        outcome = self._final()
        return f"<call to {self._peer} that ended with {outcome.code.name}: {outcome.details}>"

    __repr__ = __str__

    def is_active(self) -> bool:
        """Whether the call has not ended yet."""
        return not self._runner.done

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
        return self._final()

    def _wait(self, timeout: float | None) -> None:
        """Wait for the end of the call; raise `grpc.FutureTimeoutError` after `timeout` seconds."""
        if self._runner.done:
            return
        ended = threading.Lock()
        ended.acquire()
        self._runner.when_done(ended.release)
        if not ended.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            raise grpc.FutureTimeoutError

    def running(self) -> bool:
        """Whether the call has not ended yet."""
        return not self._runner.done

    def result(self, timeout: float | None = None) -> Any:
        """Return the message.

        Raises this call itself if it failed, `grpc.FutureCancelledError` if it was cancelled on this side, and
        `grpc.FutureTimeoutError` if it has not ended after `timeout` seconds.
        """
        self._wait(timeout)
        return self._answer()

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

    def _error(self, outcome: Outcome) -> BaseException:
        error = self._runner.error
        if error is None:
            return self
        return grpc.FutureCancelledError() if isinstance(error, Cancelled) else error


def _guarded(callback: Callable[[], object]) -> None:
    try:
        callback()
    except Exception:  # noqa: BLE001 - as gRPC: a callback that raises does not fail the call
        _LOG.exception("exception in a call's done callback")
