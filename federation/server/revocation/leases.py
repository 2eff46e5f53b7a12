"""How long the caches of peers may hold what this gateway answered, and who is awaited when something is taken back.

Pure: the clock is injected, nothing waits and nothing is stored. A *note* says that one cache object of a peer may
hold answers of a grant until an instant of this gateway's own elapsed clock; it is made before the answer leaves. The
peer counts from the moment it sent its request, which is earlier, so its copies die before the note ends as long as
neither clock's rate is wrong by more than the margin.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from federation.clock import MICROSECONDS, SYSTEM_CLOCK, Clock
from federation.wire.metadata import MAX_LEASE_MS

__all__ = [
    "MAX_INSTANCES",
    "LeaseTable",
    "PendingRevocation",
    "Release",
    "ReleaseReason",
    "lease_hold_s",
]

MAX_INSTANCES: Final = 64
"""Cache objects of one grant that may hold leases at the same time."""
PREVIOUS_PROCESS: Final = ""
"""Stands for every cache object that an earlier process may have given a lease to."""


class ReleaseReason(StrEnum):
    """How a cache object was released."""

    ACKED = "acked"
    """It said on its watch that it dropped everything."""
    LEASE_ENDED = "lease_ended"
    """Whatever it held has outlived its lease."""
    DISCONNECTED = "disconnected"
    """It watched, held no lease, and its last watch ended."""
    AWAITED = "awaited"


@dataclass(frozen=True, slots=True)
class Release:
    """One cache object of a revocation. Times are Unix microseconds; an empty `instance` means `PREVIOUS_PROCESS`."""

    instance: str
    how: ReleaseReason
    at_us: int | None = None
    """When it was released; `None` while it is awaited."""
    failed_in_flight: int = 0
    until_us: int | None = None
    """The latest that it can be awaited; `None` once it is released."""


@dataclass(slots=True)
class _Hold:
    end: float
    noted: bool


def _nothing() -> None:
    """Do nothing."""


@dataclass(slots=True)
class PendingRevocation:
    """What is awaited before something taken back is out of every cache. Made by `LeaseTable.begin`."""

    grant_id: str
    number: int
    begun_at_us: int
    _clock: Clock
    _held: dict[str, _Hold]
    changed: Callable[[], None] = _nothing
    """Called whenever somebody was released."""
    _released: dict[str, Release] = field(default_factory=dict)

    def wait_s(self) -> float | None:
        """Return the seconds until the next lease ends, or `None` once nobody is awaited any more."""
        now = self._clock.elapsed()
        for instance in [name for name, hold in self._held.items() if hold.end <= now]:
            self._release(instance, ReleaseReason.LEASE_ENDED)
        return min(hold.end for hold in self._held.values()) - now if self._held else None

    @property
    def instances(self) -> tuple[Release, ...]:
        """Everyone that was awaited, the released first."""
        now, now_us = self._clock.elapsed(), self._clock.now_us()
        awaited = (
            Release(name, ReleaseReason.AWAITED, until_us=now_us + max(0, round((hold.end - now) * MICROSECONDS)))
            for name, hold in self._held.items()
        )
        return (*self._released.values(), *awaited)

    @property
    def effective_at_us(self) -> int:
        """The instant of the last release, never before the beginning whatever the wall clock did."""
        return max(self.begun_at_us, 0, *(release.at_us or 0 for release in self._released.values()))

    def ack(self, instance: str, failed_in_flight: int) -> None:
        """Hear that a cache object dropped everything after this withdrawal began."""
        if instance in self._held and instance != PREVIOUS_PROCESS:
            self._release(instance, ReleaseReason.ACKED, failed_in_flight)

    def leave(self, instance: str) -> None:
        """Hear that the last watch of a cache object ended; one that holds a lease is awaited all the same."""
        hold = self._held.get(instance)
        if hold is not None and not hold.noted:
            self._release(instance, ReleaseReason.DISCONNECTED)

    def _release(self, instance: str, how: ReleaseReason, failed_in_flight: int = 0) -> None:
        del self._held[instance]
        self._released[instance] = Release(instance, how, self._clock.now_us(), failed_in_flight)
        self.changed()


class LeaseTable:
    """The notes of every grant, in memory.

    `max_lease_ms` bounds a lease. `inherited` names the grants under which an earlier process may have given leases;
    `inherited_ms` is the longest that one of those can be, and `handover_s` how long that process may have gone on
    answering after this one began. One event loop uses it.
    """

    def __init__(
        self,
        clock: Clock = SYSTEM_CLOCK,
        *,
        max_lease_ms: int = MAX_LEASE_MS,
        inherited: Iterable[str] = (),
        inherited_ms: int = MAX_LEASE_MS,
        handover_s: float = 0.0,
    ) -> None:
        self._clock, self._max_lease_ms = clock, max_lease_ms
        self._notes: dict[str, dict[str, float]] = {}
        self._closed: dict[str, int] = {}
        self._open: dict[str, list[PendingRevocation]] = {}
        self._number = 0
        self._inherited = frozenset(inherited)
        self._inherited_end = clock.elapsed() + handover_s + lease_hold_s(inherited_ms)
        self._sweep_at = clock.elapsed()

    def grant_lease(self, grant_id: str, instance: str, lease_ms: int) -> int:
        """Note a lease before its answer leaves, and return the one to send.

        That is 0, and nothing is noted, for a grant that is being revoked, and while `MAX_INSTANCES` others hold one.
        """
        if lease_ms <= 0 or not instance or grant_id in self._closed:
            return 0
        now = self._clock.elapsed()
        self._sweep(now)
        notes = self._notes.get(grant_id, {})
        if instance not in notes and len(notes) >= MAX_INSTANCES:
            notes = _alive(notes, now)
            if len(notes) >= MAX_INSTANCES:
                return 0
        lease_ms = min(lease_ms, self._max_lease_ms)
        notes[instance] = max(notes.get(instance, now), now + lease_hold_s(lease_ms))
        self._notes[grant_id] = notes
        return lease_ms

    def begin(self, grant_id: str, watching: Iterable[str], *, final: bool) -> PendingRevocation:
        """Await everyone who may hold answers of the grant from before this moment.

        Call it together with what makes the gateway refuse, with nothing in between. `watching` names the cache
        objects with an armed watch: those are awaited too, for the calls that they may have under way. `final`: the
        grant gets no lease any more.
        """
        now = self._clock.elapsed()
        held = {instance: _Hold(now + lease_hold_s(self._max_lease_ms), noted=False) for instance in watching}
        for instance, end in _alive(self._notes.get(grant_id, {}), now).items():
            held[instance] = _Hold(end, noted=True)
        if grant_id in self._inherited and now < self._inherited_end:
            held[PREVIOUS_PROCESS] = _Hold(self._inherited_end, noted=True)
        self._number += 1
        if final:
            self._closed.setdefault(grant_id, self._number)
        withdrawal = PendingRevocation(grant_id, self._number, self._clock.now_us(), self._clock, held)
        self._open.setdefault(grant_id, []).append(withdrawal)
        return withdrawal

    def end(self, withdrawal: PendingRevocation) -> None:
        """Forget a withdrawal. Doing so twice is fine."""
        others = [one for one in self._open.pop(withdrawal.grant_id, ()) if one is not withdrawal]
        if others:
            self._open[withdrawal.grant_id] = others

    @property
    def mark(self) -> int:
        """The number of the last withdrawal that began: an event made now tells of it and of all before it."""
        return self._number

    def ack(self, grant_id: str, instance: str, mark: int, failed_in_flight: int = 0) -> None:
        """Hear that a cache object dropped everything of a grant when it saw an event made at `mark`."""
        for withdrawal in self._open.get(grant_id, ()):
            if withdrawal.number <= mark:
                withdrawal.ack(instance, failed_in_flight)
        if mark >= self._closed.get(grant_id, mark + 1):
            # No note can follow this one. An earlier event would not do: answers may have been kept since.
            self._notes.get(grant_id, {}).pop(instance, None)

    def awaits(self, grant_id: str) -> bool:
        """Tell whether something is being taken back under a grant: it has no receipt yet."""
        return grant_id in self._open

    def leave(self, grant_id: str, instance: str) -> None:
        """Hear that the last watch of a cache object ended."""
        for withdrawal in self._open.get(grant_id, ()):
            withdrawal.leave(instance)

    def count(self, grant_id: str) -> int:
        """Return how many cache objects hold leases of a grant."""
        return len(_alive(self._notes.get(grant_id, {}), self._clock.elapsed()))

    @property
    def total(self) -> int:
        """How many leases are out, of all grants together."""
        return sum(map(self.count, tuple(self._notes)))

    def _sweep(self, now: float) -> None:
        """Drop ended notes, once in the time of a note, so that what is kept is what was noted lately."""
        if now < self._sweep_at:
            return
        self._sweep_at = now + lease_hold_s(self._max_lease_ms)
        alive = {grant_id: _alive(notes, now) for grant_id, notes in self._notes.items()}
        self._notes = {grant_id: notes for grant_id, notes in alive.items() if notes}


def lease_hold_s(lease_ms: int) -> float:
    """Return for how many seconds a lease is noted: a tenth longer than it lasts."""
    return lease_ms * 11 / 10_000


def _alive(notes: dict[str, float], now: float) -> dict[str, float]:
    return {instance: end for instance, end in tuple(notes.items()) if end > now}
