"""Committed writes, handed to everyone who listens."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final
from weakref import WeakSet

from federation.errors import ChangesLostError
from federation.resources.provider import Change

__all__ = ["ChangeFeed", "ChangeStream"]

MAX_WAITING: Final = 256
"""Commits that may wait for one listener."""


class ChangeStream(AsyncIterator[Change]):
    """The changes from the moment on at which it was made.

    It ends with `ChangesLostError` when more than `MAX_WAITING` commits wait for their reader, those changes
    included: whatever was derived from the provider may be stale then, and a new stream must be opened. It ends
    quietly by `aclose`; one that nobody holds any more costs nothing.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Change, ...]] = deque()
        self._current: deque[Change] = deque()
        self._lost = self._closed = False
        self._wakeup = asyncio.Event()

    def offer(self, commit: tuple[Change, ...]) -> None:
        """Add what one commit changed. Never waits."""
        if len(self._waiting) >= MAX_WAITING:
            self._lost = True
            self._waiting.clear()
            self._current.clear()
        elif not self._lost:
            self._waiting.append(commit)
        self._wakeup.set()

    async def aclose(self) -> None:
        """End the stream, also for a reader that waits at this moment."""
        self._closed = True
        self._wakeup.set()

    async def __anext__(self) -> Change:
        while True:
            if self._closed:
                raise StopAsyncIteration
            if self._lost:
                self._closed = True
                raise ChangesLostError(f"more than {MAX_WAITING} commits were waiting; open the changes again")
            if self._current:
                return self._current.popleft()
            if self._waiting:
                self._current.extend(self._waiting.popleft())
                continue
            self._wakeup.clear()
            await self._wakeup.wait()


class ChangeFeed:
    """Every open stream of one provider."""

    def __init__(self) -> None:
        self._streams: WeakSet[ChangeStream] = WeakSet()

    def open(self) -> ChangeStream:
        """Return a stream of what is published from now on."""
        stream = ChangeStream()
        self._streams.add(stream)
        return stream

    def publish(self, commit: tuple[Change, ...]) -> None:
        """Hand what one commit changed to every open stream."""
        if commit:
            for stream in tuple(self._streams):
                stream.offer(commit)
