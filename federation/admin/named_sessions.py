"""Sessions that queries share by name: each belongs to its user, few are kept, and idle ones end by themselves."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from federation.clock import Clock
from federation.errors import InputError
from federation.session.session import Session

__all__ = ["NamedSessions"]

MOST: Final = 256
IDLE_S: Final = 3_600.0
MAX_NAME: Final = 128


@dataclass
class _Kept:
    session: Session
    used_at: float
    users: int = 0


class NamedSessions:
    """At most 256 sessions. The least recently used one ends for a new one; one that is in use ends after its use."""

    def __init__(self, make: Callable[[str], Session], clock: Clock) -> None:
        self._make, self._now = make, clock.monotonic
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def lease(self, user: str, name: str) -> AsyncIterator[Session]:
        """Yield the session of this name, which is made at its first use; an empty name is a session of its own."""
        if not name:
            async with self._make(user) as session:
                yield session
            return
        if len(name) > MAX_NAME or not name.isprintable():
            raise InputError("session", f"must be at most {MAX_NAME} printable characters")
        kept = self._take((user, name))
        kept.users += 1
        try:
            yield kept.session
        finally:
            kept.users -= 1
            kept.used_at = self._now()
            if not kept.users and self._kept.get((user, name)) is not kept:
                await kept.session.close()

    async def close(self) -> None:
        """End them all."""
        if self._timer is not None:
            self._timer.cancel()
        kept, self._kept = list(self._kept.values()), OrderedDict()
        for each in kept:
            await each.session.close()
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _take(self, key: tuple[str, str]) -> _Kept:
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = _Kept(self._make(key[0]), self._now())
            while len(self._kept) > MOST:
                self._drop(next(iter(self._kept)))
        self._kept.move_to_end(key)
        kept.used_at = self._now()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(IDLE_S, self._sweep)
        return kept

    def _sweep(self) -> None:
        self._timer, now = None, self._now()
        for key in [key for key, kept in self._kept.items() if not kept.users and now - kept.used_at >= IDLE_S]:
            self._drop(key)
        if self._kept:
            left = IDLE_S - (now - min(kept.used_at for kept in self._kept.values()))
            self._timer = asyncio.get_running_loop().call_later(max(left, 1.0), self._sweep)

    def _drop(self, key: tuple[str, str]) -> None:
        kept = self._kept.pop(key)
        if not kept.users:
            task = asyncio.get_running_loop().create_task(kept.session.close())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
