"""The policy of certificate renewal: when a certificate is renewed, and how failures are retried. Pure."""

import hashlib
from dataclasses import dataclass
from typing import Final

from federation.backoff import pause_after
from federation.clock import MICROSECONDS

RENEWAL_POINT: Final = 2 / 3
"""The share of a certificate's lifetime after which it is renewed."""
SPREAD: Final = 1 / 20
"""The share of its lifetime by which a certificate's renewal is moved earlier or later, against load peaks."""
AFTER_EXPIRY_US: Final = 7 * 86_400 * MICROSECONDS
"""The time after its end within which a certificate can be renewed by a proof of its key."""
DEGRADED_AT: Final = 3
"""Consecutive failures to renew at which a peer counts as degraded."""
FIRST_RETRY_S: Final = 5.0
LAST_RETRY_S: Final = 900.0
RETRY_SPREAD: Final = 0.2
URGENT: Final = 0.1
"""The last share of a lifetime, in which no renewal is postponed."""


@dataclass(frozen=True, slots=True)
class Validity:
    """The validity of a certificate in Unix microseconds; `name` identifies the certificate (its fingerprint)."""

    not_before_us: int
    not_after_us: int
    name: str

    @property
    def life_us(self) -> int:
        """The lifetime in microseconds, never negative."""
        return max(0, self.not_after_us - self.not_before_us)


def renewal_point_us(not_before_us: int, not_after_us: int) -> int:
    """Return the instant after two thirds of the lifetime, about which a certificate is renewed."""
    return not_before_us + round((not_after_us - not_before_us) * RENEWAL_POINT)


def due_at_us(certificate: Validity) -> int:
    """Return the instant at which a certificate is to be renewed, near its renewal point.

    The offset depends on the certificate's name, so certificates that end together are renewed at different instants,
    and every process computes the same one.
    """
    digest = hashlib.sha256(b"renewal\0" + certificate.name.encode()).digest()
    chance = int.from_bytes(digest[:8]) / (1 << 64)
    point = renewal_point_us(certificate.not_before_us, certificate.not_after_us)
    return point + round(certificate.life_us * SPREAD * (2 * chance - 1))


def is_urgent(certificate: Validity, now_us: int) -> bool:
    """Tell whether a certificate has expired or is in the last share of its lifetime."""
    return now_us > certificate.not_after_us - round(certificate.life_us * URGENT)


def retry_delay_s(failures: int, left_s: float, chance: float) -> float:
    """Return the delay before the next attempt after `failures` (from 1), with `left_s` seconds of validity left.

    The delay doubles from 5 s up to 15 min, and is at most a quarter of `left_s`, but not below 5 s. `chance` (0 to 1)
    makes it up to a fifth shorter or longer, so that peers do not retry in step.
    """
    delay = pause_after(failures, FIRST_RETRY_S, LAST_RETRY_S)
    if left_s > 0:
        delay = min(delay, max(FIRST_RETRY_S, left_s / 4))
    return delay * (1 + RETRY_SPREAD * (2 * chance - 1))
