"""asyncio helpers: work that does not stop halfway when its caller is cancelled, and work that is repeated."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


async def run_to_completion(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`. A caller that is cancelled, even repeatedly, is cancelled only after its end."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as e:
            cancelled = e
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # retrieved, so that asyncio does not log it as lost
    raise cancelled


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, and wait until they have ended, whatever their results."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


async def run_periodically(
    interval_s: float,
    work: Callable[[], Awaitable[object]],
    *,
    expected: type[Exception],
    logger: logging.Logger,
    failing: str,
) -> NoReturn:
    """Do `work` now and after each interval, until cancelled, whatever it raises.

    An `expected` error is logged as a warning, once while it stays the same; any other one with its traceback, each
    time. `failing` begins both messages and says what cannot be done.
    """
    logged = ""
    while True:
        try:
            await work()
        except expected as e:
            if str(e) != logged:
                logger.warning("%s: %s; retrying", failing, e)
            logged = str(e)
        except Exception:
            logger.exception("%s: unexpected error; retrying", failing)
        else:
            logged = ""
        await asyncio.sleep(interval_s)


class ShieldedTasks:
    """Tasks that run to their end in the background when their callers are cancelled, until the owner waits for all."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of `work`. Cancelling the caller does not cancel `work`."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def join(self) -> None:
        """Wait until every task has ended, whatever its result."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
