"""When a certificate is renewed, and what follows from failures to renew it. Pure: instants and chances come in."""

import hashlib
from dataclasses import dataclass
from typing import Final

from federation.clock import MICROSECONDS

__all__ = ["AFTER_EXPIRY_US", "DEGRADED_AT", "Validity", "due_at_us", "is_urgent", "renewal_point_us", "retry_delay_s"]

RENEWAL_POINT: Final = 2 / 3
"""The share of a certificate's life after which it is renewed."""
SPREAD: Final = 1 / 20
"""The share of its life by which one certificate's renewal may come sooner or later than another's."""
AFTER_EXPIRY_US: Final = 7 * 86_400 * MICROSECONDS
"""How long after its end a certificate can still be renewed, on the word of its key."""
DEGRADED_AT: Final = 3
"""Consecutive failures to renew at which a peer counts as degraded."""
FIRST_RETRY_S: Final = 5.0
LAST_RETRY_S: Final = 900.0
RETRY_SPREAD: Final = 0.2
URGENT: Final = 0.1
"""The last share of a life, in which a renewal waits for nothing."""


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when a certificate is valid, in Unix microseconds; `name` tells it from others (a fingerprint)."""

    not_before_us: int
    not_after_us: int
    name: str

    @property
    def life_us(self) -> int:
        """The whole of its life, not negative."""
        return max(0, self.not_after_us - self.not_before_us)


def renewal_point_us(not_before_us: int, not_after_us: int) -> int:
    """Return two thirds of a life, which is when most certificates of this life are renewed."""
    return not_before_us + round((not_after_us - not_before_us) * RENEWAL_POINT)


def due_at_us(certificate: Validity) -> int:
    """Return when a certificate is to be renewed: about its renewal point.

    Certificates that end together are spread by their names, and every process that asks gets the same answer.
    """
    digest = hashlib.sha256(b"renewal\0" + certificate.name.encode()).digest()
    chance = int.from_bytes(digest[:8]) / (1 << 64)
    point = renewal_point_us(certificate.not_before_us, certificate.not_after_us)
    return point + round(certificate.life_us * SPREAD * (2 * chance - 1))


def is_urgent(certificate: Validity, now_us: int) -> bool:
    """Tell whether so little of a life is left, or nothing, that no attempt may be put off."""
    return now_us > certificate.not_after_us - round(certificate.life_us * URGENT)


def retry_delay_s(failures: int, left_s: float, chance: float) -> float:
    """Return how long to wait after so many consecutive failures (from 1), with `left_s` seconds of validity left.

    It doubles from 5 s up to 15 min, is never more than a quarter of what is left while that is more than the
    shortest wait, and `chance` (0 to 1) makes it up to a fifth shorter or longer, so that peers do not come in step.
    """
    delay = min(FIRST_RETRY_S * 2.0 ** min(failures - 1, 32), LAST_RETRY_S)
    if left_s > 0:
        delay = min(delay, max(FIRST_RETRY_S, left_s / 4))
    return delay * (1 + RETRY_SPREAD * (2 * chance - 1))
