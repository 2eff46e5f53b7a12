"""What this gateway has answered to others since it started: totals by verb and outcome, and by grant."""

from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from types import MappingProxyType
from typing import Final, NamedTuple

from federation.clock import SYSTEM_CLOCK, Clock
from federation.telemetry.spans import OutcomeName

__all__ = ["UNUSED", "CallCounters", "GrantUse", "Totals"]

DENIALS: Final = frozenset({OutcomeName.DENIED, OutcomeName.RATE_LIMITED})
"""Outcomes by which a gateway says no to the caller, whatever it asked."""


@dataclass(frozen=True, slots=True)
class GrantUse:
    """The calls under one grant. `last_denied_*` tell of the last denial, in the words of the audit trail."""

    requests: int = 0
    denials: int = 0
    last_denied_at_us: int | None = None
    last_denied_reason: str = ""


class Totals(NamedTuple):
    """All calls together: how many by verb and outcome word, and when the last one came."""

    requests: Mapping[tuple[str, str], int]
    last_request_us: int | None


UNUSED: Final = GrantUse()


class CallCounters:
    """Counts ended calls in memory; any thread may count and read.

    It is bounded by the verbs, the outcome words and the grants of the book: a call whose grant is unknown adds to the
    totals alone.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = Lock()
        self._requests: dict[tuple[str, str], int] = {}
        self._grants: dict[str, GrantUse] = {}
        self._last_us: int | None = None

    def ended(self, verb: str, outcome: OutcomeName, *, grant_id: str | None = None, reason: str = "") -> None:
        """Count a call that has ended. `grant_id` is that of a grant in the book, `reason` as the audit has it."""
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
        """Return the calls under a grant."""
        return self._grants.get(grant_id, UNUSED)

    def totals(self) -> Totals:
        """Return all calls together, as they stand now."""
        with self._lock:
            return Totals(MappingProxyType(dict(sorted(self._requests.items()))), self._last_us)
