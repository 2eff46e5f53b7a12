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

    A peer is identified by its enrollment: a peer that is enrolled again is a new peer without an outage. `returns`
    counts how often a peer returned from an outage. A caller reads the count before its call; a failure with an older
    count says nothing about the present, and is ignored.
    """

    def __init__(self, *, announce_restored: bool = True) -> None:
        self._announce_restored = announce_restored
        self._lock = threading.Lock()
        self._outages: dict[str, Outage] = {}
        self._returns: dict[str, int] = {}
        self._announced: set[tuple[SignalKind, str]] = set()

    def returns(self, peer: str) -> int:
        """Return how often the peer returned from an outage."""
        return self._returns.get(peer, 0)

    def outage(self, peer: str) -> Outage | None:
        """Return the outage of the peer, `None` without one."""
        return self._outages.get(peer)

    def lost(self, peer: str, name: str, outage: Outage, returns: int) -> PeerSignal | None:
        """Begin an outage after a failed call. Returns the signal, unless the session has given it before."""
        with self._lock:
            if returns != self._returns.get(peer, 0) or peer in self._outages:
                return None
            self._outages[peer] = outage
            if (SignalKind.OFFLINE, peer) in self._announced:
                return None
            self._announced.add((SignalKind.OFFLINE, peer))
        return PeerSignal(
            kind=SignalKind.OFFLINE,
            peer=name,
            reason=outage.reason,
            message=outage.message,
            next_step=outage.next_step,
            remedy=outage.remedy,
            since_us=outage.since_us,
            retry_at_us=outage.retry_at_us,
        )

    def postpone(self, peer: str, retry_at_us: int) -> None:
        """Set the time of the next probe after a failed one."""
        with self._lock:
            if peer in self._outages:
                self._outages[peer] = replace(self._outages[peer], retry_at_us=retry_at_us)

    def back(self, peer: str, name: str, now_us: int, *, well: bool = True) -> PeerSignal | None:
        """End the outage of the peer. Returns the signal, but none if the peer answers with a refusal (not `well`)."""
        with self._lock:
            if self._outages.pop(peer, None) is None:
                return None
            self._returns[peer] = self._returns.get(peer, 0) + 1
            if not (well and self._announce_restored) or (SignalKind.RESTORED, peer) in self._announced:
                return None
            self._announced.add((SignalKind.RESTORED, peer))
        return PeerSignal(kind=SignalKind.RESTORED, peer=name, message=f"{name} answers again", since_us=now_us)
