"""Distribution of committed writes to the open change streams."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final
from weakref import WeakSet

from federation.errors import ChangesLostError
from federation.resources.provider import Change

MAX_WAITING: Final = 256
"""Maximum number of commits that may wait for one reader."""


class ChangeStream(AsyncIterator[Change]):
    """The changes committed after its creation.

    If more than `MAX_WAITING` commits wait for the reader, they are dropped and the stream ends with
    `ChangesLostError`: data derived from the provider may be stale then, and the reader must open a new stream.
    `aclose` ends the stream; an unreferenced stream is removed.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Change, ...]] = deque()
        self._current: deque[Change] = deque()
        self._lost = self._closed = False
        self._wakeup = asyncio.Event()

    def offer(self, commit: tuple[Change, ...]) -> None:
        """Add the changes of one commit without blocking."""
        if len(self._waiting) >= MAX_WAITING:
            self._lost = True
            self._waiting.clear()
            self._current.clear()
        elif not self._lost:
            self._waiting.append(commit)
        self._wakeup.set()

    async def aclose(self) -> None:
        """End the stream, also for a waiting reader."""
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
    """The open change streams of one provider."""

    def __init__(self) -> None:
        self._streams: WeakSet[ChangeStream] = WeakSet()

    def open(self) -> ChangeStream:
        """Return a stream of the changes published from now on."""
        stream = ChangeStream()
        self._streams.add(stream)
        return stream

    def publish(self, commit: tuple[Change, ...]) -> None:
        """Pass the changes of one commit to every open stream."""
        if commit:
            for stream in tuple(self._streams):
                stream.offer(commit)
