"""What a session is told about its peers: each sentence once. Pure; the caller brings the time."""

import threading
from dataclasses import dataclass, replace
from enum import StrEnum

from federation.errors import Remedy

__all__ = ["AvailabilitySignals", "Outage", "PeerSignal", "SignalKind"]


class SignalKind(StrEnum):
    """Which way it went."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """Why a session does not ask a peer for now. Instants are Unix microseconds."""

    reason: str
    message: str = ""
    next_step: str = ""
    remedy: Remedy | None = None
    since_us: int = 0
    retry_at_us: int | None = None


class AvailabilitySignals:
    """Which peers a session knows to be away, and what it has said about each. Safe in any thread.

    A peer is known by its enrollment: a name that is enrolled anew is another peer, of which nothing is known yet.
    A *turn* counts how often a peer came back. Whoever asks a peer notes the turn before; a failure of an earlier turn
    says nothing of the present, and is not taken.
    """

    def __init__(self, *, announce_restored: bool = True) -> None:
        self._announce_restored = announce_restored
        self._lock = threading.Lock()
        self._away: dict[str, Outage] = {}
        self._turns: dict[str, int] = {}
        self._said: set[tuple[SignalKind, str]] = set()

    def turn(self, peer: str) -> int:
        """Return how often the peer came back so far."""
        return self._turns.get(peer, 0)

    def absence(self, peer: str) -> Outage | None:
        """Return why the peer is not asked, `None` where it is."""
        return self._away.get(peer)

    def lost(self, peer: str, name: str, absence: Outage, turn: int) -> PeerSignal | None:
        """Note that a call to the peer failed. Return the signal to give, if this session has not given it yet."""
        with self._lock:
            if turn != self._turns.get(peer, 0) or peer in self._away:
                return None
            self._away[peer] = absence
            if (SignalKind.OFFLINE, peer) in self._said:
                return None
            self._said.add((SignalKind.OFFLINE, peer))
        return PeerSignal(
            kind=SignalKind.OFFLINE,
            peer=name,
            reason=absence.reason,
            message=absence.message,
            next_step=absence.next_step,
            remedy=absence.remedy,
            since_us=absence.since_us,
            retry_at_us=absence.retry_at_us,
        )

    def postpone(self, peer: str, retry_at_us: int) -> None:
        """Note when the peer is asked again: the probe before has failed."""
        with self._lock:
            if peer in self._away:
                self._away[peer] = replace(self._away[peer], retry_at_us=retry_at_us)

    def back(self, peer: str, name: str, now_us: int, *, well: bool = True) -> PeerSignal | None:
        """Ask the peer again from here on. Return the signal to give; none for a peer that answers, but not `well`."""
        with self._lock:
            if self._away.pop(peer, None) is None:
                return None
            self._turns[peer] = self._turns.get(peer, 0) + 1
            if not (well and self._announce_restored) or (SignalKind.RESTORED, peer) in self._said:
                return None
            self._said.add((SignalKind.RESTORED, peer))
        return PeerSignal(kind=SignalKind.RESTORED, peer=name, message=f"{name} answers again", since_us=now_us)
