"""The watch of a peer as the rest of the client sees it: its status and its controls."""

from enum import StrEnum
from typing import NamedTuple, Protocol


class WatchState(StrEnum):
    """The state of a watch: whether this gateway receives events on its grant at once."""

    OFF = "off"
    """No stream, and none is attempted: switched off, revoked, or suspended while the circuit is open."""
    CONNECTING = "connecting"
    """No stream at present; dialling is retried."""
    ARMED = "armed"
    """The peer confirmed the stream: its events arrive from now on."""


class WatchStatus(NamedTuple):
    """The state of a watch, and when it entered that state (Unix microseconds)."""

    state: WatchState
    since_us: int


class WatchHandle(Protocol):
    """The watch of a peer, as the rest of the client sees it. Its plain methods are thread-safe."""

    @property
    def status(self) -> WatchStatus:
        """The state of the watch, and since when."""
        ...

    async def first_attempt_done(self, timeout_s: float) -> bool:
        """Wait until the watch is armed or its first attempt has failed; tell whether it is armed."""
        ...

    def start(self) -> None:
        """Keep a stream armed from now on."""
        ...

    def wake(self) -> None:
        """Check again whether to dial: the circuit has changed, or the grant was revoked."""
        ...

    def move(self) -> None:
        """Replace the armed stream by a new one: the credentials have changed."""
        ...

    def cancel(self) -> None:
        """Cancel the stream."""
        ...

    async def stop(self) -> None:
        """Cancel the stream and wait until it has ended. Call this on the watch's loop."""
        ...

    def abandon_after_fork(self) -> None:
        """Drop the stream without touching it, in a forked child."""
        ...
