"""The gateway's own server certificate: renewed before it ends, and when the names that it must carry change."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from cryptography import x509

from federation.clock import MICROSECONDS, SYSTEM_CLOCK, Clock, from_micros
from federation.errors import FederationError
from federation.pki.authority import Authority
from federation.pki.certificates import fingerprint_of, validity_us
from federation.pki.rotation_policy import Validity, due_at_us
from federation.telemetry.metrics import Remaining

__all__ = ["ServerCertificate"]

LOGGER: Final = logging.getLogger(__name__)
CHECK_S: Final = 30.0
"""How often `run` looks at the clock."""
AUTHORITY_ENDS_SOON_US: Final = 365 * 86_400 * MICROSECONDS


class ServerCertificate:
    """Keeps `authority` such that its server certificate is valid and carries the gateway's name and `hosts`.

    `save` makes an authority with another certificate durable; it runs before the certificate is shown to anybody.
    """

    def __init__(
        self,
        authority: Authority,
        hosts: Sequence[str],
        *,
        lifetime_s: float,
        save: Callable[[Authority], Awaitable[None]],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.authority = authority
        self._hosts, self._lifetime_s, self._save, self._clock = tuple(hosts), lifetime_s, save, clock
        self._fault = ""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the operator must know: a renewal that fails, an authority that nears its end."""
        end = self._authority_ends_us
        soon = self._clock.now_us() > end - AUTHORITY_ENDS_SOON_US
        ending = (f"this gateway's authority ends on {from_micros(end):%Y-%m-%d}; no certificate outlives it",)
        return (ending if soon else ()) + ((self._fault,) if self._fault else ())

    @property
    def _authority_ends_us(self) -> int:
        return validity_us(_parsed(self.authority.ca_certificate_pem))[1]

    @property
    def validity(self) -> Validity:
        """From when to when the certificate in use is valid."""
        certificate = _parsed(self.authority.server_certificate_pem)
        return Validity(*validity_us(certificate), fingerprint_of(certificate))

    @property
    def remaining(self) -> Remaining:
        """How long the certificate in use lasts, for metrics."""
        return Remaining("server", (self.validity.not_after_us - self._clock.now_us()) / MICROSECONDS)

    def is_due(self) -> bool:
        """Tell whether the certificate has used up two thirds of its life, or carries other names than it must."""
        validity = self.validity
        old = self._clock.now_us() >= due_at_us(validity) and validity.not_after_us < self._authority_ends_us
        return old or not self.authority.serves(self._hosts)

    async def refresh(self, publish: Callable[[Authority], None] = lambda _: None) -> bool:
        """Renew the certificate if it is due, and `publish` it; tell whether it was.

        Raises `StoreError` or what `publish` raises; then the certificate in use stays.
        """
        if not self.is_due():
            return False
        renewed = self.authority.with_server(self._hosts, self._lifetime_s)
        await self._save(renewed)
        publish(renewed)
        self.authority = renewed
        LOGGER.info("the server certificate was renewed; it ends at %s", from_micros(self.validity.not_after_us))
        return True

    async def run(self, publish: Callable[[Authority], None]) -> None:
        """Renew for ever, and hand each new certificate to `publish`. A failure is logged once and tried again."""
        while True:
            await asyncio.sleep(CHECK_S)
            await self.run_renewal(publish)

    async def run_renewal(self, publish: Callable[[Authority], None]) -> None:
        """Renew and publish if that is due; a failure becomes a warning, and the certificate in use stays."""
        try:
            await self.refresh(publish)
        except FederationError as e:
            fault = f"this gateway's server certificate cannot be renewed: {e}"
            if fault != self._fault:
                LOGGER.warning("%s; it is tried again every %g s", fault, CHECK_S)
            self._fault = fault
        else:
            self._fault = ""


def _parsed(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())
