"""Named sessions that the queries of a user share. Their number is bounded, and idle sessions are closed."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from federation.clock import Clock
from federation.errors import InputError
from federation.session.session import Session

MAX_SESSIONS: Final = 256
IDLE_S: Final = 3_600.0
MAX_NAME: Final = 128


@dataclass
class _Entry:
    session: Session
    used_at: float
    users: int = 0


class NamedSessions:
    """A pool of at most `MAX_SESSIONS` sessions by user and name.

    A new session evicts the least recently used one, and an idle session is evicted after `IDLE_S`. An evicted session
    that is in use is closed after its last use.
    """

    def __init__(self, make: Callable[[str], Session], clock: Clock) -> None:
        self._make, self._now = make, clock.monotonic
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def use(self, user: str, name: str) -> AsyncIterator[Session]:
        """Yield the session with this name, created on first use. An empty name yields a new session for one use."""
        if not name:
            async with self._make(user) as session:
                yield session
            return
        if len(name) > MAX_NAME or not name.isprintable():
            raise InputError("session", f"must be at most {MAX_NAME} printable characters")
        entry = self._acquire((user, name))
        entry.users += 1
        try:
            yield entry.session
        finally:
            entry.users -= 1
            entry.used_at = self._now()
            if not entry.users and self._entries.get((user, name)) is not entry:
                await entry.session.close()

    async def close(self) -> None:
        """Close every session."""
        if self._timer is not None:
            self._timer.cancel()
        entries, self._entries = list(self._entries.values()), OrderedDict()
        for entry in entries:
            await entry.session.close()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _acquire(self, key: tuple[str, str]) -> _Entry:
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(self._make(key[0]), self._now())
            while len(self._entries) > MAX_SESSIONS:
                self._evict(next(iter(self._entries)))
        self._entries.move_to_end(key)
        entry.used_at = self._now()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(IDLE_S, self._sweep)
        return entry

    def _sweep(self) -> None:
        self._timer, now = None, self._now()
        for key in [key for key, entry in self._entries.items() if not entry.users and now - entry.used_at >= IDLE_S]:
            self._evict(key)
        if self._entries:
            left = IDLE_S - (now - min(entry.used_at for entry in self._entries.values()))
            self._timer = asyncio.get_running_loop().call_later(max(left, 1.0), self._sweep)

    def _evict(self, key: tuple[str, str]) -> None:
        entry = self._entries.pop(key)
        if not entry.users:
            task = asyncio.get_running_loop().create_task(entry.session.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
