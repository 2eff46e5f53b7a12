"""The schedule of one peer's certificate renewals, given the results so far. Pure: no clock, no random numbers."""

from typing import Final

from federation.client.chain.call_stats import CallFailure
from federation.clock import MICROSECONDS
from federation.pki.rotation_policy import AFTER_EXPIRY_US, DEGRADED_AT, Validity, due_at_us, retry_delay_s

LEAST_PAUSE_US: Final = 60 * MICROSECONDS
"""Shortest pause between a renewal and the next automatic one, however short the new certificate's lifetime."""


class RenewalPlan:
    """The renewals of one peer. Instants are Unix microseconds.

    `last_failure` is that of the last attempt, `None` after a success. `final` means that no further renewal can
    succeed: the grant was revoked or has ended.
    """

    def __init__(self, certificate: Validity) -> None:
        self.certificate = certificate
        self.failures = 0
        self.last_failure: CallFailure | None = None
        self.final = False
        self.attempts: dict[str, int] = {}
        """Number of attempts of this process by outcome."""
        self._at_us = due_at_us(certificate)

    @property
    def degraded(self) -> bool:
        """Whether enough consecutive attempts failed that the operator should act."""
        return self.failures >= DEGRADED_AT or (self.final and self.failures > 0)

    def next_at_us(self, now_us: int) -> int | None:
        """Return when to try next, or `None` if the plan is final or it is too late."""
        too_late = now_us > self.certificate.not_after_us + AFTER_EXPIRY_US
        return None if self.final or too_late else self._at_us

    def is_due(self, now_us: int) -> bool:
        """Tell whether the renewal is due."""
        at = self.next_at_us(now_us)
        return at is not None and at <= now_us

    def postpone(self, until_us: int) -> None:
        """Postpone the next attempt: none was made."""
        self._at_us = max(self._at_us, until_us)

    def record_attempt(self, outcome: str) -> None:
        """Count an attempt by its outcome."""
        self.attempts[outcome] = self.attempts.get(outcome, 0) + 1

    def record_failure(
        self, failure: CallFailure, chance: float, *, final: bool = False, retry_after_s: float | None = None
    ) -> None:
        """Record a failed attempt; `final` if a retry cannot succeed, `retry_after_s` as the peer asked."""
        self.failures += 1
        self.last_failure = failure
        self.final = final
        left_s = (self.certificate.not_after_us - failure.at_us) / MICROSECONDS
        delay_s = max(retry_delay_s(self.failures, left_s, chance), min(retry_after_s or 0.0, 3_600.0))
        self._at_us = failure.at_us + round(delay_s * MICROSECONDS)

    def record_renewal(self, certificate: Validity, now_us: int) -> None:
        """Record a new certificate in use, from any process; one that ends no later than the old is the last."""
        was_due = now_us >= due_at_us(self.certificate)
        self.final = was_due and certificate.not_after_us <= self.certificate.not_after_us
        self.certificate = certificate
        self.failures, self.last_failure = 0, None
        self._at_us = max(due_at_us(certificate), now_us + LEAST_PAUSE_US)
