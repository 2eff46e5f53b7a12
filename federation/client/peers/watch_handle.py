"""The watch of a peer as the rest of the client sees it: its state and its controls."""

from enum import StrEnum
from typing import NamedTuple, Protocol

__all__ = ["WatchHandle", "WatchState", "WatchStatus"]


class WatchState(StrEnum):
    """Whether this gateway hears at once what happens to its grant."""

    OFF = "off"
    """No stream, and none is tried: switched off, revoked, or resting while the circuit is open."""
    CONNECTING = "connecting"
    """No stream yet, or none any more; it is tried again and again."""
    ARMED = "armed"
    """The peer confirmed the stream: what it tells from now on arrives."""


class WatchStatus(NamedTuple):
    """The state of a watch, and since when it is in it (Unix microseconds)."""

    state: WatchState
    since_us: int


class WatchHandle(Protocol):
    """The watch of a peer, as the rest of the client sees it. Any thread may call its plain methods."""

    @property
    def standing(self) -> WatchStatus:
        """The state of the watch, and since when."""
        ...

    async def tried(self, timeout_s: float) -> bool:
        """Wait until the watch stands, or its first attempt has failed; tell whether it stands."""
        ...

    def begin(self) -> None:
        """Keep a stream armed from now on."""
        ...

    def wake(self) -> None:
        """Look again whether to dial or to rest: the circuit has changed, or the grant was revoked."""
        ...

    def move(self) -> None:
        """Let a new stream take over from the one that is armed: the credentials have changed."""
        ...

    def dismiss(self) -> None:
        """Give the stream up."""
        ...

    async def end(self) -> None:
        """Give the stream up and wait until nothing of it is left. Call this on the watch's loop."""
        ...

    def abandon_after_fork(self) -> None:
        """Forget the stream without touching it, in a forked child."""
        ...
