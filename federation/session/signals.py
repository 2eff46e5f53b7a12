"""What a session is told about its peers: each sentence once. Pure; the caller brings the time."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["PeerSignal", "SignalKind"]


class SignalKind(StrEnum):
    """Which way it went."""

    OFFLINE = "offline"
    RESTORED = "restored"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSignal:
    """A peer went away, or came back. Exactly one of each kind a session and peer at most.

    `reason` is `PEER_UNREACHABLE`, `PEER_TIMEOUT`, `CIRCUIT_OPEN` or `CERTIFICATE_INVALID` (this gateway's own one has
    ended), and empty when it came back. `since_us` and `retry_at_us` are Unix microseconds; `retry_at_us` is when the
    session asks the peer again by itself, `None` where it never will.
    """

    kind: SignalKind
    peer: str
    reason: str = ""
    message: str = ""
    next_step: str = ""
    since_us: int = 0
    retry_at_us: int | None = None

    @property
    def text(self) -> str:
        """The sentence: `federation offline for <peer>`."""
        return f"federation {self.kind} for {self.peer}"
