"""Signals of a session about the availability of its peers, each given once. Pure; the caller passes the time."""

import threading
from dataclasses import dataclass, replace
from enum import StrEnum

from federation.errors import Remedy

__all__ = ["AvailabilitySignals", "Outage", "PeerSignal", "SignalKind"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """The reason why a session skips a peer for now. Instants are Unix microseconds."""

    reason: str
    message: str = ""
    next_step: str = ""
    remedy: Remedy | None = None
    since_us: int = 0
    retry_at_us: int | None = None


class AvailabilitySignals:
    """The outages of a session's peers, and the signals given about each peer. Thread-safe.

    A peer is identified by its enrollment: a peer that is enrolled again is a new peer without an outage. A *turn*
    counts how often a peer returned from an outage. A caller reads the turn before its call; a failure with an earlier
    turn is ignored.
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
