"""asyncio helpers for work that must not stop halfway when its caller is cancelled."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["ShieldedTasks", "run_to_completion"]

T = TypeVar("T")


async def run_to_completion(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`. A cancelled caller waits for the end of `work`, and is cancelled only then."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not log it as lost
        raise


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
