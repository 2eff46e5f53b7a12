"""The signals of a session: a peer went away, or came back."""

from dataclasses import dataclass
from enum import StrEnum

from federation.errors import Remedy

__all__ = ["PeerSignal", "SignalKind"]


class SignalKind(StrEnum):
    """The direction of a change of a peer's availability."""

    OFFLINE = "offline"
    RESTORED = "restored"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSignal:
    """A peer went away, or came back. Exactly one of each kind a session and peer at most.

    `reason` is `PEER_UNREACHABLE`, `PEER_TIMEOUT`, `CIRCUIT_OPEN` or `CERTIFICATE_INVALID` (this gateway's own one has
    ended), and empty when it came back. `next_step` says what a person can do, and `remedy` is that step as a value.
    `since_us` and `retry_at_us` are Unix microseconds; `retry_at_us` is when the session asks the peer again by itself,
    `None` where it never will.
    """

    kind: SignalKind
    peer: str
    reason: str = ""
    message: str = ""
    next_step: str = ""
    remedy: Remedy | None = None
    since_us: int = 0
    retry_at_us: int | None = None

    @property
    def text(self) -> str:
        """The sentence: `federation offline for <peer>`."""
        return f"federation {self.kind} for {self.peer}"
