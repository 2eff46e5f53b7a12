"""Keeps the certificates of this gateway's peers fresh, together with every other process on its directory.

Whoever finds a certificate due takes the directory's renewal lock, reads the record again, and renews what is still
due; the others see in the store that the record has changed and take it from there. The new certificate is stored
first; then its channel is published, and the old one drains.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from federation.breaker import CircuitState
from federation.client.chain.call_stats import CallFailure
from federation.client.peers.peer import Peer
from federation.client.peers.registry import PeerRegistry
from federation.client.peers.renewal_plan import RenewalPlan
from federation.clock import MICROSECONDS, Clock
from federation.enrollment.renew import Renewable, renew
from federation.errors import ConflictError, FederationError, LockedError, NotFoundError, Reason, Refusal
from federation.pki.certificates import fingerprint_of, parsed, validity_us
from federation.pki.rotation_policy import Validity, is_urgent
from federation.sanitize import printable
from federation.store.locks import FileLock
from federation.store.peers import PeerRecord, Versions
from federation.telemetry.spans import OutcomeName, outcome_of_code

__all__ = ["RENEWAL_LOCK", "OnRenewal", "RenewalStore", "Renewer", "plan_of", "validity_of"]

LOGGER: Final = logging.getLogger(__name__)
RENEWAL_LOCK: Final = "renewal.lock"
POLL_S: Final = 5.0
"""How often the store is asked whether another process changed a peer."""
TICK_S: Final = 1.0
"""How often the clock is compared with what is due. It may jump: a laptop sleeps."""
AT_ONCE: Final = 4
"""Renewals under way at once."""
PATIENCE_S: Final = 60.0
"""How long a renewal by hand waits for others on this directory."""
OnRenewal = Callable[[Peer, FederationError | None], None]
"""Is told of each certificate that was renewed because it was due, and of each new way in which that failed."""


class RenewalStore(Renewable, Protocol):
    """Where this gateway's enrollments are kept; a `PeerStore` is one. The renewer's loop asks."""

    async def all(self) -> tuple[PeerRecord, ...]:
        """Return every peer."""
        ...

    async def get(self, peer_id: str) -> PeerRecord | None:
        """Return one peer by its id."""
        ...

    async def versions(self) -> Versions:
        """Return what tells whether `all` would bring something else than before."""
        ...


class Renewer:
    """Renews the certificates of a directory's peers on one loop. Any number of processes may work on one directory."""

    def __init__(
        self,
        peers: PeerRegistry,
        store: RenewalStore,
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
        self._on_renewal = on_renewal or (lambda _peer, _fault: None)
        self._seen: Versions | None = None
        self._polled_at = float("-inf")
        self._fault = ""
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to `run` on this loop; nothing where that has begun."""
        if self._running is None:
            self._running = asyncio.create_task(self.run())

    async def stop(self) -> None:
        """End what `start` began, and wait for that. Call this on the same loop."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.wait([running])

    async def run(self) -> None:
        """Follow the store and renew what is due, for ever. Faults are logged once and tried again."""
        while True:
            try:
                await self.step()
            except FederationError as e:
                if str(e) != self._fault:
                    LOGGER.warning("peers cannot be kept up to date: %s; it is tried again", e)
                self._fault = str(e)
            except Exception:
                LOGGER.exception("the renewal of certificates broke; it goes on")
            else:
                self._fault = ""
            await asyncio.sleep(min(TICK_S, self._poll_s))

    async def step(self) -> None:
        """Do what is due at this moment."""
        if self._clock.monotonic() - self._polled_at >= self._poll_s:
            self._polled_at = self._clock.monotonic()
            await self.follow()
        due = [peer for peer in self._peers.all() if self._is_due(peer)]
        if not due:
            return
        with suppress(LockedError):  # another process, or another federation of this one, is at it
            async with self._turn(0.0):
                places = asyncio.Semaphore(AT_ONCE)
                await asyncio.gather(*(self._attempt(peer, places) for peer in due))

    async def follow(self) -> None:
        """Take over what other processes changed in the store."""
        before = self._peers.generation
        versions = await self._store.versions()
        if versions == self._seen:
            return
        records = await self._store.all()
        # What this process changed while it read is newer than what it has read.
        if self._peers.load(records, unless_changed_since=before):
            self._seen = versions

    async def rotate(self, peer: Peer) -> None:
        """Renew a peer's certificate now.

        Raises what `federation.trust.renewing.renew` raises, and `LockedError` where others on this directory keep at
        it for a minute.
        """
        async with self._turn(PATIENCE_S):
            await self._renew(peer, by_hand=True)

    @asynccontextmanager
    async def _turn(self, patience_s: float) -> AsyncIterator[None]:
        lock = FileLock(self._directory / RENEWAL_LOCK, "certificates are being renewed")
        end = self._clock.monotonic() + patience_s
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

    async def _attempt(self, peer: Peer, places: asyncio.Semaphore) -> None:
        async with places:
            try:
                await self._renew(peer, by_hand=False)
            except FederationError as e:
                LOGGER.debug("renewing the certificate for %s (user %s): %s", peer.name, peer.user, e)

    async def _renew(self, peer: Peer, *, by_hand: bool) -> None:
        plan = plan_of(peer)
        try:
            record = await self._store.get(peer.record.id)
            if record is not None and record.certificate_pem != peer.record.certificate_pem:
                self._take(peer, record)
                if not by_hand:  # another process was quicker
                    return
            renewed = await self._renewed(record) if record is not None else None
        except ConflictError:
            self._seen = None
            raise
        except FederationError as e:
            if self._note_failure(peer, plan, e) and not by_hand:
                self._on_renewal(peer, e)
            raise
        if renewed is None:
            self._seen = None
            raise NotFoundError("peer", peer.name, cure="another process removed it")
        self._take(peer, renewed)
        if peer.health is not None:
            peer.health.seen()
        plan.attempted(OutcomeName.OK.value)
        LOGGER.info("the certificate for %s (user %s) was renewed", peer.name, peer.user)
        if not by_hand:
            self._on_renewal(peer, None)

    async def _renewed(self, record: PeerRecord) -> PeerRecord:
        return await renew(record, gateway_name=self._gateway_name, peers=self._store, clock=self._clock)

    def _take(self, peer: Peer, record: PeerRecord) -> None:
        plan = plan_of(peer)
        if plan.degraded:
            LOGGER.info("the certificate for %s (user %s) can be renewed again", peer.name, peer.user)
        self._peers.renew(record)
        plan.renewed(validity_of(record.certificate_pem), self._clock.now_us())

    def _is_due(self, peer: Peer) -> bool:
        if peer.revocation is not None:
            return False
        plan, now = plan_of(peer), self._clock.now_us()
        if not plan.is_due(now):
            return False
        rest_s = self._resting_s(peer)
        if rest_s and not is_urgent(plan.certificate, now):
            plan.postpone(now + round(rest_s * MICROSECONDS))
            return False
        return True

    def _resting_s(self, peer: Peer) -> float:
        """Return how long the peer's circuit keeps everything off the wire."""
        if peer.circuit is None:
            return 0.0
        seen = peer.circuit.snapshot(self._clock.monotonic())
        return (seen.retry_in_s or 0.0) if seen.state is CircuitState.OPEN else 0.0

    def _note_failure(self, peer: Peer, plan: RenewalPlan, error: FederationError) -> bool:
        """Note why, and tell it once for each state that the renewal gets into; return whether this was news."""
        reason = error.reason if isinstance(error, Refusal) else None
        retry_after_s = error.retry_after_s if isinstance(error, Refusal) else None
        code = error.code if isinstance(error, Refusal) else ""
        text = printable(str(error))
        before = _standing(plan)
        revoked = reason is Reason.GRANT_REVOKED
        plan.attempted(outcome_of_code(code).value)
        failure = CallFailure(self._clock.now_us(), code, reason.value if reason else "", text)
        plan.failed(failure, self._chance(), final=revoked, retry_after_s=retry_after_s)
        news = _standing(plan) != before
        if news:
            word = "is refused for good" if revoked else "fails time and again" if plan.degraded else "failed"
            LOGGER.warning("renewal for %s (user %s) %s: %s", peer.name, peer.user, word, text)
        if revoked:
            peer.revoked(text)
            peer.settled()
        return news


def plan_of(peer: Peer) -> RenewalPlan:
    """Return the plan of a peer's certificate, made at the first asking and brought up to date with its record."""
    validity = validity_of(peer.record.certificate_pem)
    plan = peer.renewal
    if plan is None:
        plan = peer.renewal = RenewalPlan(validity)
    elif plan.certificate.name != validity.name:
        plan.renewed(validity, validity.not_before_us)
    return plan


def validity_of(certificate_pem: str) -> Validity:
    """Return the validity of a certificate; one that cannot be read has none, and ended long ago."""
    try:
        certificate = parsed(certificate_pem)
    except ValueError:
        return Validity(0, 0, certificate_pem)
    return Validity(*validity_us(certificate), fingerprint_of(certificate))


def _standing(plan: RenewalPlan) -> tuple[bool, bool, Iterable[str]]:
    reason = plan.last_failure.reason if plan.last_failure else "fine"
    return plan.degraded, plan.final, reason
