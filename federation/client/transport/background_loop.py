"""The background thread of a gateway directory: an asyncio loop for watches, renewals and the timers of sync calls."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class BackgroundLoop:
    """One loop in one daemon thread, started at first use and ended by `stop`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finalizer may post while this thread holds it
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False

    @property
    def running(self) -> bool:
        """Whether the thread has been started and not been stopped."""
        return self._loop is not None

    def is_current(self) -> bool:
        """Whether the caller is in the thread of the loop."""
        return self._thread is threading.current_thread()

    def post(self, function: Callable[[], object]) -> bool:
        """Call a quick function on the loop; `False` if the loop has been stopped."""
        loop = self._started()
        if loop is None:
            return False
        try:
            loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop has just been stopped
            return False
        return True

    def call_later(self, delay_s: float, function: Callable[[], object]) -> Callable[[], object]:
        """Call a quick function after a delay; return how to cancel that. A stopped loop calls nothing."""
        pending = [function]  # emptied by the cancellation, so that the loop's heap references nothing
        loop = self._started()

        def fire() -> None:
            for due in pending.copy():
                due()

        if loop is not None:
            self.post(lambda: loop.call_later(delay_s, fire) if pending else None)
        return pending.clear

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop."""
        loop = self._started()
        if loop is None:
            coroutine.close()
            raise RuntimeError("the background loop has been stopped")
        return asyncio.run_coroutine_threadsafe(coroutine, loop)

    def stop(self) -> None:
        """Cancel the tasks, end the thread and wait for it. May be called twice."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
            self._stopped = True
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            if thread is not threading.current_thread():
                thread.join()

    def _started(self) -> asyncio.AbstractEventLoop | None:
        if self._loop is not None:
            return self._loop
        with self._lock:
            if self._loop is None and not self._stopped:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_serve, args=(self._loop,), name="mosaic-federation", daemon=True
                )
                self._thread.start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
