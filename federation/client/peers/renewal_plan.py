"""When one peer's certificate is renewed next, given what became of the attempts so far. Pure: no clock, no chance."""

from typing import Final

from federation.client.chain.call_stats import CallFailure
from federation.clock import MICROSECONDS
from federation.pki.rotation_policy import AFTER_EXPIRY_US, DEGRADED_AT, Validity, due_at_us, retry_delay_s

__all__ = ["RenewalPlan"]

LEAST_PAUSE_US: Final = 60 * MICROSECONDS
"""Between a renewal and the next automatic one, however short the new certificate's life is."""


class RenewalPlan:
    """The renewals of one peer. Instants are Unix microseconds.

    `last_failure` is that of the last attempt, `None` after a success. `final` tells that the peer will not renew
    again, whatever this gateway does: the grant was revoked or has ended.
    """

    def __init__(self, certificate: Validity) -> None:
        self.certificate = certificate
        self.failures = 0
        self.last_failure: CallFailure | None = None
        self.final = False
        self.attempts: dict[str, int] = {}
        """How the attempts of this process ended so far: counts by outcome word."""
        self._at_us = due_at_us(certificate)

    @property
    def degraded(self) -> bool:
        """Whether the last attempts failed so often that the operator should look."""
        return self.failures >= DEGRADED_AT or (self.final and self.failures > 0)

    def next_at_us(self, now_us: int) -> int | None:
        """Return when to try next, or `None`: there is no hope, or it is too late."""
        too_late = now_us > self.certificate.not_after_us + AFTER_EXPIRY_US
        return None if self.final or too_late else self._at_us

    def is_due(self, now_us: int) -> bool:
        """Tell whether it is time."""
        at = self.next_at_us(now_us)
        return at is not None and at <= now_us

    def postpone(self, until_us: int) -> None:
        """Try later: nothing was attempted."""
        self._at_us = max(self._at_us, until_us)

    def attempted(self, outcome: str) -> None:
        """Count an attempt by how it ended."""
        self.attempts[outcome] = self.attempts.get(outcome, 0) + 1

    def failed(
        self, failure: CallFailure, chance: float, *, final: bool = False, retry_after_s: float | None = None
    ) -> None:
        """Note an attempt that failed; `final` where trying again is in vain, `retry_after_s` as the peer asked."""
        self.failures += 1
        self.last_failure = failure
        self.final = final
        left_s = (self.certificate.not_after_us - failure.at_us) / MICROSECONDS
        delay_s = max(retry_delay_s(self.failures, left_s, chance), min(retry_after_s or 0.0, 3_600.0))
        self._at_us = failure.at_us + round(delay_s * MICROSECONDS)

    def renewed(self, certificate: Validity, now_us: int) -> None:
        """Note another certificate in use, whoever got it. One that brought no time ends with its grant."""
        was_due = now_us >= due_at_us(self.certificate)
        self.final = was_due and certificate.not_after_us <= self.certificate.not_after_us
        self.certificate = certificate
        self.failures, self.last_failure = 0, None
        self._at_us = max(due_at_us(certificate), now_us + LEAST_PAUSE_US)
