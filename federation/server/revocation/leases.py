"""The lease table of the serving gateway, and the revocations that wait for leases to end.

Pure: the clock is injected, nothing waits and nothing is stored. An entry says that one cache object of a peer may hold
answers of a grant until an instant of this gateway's elapsed clock; it is made before the answer leaves. The peer
counts from the moment it sent its request, which is earlier. So its copies expire before the entry ends, as long as
neither clock's rate is wrong by more than the margin of `lease_hold_s`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from federation.clock import MICROSECONDS, SYSTEM_CLOCK, Clock
from federation.wire.metadata import MAX_LEASE_MS

MAX_INSTANCES: Final = 64
"""Cache objects of one grant that may hold leases at the same time."""
PREVIOUS_PROCESS: Final = ""
"""Stands for every cache object to which an earlier process may have granted a lease."""


class ReleaseReason(StrEnum):
    """The reason why a revocation does not wait for a cache object any more, or `AWAITED`."""

    ACKED = "acked"
    """The cache object acknowledged on its watch that it dropped everything."""
    LEASE_ENDED = "lease_ended"
    """The lease of the cache object, with the margin, has ended."""
    DISCONNECTED = "disconnected"
    """The cache object held no lease, and its last watch ended."""
    AWAITED = "awaited"


@dataclass(frozen=True, slots=True)
class Release:
    """One cache object of a revocation. Times are Unix microseconds; an empty `instance` means `PREVIOUS_PROCESS`."""

    instance: str
    how: ReleaseReason
    at_us: int | None = None
    """The instant of the release; `None` while the cache object is awaited."""
    failed_in_flight: int = 0
    until_us: int | None = None
    """The instant at which its lease ends at the latest; `None` once it is released."""


@dataclass(slots=True)
class _Hold:
    end: float
    leased: bool


def _nothing() -> None:
    """Do nothing."""


@dataclass(slots=True)
class PendingRevocation:
    """A revocation or scope reduction that waits for cache objects. Made by `LeaseTable.begin`."""

    grant_id: str
    sequence: int
    begun_at_us: int
    _clock: Clock
    _held: dict[str, _Hold]
    changed: Callable[[], None] = _nothing
    """Called after each release."""
    _released: dict[str, Release] = field(default_factory=dict)

    def wait_s(self) -> float | None:
        """Return the seconds until the next lease ends, or `None` once no cache object is awaited."""
        now = self._clock.elapsed()
        for instance in [name for name, hold in self._held.items() if hold.end <= now]:
            self._release(instance, ReleaseReason.LEASE_ENDED)
        return min(hold.end for hold in self._held.values()) - now if self._held else None

    @property
    def instances(self) -> tuple[Release, ...]:
        """The state of every cache object of this revocation, the released ones first."""
        now, now_us = self._clock.elapsed(), self._clock.now_us()
        awaited = (
            Release(name, ReleaseReason.AWAITED, until_us=now_us + max(0, round((hold.end - now) * MICROSECONDS)))
            for name, hold in self._held.items()
        )
        return (*self._released.values(), *awaited)

    @property
    def effective_at_us(self) -> int:
        """The instant of the last release; never before `begun_at_us`, even if the wall clock was set back."""
        return max(self.begun_at_us, 0, *(release.at_us or 0 for release in self._released.values()))

    def ack(self, instance: str, failed_in_flight: int) -> None:
        """Release a cache object that dropped everything after this revocation began."""
        if instance in self._held and instance != PREVIOUS_PROCESS:
            self._release(instance, ReleaseReason.ACKED, failed_in_flight)

    def on_disconnect(self, instance: str) -> None:
        """Release a cache object whose last watch ended, unless it holds a lease."""
        hold = self._held.get(instance)
        if hold is not None and not hold.leased:
            self._release(instance, ReleaseReason.DISCONNECTED)

    def _release(self, instance: str, how: ReleaseReason, failed_in_flight: int = 0) -> None:
        del self._held[instance]
        self._released[instance] = Release(instance, how, self._clock.now_us(), failed_in_flight)
        self.changed()


class LeaseTable:
    """The leases of every grant, in memory.

    `max_lease_ms` bounds a lease. `inherited` names the grants under which an earlier process may have granted leases,
    `inherited_ms` is the longest of those leases, and `handover_s` the time for which that process may have answered
    calls after this one began. Use the table from one event loop.
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
        self._leases: dict[str, dict[str, float]] = {}
        self._revoked: dict[str, int] = {}
        self._pending: dict[str, list[PendingRevocation]] = {}
        self._sequence = 0
        self._inherited = frozenset(inherited)
        self._inherited_end = clock.elapsed() + handover_s + lease_hold_s(inherited_ms)
        self._sweep_at = clock.elapsed()

    def grant_lease(self, grant_id: str, instance: str, lease_ms: int) -> int:
        """Record a lease before its answer leaves, and return the lease to send in milliseconds.

        Returns 0 and records nothing for a revoked grant, and while `MAX_INSTANCES` other cache objects hold leases.
        """
        if lease_ms <= 0 or not instance or grant_id in self._revoked:
            return 0
        now = self._clock.elapsed()
        self._sweep(now)
        leases = self._leases.get(grant_id, {})
        if instance not in leases and len(leases) >= MAX_INSTANCES:
            leases = _alive(leases, now)
            if len(leases) >= MAX_INSTANCES:
                return 0
        lease_ms = min(lease_ms, self._max_lease_ms)
        leases[instance] = max(leases.get(instance, now), now + lease_hold_s(lease_ms))
        self._leases[grant_id] = leases
        return lease_ms

    def begin(self, grant_id: str, watching: Iterable[str], *, final: bool) -> PendingRevocation:
        """Begin to wait for every cache object that may hold answers of the grant from before this moment.

        Call it right after the refusal took effect, without an `await` between them. `watching` names the cache
        objects with an armed watch; those are awaited for the calls that they may have in flight. `final` means that
        the grant gets no further lease.
        """
        now = self._clock.elapsed()
        held = {instance: _Hold(now + lease_hold_s(self._max_lease_ms), leased=False) for instance in watching}
        for instance, end in _alive(self._leases.get(grant_id, {}), now).items():
            held[instance] = _Hold(end, leased=True)
        if grant_id in self._inherited and now < self._inherited_end:
            held[PREVIOUS_PROCESS] = _Hold(self._inherited_end, leased=True)
        self._sequence += 1
        if final:
            self._revoked.setdefault(grant_id, self._sequence)
        revocation = PendingRevocation(grant_id, self._sequence, self._clock.now_us(), self._clock, held)
        self._pending.setdefault(grant_id, []).append(revocation)
        return revocation

    def remove(self, revocation: PendingRevocation) -> None:
        """Remove a revocation; idempotent."""
        others = [one for one in self._pending.pop(revocation.grant_id, ()) if one is not revocation]
        if others:
            self._pending[revocation.grant_id] = others

    @property
    def sequence(self) -> int:
        """The sequence number of the latest revocation. An event made now announces it and every earlier one."""
        return self._sequence

    def ack(self, grant_id: str, instance: str, sequence: int, failed_in_flight: int = 0) -> None:
        """Release a cache object that dropped everything of a grant upon an event made at `sequence`."""
        for revocation in self._pending.get(grant_id, ()):
            if revocation.sequence <= sequence:
                revocation.ack(instance, failed_in_flight)
        if sequence >= self._revoked.get(grant_id, sequence + 1):
            # The grant gets no further lease. An earlier event would not do: answers may have been cached after it.
            self._leases.get(grant_id, {}).pop(instance, None)

    def is_pending(self, grant_id: str) -> bool:
        """Tell whether a revocation or scope reduction of a grant has no receipt yet."""
        return grant_id in self._pending

    def on_disconnect(self, grant_id: str, instance: str) -> None:
        """Release a cache object whose last watch ended from the revocations for which it holds no lease."""
        for revocation in self._pending.get(grant_id, ()):
            revocation.on_disconnect(instance)

    def count(self, grant_id: str) -> int:
        """Return how many cache objects hold leases of a grant."""
        return len(_alive(self._leases.get(grant_id, {}), self._clock.elapsed()))

    @property
    def total(self) -> int:
        """The number of leases of all grants."""
        return sum(map(self.count, tuple(self._leases)))

    def _sweep(self, now: float) -> None:
        """Remove ended leases, once in the longest time that a lease is held."""
        if now < self._sweep_at:
            return
        self._sweep_at = now + lease_hold_s(self._max_lease_ms)
        alive = {grant_id: _alive(leases, now) for grant_id, leases in self._leases.items()}
        self._leases = {grant_id: leases for grant_id, leases in alive.items() if leases}


def lease_hold_s(lease_ms: int) -> float:
    """Return the seconds for which the table holds a lease: 1.1 times its length, as margin for clock rates."""
    return lease_ms * 11 / 10_000


def _alive(leases: dict[str, float], now: float) -> dict[str, float]:
    return {instance: end for instance, end in tuple(leases.items()) if end > now}
