"""The signals of a session about the availability of its peers."""

from dataclasses import dataclass
from enum import StrEnum

from federation.errors import Remedy


class SignalKind(StrEnum):
    """The change of availability."""

    OFFLINE = "offline"
    RESTORED = "restored"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSignal:
    """A peer became unreachable, or answers again. A session gives at most one signal of each kind per peer.

    `reason` is `PEER_UNREACHABLE`, `PEER_TIMEOUT`, `CIRCUIT_OPEN` or `CERTIFICATE_INVALID` (this gateway's own has
    expired), and empty for `restored`. `next_step` is a step for the user, and `remedy` the same step as a value.
    `since_us` and `retry_at_us` are Unix microseconds; `retry_at_us` is the time of the next probe, `None` without one.
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
        """The text: `federation offline for <peer>` or `federation restored for <peer>`."""
        return f"federation {self.kind} for {self.peer}"
