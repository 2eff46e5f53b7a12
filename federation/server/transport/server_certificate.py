"""The renewal of the gateway's own server certificate, before it expires and when its host names change."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from federation.aio import run_periodically
from federation.clock import MICROSECONDS, SYSTEM_CLOCK, Clock, from_micros
from federation.errors import FederationError
from federation.pki.authority import Authority
from federation.pki.certificates import fingerprint_of, parsed, validity_us
from federation.pki.rotation_policy import Validity, due_at_us
from federation.telemetry.metrics import Remaining

LOGGER: Final = logging.getLogger(__name__)
CHECK_S: Final = 30.0
"""Seconds between the checks of `run`."""
FAILING: Final = "this gateway's server certificate cannot be renewed"
AUTHORITY_ENDS_SOON_US: Final = 365 * 86_400 * MICROSECONDS


class ServerCertificate:
    """Renews the server certificate of `authority` so that it is valid and names the gateway and `hosts`.

    `save` stores an authority with a new certificate; it runs before the certificate is published.
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
        """Warnings for the operator: a failing renewal, an authority that ends within a year."""
        end = self._authority_ends_us
        ends_soon = self._clock.now_us() > end - AUTHORITY_ENDS_SOON_US
        ending = (f"this gateway's authority ends on {from_micros(end):%Y-%m-%d}; no certificate outlives it",)
        return (ending if ends_soon else ()) + ((self._fault,) if self._fault else ())

    @property
    def _authority_ends_us(self) -> int:
        return validity_us(parsed(self.authority.ca_certificate_pem))[1]

    @property
    def validity(self) -> Validity:
        """The validity of the certificate in use."""
        certificate = parsed(self.authority.server_certificate_pem)
        return Validity(*validity_us(certificate), fingerprint_of(certificate))

    @property
    def remaining(self) -> Remaining:
        """The remaining lifetime of the certificate in use, for metrics."""
        return Remaining("server", (self.validity.not_after_us - self._clock.now_us()) / MICROSECONDS)

    def is_due(self) -> bool:
        """Tell whether the certificate is past its renewal point, or its host names differ from the required ones."""
        validity = self.validity
        old = self._clock.now_us() >= due_at_us(validity) and validity.not_after_us < self._authority_ends_us
        return old or not self.authority.serves(self._hosts)

    async def refresh(self, publish: Callable[[Authority], None] = lambda _: None) -> bool:
        """Renew the certificate if it is due, and `publish` it; return whether it was due.

        Raises `StoreError`, or the error of `publish`; then the certificate in use stays, and `warnings` has the error.
        """
        if not self.is_due():
            return False
        renewed = self.authority.with_server(self._hosts, self._lifetime_s)
        try:
            await self._save(renewed)
            publish(renewed)
        except Exception as e:
            self._fault = f"{FAILING}: {e}"
            raise
        self.authority, self._fault = renewed, ""
        LOGGER.info("the server certificate was renewed; it ends at %s", from_micros(self.validity.not_after_us))
        return True

    async def run(self, publish: Callable[[Authority], None]) -> None:
        """Renew until cancelled, and `publish` each new certificate. Errors are logged once and retried."""
        work = partial(self.refresh, publish)
        await run_periodically(CHECK_S, work, expected=FederationError, logger=LOGGER, failing=FAILING)
