"""The renewer of this gateway's client certificates, coordinated over all processes on its directory.

The process that finds a certificate due takes the directory's renewal lock, reads the record again, and renews the
certificate if it is still due; the other processes load the changed record from the store. The new certificate is
stored first; then its channel is published, and the old one drains.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from federation.aio import cancel_and_wait, run_periodically
from federation.client.chain.call_stats import CallFailure
from federation.client.peers.peer import Peer
from federation.client.peers.registry import PeerRegistry
from federation.client.peers.renewal_plan import RenewalPlan
from federation.client.peers.store import PeerRepository
from federation.clock import MICROSECONDS, Clock
from federation.enrollment.renew import renew
from federation.errors import ConflictError, FederationError, LockedError, NotFoundError, Reason, Refusal
from federation.pki.certificates import fingerprint_of, parsed, validity_us
from federation.pki.rotation_policy import Validity, is_urgent
from federation.sanitize import printable
from federation.store.locks import FileLock
from federation.store.peers import PeerRecord, PeerStore, Versions
from federation.telemetry.spans import OutcomeName, outcome_of_code

LOGGER: Final = logging.getLogger(__name__)
RENEWAL_LOCK: Final = "renewal.lock"
POLL_S: Final = 5.0
"""Interval at which the store is checked for peers that another process changed."""
TICK_S: Final = 1.0
"""Interval at which the clock is compared with the due times. The clock may jump: a laptop sleeps."""
MAX_CONCURRENT: Final = 4
"""Number of concurrent renewals."""
LOCK_TIMEOUT_S: Final = 60.0
"""Seconds for which a renewal by hand waits for other processes on this directory."""
OnRenewal = Callable[[Peer, FederationError | None], None]
"""Called for each certificate that was renewed because it was due, and for each new kind of failure."""


class Renewer:
    """Renews the certificates of a directory's peers on one loop. Several processes may work on one directory."""

    def __init__(
        self,
        peers: PeerRegistry,
        store: PeerStore | PeerRepository,
        *,
        directory: Path,
        gateway_name: str,
        clock: Clock,
        chance: Callable[[], float] = random.random,
        poll_s: float = POLL_S,
        on_renewal: OnRenewal | None = None,
    ) -> None:
        self._peers, self._store, self._clock, self._chance = peers, store, clock, chance
        self._directory, self._gateway_name, self._poll_s = directory, gateway_name, poll_s
        self._on_renewal = on_renewal or (lambda _peer, _last_error: None)
        self._versions: Versions | None = None
        self._polled_at = float("-inf")
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start `run` on this loop; do nothing if it has been started."""
        if self._running is None:
            self._running = asyncio.create_task(self.run())

    async def stop(self) -> None:
        """Stop `run`, and wait for its end. Call this on the same loop."""
        running, self._running = self._running, None
        if running is not None:
            await cancel_and_wait(running)

    async def run(self) -> None:
        """Follow the store and renew what is due, without end. Errors are logged once and retried."""
        interval_s, failing = min(TICK_S, self._poll_s), "due certificates cannot be renewed"
        await run_periodically(interval_s, self.step, expected=FederationError, logger=LOGGER, failing=failing)

    async def step(self) -> None:
        """Do once what is due now."""
        if self._clock.monotonic() - self._polled_at >= self._poll_s:
            self._polled_at = self._clock.monotonic()
            await self.reload()
        due = [peer for peer in self._peers.all() if self._is_due(peer)]
        if not due:
            return
        with suppress(LockedError):  # another process, or another federation of this one, renews
            async with self._renewal_lock(0.0):
                slots = asyncio.Semaphore(MAX_CONCURRENT)
                await asyncio.gather(*(self._attempt(peer, slots) for peer in due))

    async def reload(self) -> None:
        """Load what other processes changed in the store."""
        before = self._peers.generation
        versions = await self._store.versions()
        if versions == self._versions:
            return
        records = await self._store.all()
        # Changes that this process made during the read are newer than the records it read.
        if self._peers.load(records, unless_changed_since=before):
            self._versions = versions

    async def rotate(self, peer: Peer) -> None:
        """Renew a peer's certificate now.

        Raises what `federation.enrollment.renew.renew` raises, and `LockedError` if other processes on this directory
        hold the renewal lock for a minute.
        """
        async with self._renewal_lock(LOCK_TIMEOUT_S):
            await self._renew(peer, by_hand=True)

    @asynccontextmanager
    async def _renewal_lock(self, timeout_s: float) -> AsyncIterator[None]:
        lock = FileLock(self._directory / RENEWAL_LOCK, "certificates are being renewed")
        end = self._clock.monotonic() + timeout_s
        while True:
            try:
                lock.acquire()
                break
            except LockedError:
                if self._clock.monotonic() >= end:
                    raise
            await asyncio.sleep(0.05)
        try:
            yield
        finally:
            lock.release()

    async def _attempt(self, peer: Peer, slots: asyncio.Semaphore) -> None:
        async with slots:
            try:
                await self._renew(peer, by_hand=False)
            except FederationError as e:
                LOGGER.debug("renewing the certificate for %s (user %s): %s", peer.name, peer.user, e)

    async def _renew(self, peer: Peer, *, by_hand: bool) -> None:
        plan = plan_of(peer)
        try:
            record = await self._store.get(peer.record.id)
            if record is not None and record.certificate_pem != peer.record.certificate_pem:
                self._apply(peer, record)
                if not by_hand:  # another process has renewed it
                    return
            renewed = None
            if record is not None:
                renewed = await renew(record, gateway_name=self._gateway_name, peers=self._store, clock=self._clock)
        except ConflictError:
            self._versions = None
            raise
        except FederationError as e:
            if self._record_failure(peer, plan, e) and not by_hand:
                self._on_renewal(peer, e)
            raise
        if renewed is None:
            self._versions = None
            raise NotFoundError("peer", peer.name, cure="another process removed it")
        self._apply(peer, renewed)
        peer.health.record_contact()
        plan.record_attempt(OutcomeName.OK.value)
        LOGGER.info("the certificate for %s (user %s) was renewed", peer.name, peer.user)
        if not by_hand:
            self._on_renewal(peer, None)

    def _apply(self, peer: Peer, record: PeerRecord) -> None:
        plan = plan_of(peer)
        if plan.degraded:
            LOGGER.info("the certificate for %s (user %s) can be renewed again", peer.name, peer.user)
        self._peers.renew(record)
        plan.record_renewal(validity_of(record.certificate_pem), self._clock.now_us())

    def _is_due(self, peer: Peer) -> bool:
        if peer.revocation is not None:
            return False
        plan, now = plan_of(peer), self._clock.now_us()
        if not plan.is_due(now):
            return False
        cooldown_s = peer.circuit.snapshot(self._clock.monotonic()).retry_in_s
        if cooldown_s and not is_urgent(plan.certificate, now):
            plan.postpone(now + round(cooldown_s * MICROSECONDS))
            return False
        return True

    def _record_failure(self, peer: Peer, plan: RenewalPlan, error: FederationError) -> bool:
        """Record the failure, and log it once for each state of the renewal; return whether the state is new."""
        reason = error.reason if isinstance(error, Refusal) else None
        retry_after_s = error.retry_after_s if isinstance(error, Refusal) else None
        code = error.code if isinstance(error, Refusal) else ""
        text = printable(str(error))
        before = _renewal_state(plan)
        revoked = reason is Reason.GRANT_REVOKED
        plan.record_attempt(outcome_of_code(code).value)
        failure = CallFailure(self._clock.now_us(), code, reason.value if reason else "", text)
        plan.record_failure(failure, self._chance(), final=revoked, retry_after_s=retry_after_s)
        news = _renewal_state(plan) != before
        if news:
            result = "is refused finally" if revoked else "fails repeatedly" if plan.degraded else "failed"
            LOGGER.warning("renewal for %s (user %s) %s: %s", peer.name, peer.user, result, text)
        if revoked:
            peer.on_revoked(text)
            peer.apply_revocation()
        return news


def plan_of(peer: Peer) -> RenewalPlan:
    """Return the renewal plan of a peer, created by the first call and updated to its record."""
    validity = validity_of(peer.record.certificate_pem)
    plan = peer.renewal
    if plan is None:
        plan = peer.renewal = RenewalPlan(validity)
    elif plan.certificate.name != validity.name:
        plan.record_renewal(validity, validity.not_before_us)
    return plan


def validity_of(certificate_pem: str) -> Validity:
    """Return the validity of a certificate; an unreadable one counts as expired."""
    try:
        certificate = parsed(certificate_pem)
    except ValueError:
        return Validity(0, 0, certificate_pem)
    return Validity(*validity_us(certificate), fingerprint_of(certificate))


def _renewal_state(plan: RenewalPlan) -> tuple[bool, bool, Iterable[str]]:
    reason = plan.last_failure.reason if plan.last_failure else "fine"
    return plan.degraded, plan.final, reason
