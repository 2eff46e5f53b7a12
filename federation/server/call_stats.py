"""Counters of the calls that this gateway has served since it started, by verb and outcome, and by grant."""

from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from types import MappingProxyType
from typing import Final, NamedTuple

from federation.clock import SYSTEM_CLOCK, Clock
from federation.telemetry.spans import OutcomeName

DENIALS: Final = frozenset({OutcomeName.DENIED, OutcomeName.RATE_LIMITED})
"""Outcomes that deny the caller, not the request."""


@dataclass(frozen=True, slots=True)
class GrantUse:
    """The calls under one grant. `last_denied_*` describe the last denial, with the reason of its audit event."""

    requests: int = 0
    denials: int = 0
    last_denied_at_us: int | None = None
    last_denied_reason: str = ""


class Totals(NamedTuple):
    """The numbers of all calls by verb and outcome, and the instant of the last call."""

    requests: Mapping[tuple[str, str], int]
    last_request_us: int | None


UNUSED: Final = GrantUse()


class CallCounters:
    """Counts ended calls in memory. Thread-safe.

    The numbers of verbs, outcomes and known grants bound its memory: a call whose grant is unknown adds to the totals
    only.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = Lock()
        self._requests: dict[tuple[str, str], int] = {}
        self._grants: dict[str, GrantUse] = {}
        self._last_us: int | None = None

    def record(self, verb: str, outcome: OutcomeName, *, grant_id: str | None = None, reason: str = "") -> None:
        """Count an ended call. `grant_id` must be that of a known grant; `reason` is that of the audit event."""
        now_us, key = self._clock.now_us(), (verb, outcome.value)
        with self._lock:
            self._last_us = now_us
            self._requests[key] = self._requests.get(key, 0) + 1
            if grant_id is None:
                return
            use = self._grants.get(grant_id, UNUSED)
            self._grants[grant_id] = (
                GrantUse(use.requests + 1, use.denials + 1, now_us, reason)
                if outcome in DENIALS
                else GrantUse(use.requests + 1, use.denials, use.last_denied_at_us, use.last_denied_reason)
            )

    def of(self, grant_id: str) -> GrantUse:
        """Return the counters of a grant."""
        return self._grants.get(grant_id, UNUSED)

    def totals(self) -> Totals:
        """Return a snapshot of the totals."""
        with self._lock:
            return Totals(MappingProxyType(dict(sorted(self._requests.items()))), self._last_us)
