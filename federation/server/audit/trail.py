"""The audit trail of the serving gateway: written off the request path, in batches, visible within a second.

Allowed reads are never dropped: while the queue is full, the reply is delayed, and then the read is refused. Refusals
with the same source, verb, reason and grant become one event with a count, so a flood of them costs little; beyond a
bound they are dropped, and the drops are counted.
"""

import asyncio
import contextlib
import logging
from collections import deque
from dataclasses import replace
from itertools import islice
from typing import Final
from urllib.parse import unquote

from federation.aio import cancel_and_wait
from federation.backoff import Backoff
from federation.clock import SYSTEM_CLOCK, Clock
from federation.enrollment.servicer import EnrollmentEvent
from federation.errors import FederationError, Reason, Refusal
from federation.server.audit.vocabulary import MIXED, OWN
from federation.store.audit.model import AuditEvent
from federation.store.audit.table import AuditStore
from federation.store.database import cause_of
from federation.store.grants.model import Grant
from federation.store.peers import PeerRecord

LOGGER: Final = logging.getLogger(__name__)
CAPACITY: Final = 4_096
MAX_REFUSALS: Final = 1_024
BATCH: Final = 512
LINGER_S: Final = 0.1
"""Seconds for which the first event of a batch waits for others, unless a reply is delayed."""
HOLD_S: Final = 0.1
"""Seconds for which a reply waits for a place in a full queue."""
FIRST_RETRY_S: Final = 0.1
LAST_RETRY_S: Final = 5.0
STOP_S: Final = 5.0

RefusalKey = tuple[str, str, str | None, str, str]


class AuditTrail:
    """The queue between calls and the audit table. Use it from one event loop; `start` it before the first call.

    `capacity` bounds the allowed reads that wait to be written, including those of the current batch.
    """

    def __init__(self, store: AuditStore, clock: Clock = SYSTEM_CLOCK, *, capacity: int = CAPACITY) -> None:
        self._store, self._clock = store, clock
        self._places = asyncio.Semaphore(capacity)
        self._reads: deque[AuditEvent] = deque()
        self._acts: deque[AuditEvent] = deque()
        self._refusals: dict[RefusalKey, AuditEvent] = {}
        self._work, self._flush_now, self._stopping = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.failing = False
        """Whether the last attempt to write failed."""
        self.dropped = 0
        """Refusals that were not recorded because too many different ones waited."""

    @property
    def waiting(self) -> int:
        """The number of events that are not written yet."""
        return len(self._reads) + len(self._acts) + len(self._refusals)

    def start(self) -> None:
        """Start the task that writes events."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="audit")

    async def stop(self, timeout_s: float = STOP_S) -> None:
        """Write the waiting events, for at most `timeout_s`, and stop. Stop the servers before: later reads fail."""
        self._stopping.set()
        self._flush_now.set()
        self._work.set()
        if self._task is None:
            return
        _, late = await asyncio.wait({self._task}, timeout=timeout_s)
        if late:
            await cancel_and_wait(self._task)
        if self.waiting:
            LOGGER.error("the audit trail stopped with %d events unwritten", self.waiting)

    async def record_read(self, event: AuditEvent) -> None:
        """Queue an allowed read. Its reply may leave when this returns.

        Raises `Refusal` RATE_LIMITED if the queue stays full: then the read must not be served.
        """
        if self._places.locked():
            self._flush_now.set()
            try:
                async with asyncio.timeout(HOLD_S):
                    await self._places.acquire()
            except TimeoutError:
                raise _overloaded() from None
        else:
            await self._places.acquire()
        if self._stopping.is_set():
            self._places.release()
            raise _overloaded()
        self._reads.append(event)
        self._work.set()

    def record_refusal(self, event: AuditEvent) -> None:
        """Queue a refused call, or add it to the count of a waiting event that is like it."""
        key = (event.source, event.reason, event.grant_id, event.outcome, event.verb)
        like = self._refusals.get(key)
        if like is not None:
            self._refusals[key] = _merged(like, event)
        elif len(self._refusals) < MAX_REFUSALS:
            self._refusals[key] = event
        else:
            if not self.dropped:
                LOGGER.warning(
                    "the audit trail drops refusals: %d different ones wait to be written; drops are counted",
                    MAX_REFUSALS,
                )
            self.dropped += event.count
        self._work.set()

    def record_act(
        self,
        verb: str,
        outcome: str = "ok",
        *,
        grant_id: str | None = None,
        peer: str = "",
        subject: str = "",
        reason: str = "",
        source: str = "",
    ) -> None:
        """Queue an act other than a read: enroll, renew, revoke, and the acts of the operator.

        `source` is an address, gRPC's name of an address, or one of `OWN`. A refused act (`outcome` other than `ok`)
        from an address is counted like refused calls, because any caller can cause it.
        """
        event = AuditEvent(
            at_us=self._clock.now_us(),
            verb=verb,
            outcome=outcome,
            grant_id=grant_id,
            peer=peer,
            subject=subject,
            reason=reason,
            source=source_of(source),
        )
        if outcome == "ok" or source in OWN:
            self._acts.append(event)
            self._work.set()
        else:
            self.record_refusal(event)

    def record_grant_act(self, verb: str, grant: Grant, *, reason: str = "", source: str) -> None:
        """Queue a successful act on a grant."""
        self.record_act(verb, grant_id=grant.id, peer=grant.peer, subject=grant.subject, reason=reason, source=source)

    def record_peer_act(
        self, verb: str, peer: PeerRecord, fault: FederationError | None = None, *, source: str
    ) -> None:
        """Queue an act at a peer; `fault` is set if it failed. The subject is the local user."""
        self.record_act(
            verb,
            "error" if fault else "ok",
            grant_id=peer.grant_id,
            peer=peer.name,
            subject=peer.user,
            reason=fault.reason.value if isinstance(fault, Refusal) else type(fault).__name__ if fault else "",
            source=source,
        )

    async def record_enrollment(self, event: EnrollmentEvent) -> None:
        """Queue an attempt to enroll or renew: the `EnrollmentAudit` of the enrollment service."""
        self.record_act(
            event.verb,
            event.outcome,
            grant_id=event.grant_id or None,
            peer=event.peer,
            subject=event.subject,
            reason=event.reason,
            source=event.source,
        )

    async def _run(self) -> None:
        while not (self._stopping.is_set() and not self.waiting):
            await self._work.wait()
            await _wait(self._flush_now, LINGER_S)
            self._work.clear()
            self._flush_now.clear()
            await self._drain()

    async def _drain(self) -> None:
        backoff = Backoff(FIRST_RETRY_S, LAST_RETRY_S)
        while self.waiting:
            acts, reads = list(islice(self._acts, BATCH)), list(islice(self._reads, BATCH))
            refusals, self._refusals = self._refusals, {}
            try:
                await self._store.insert_many([*acts, *reads, *refusals.values()])
            except BaseException as e:
                self._put_back(refusals)
                if not isinstance(e, Exception):
                    raise
                self._report(e)
                pause_s = backoff.failed()
                await (asyncio.sleep(FIRST_RETRY_S) if self._stopping.is_set() else _wait(self._stopping, pause_s))
                continue
            self._report(None)
            self._remove_written(len(acts), len(reads))

    def _remove_written(self, acts: int, reads: int) -> None:
        for _ in range(acts):
            self._acts.popleft()
        for _ in range(reads):
            self._reads.popleft()
            self._places.release()

    def _put_back(self, refusals: dict[RefusalKey, AuditEvent]) -> None:
        newer, self._refusals = self._refusals, refusals
        for event in newer.values():
            self.record_refusal(event)

    def _report(self, fault: Exception | None) -> None:
        """Log once that writing fails, and once that it works again."""
        if fault is not None and not self.failing:
            LOGGER.error(
                "audit rows cannot be written (%s: %s); they stay queued and are retried, and reads are refused "
                "once the queue is full",
                type(fault).__name__,
                cause_of(fault),
            )
        elif fault is None and self.failing:
            LOGGER.warning("audit rows are written again")
        self.failing = fault is not None


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for an event, for at most `timeout_s`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()


def source_of(peer: str) -> str:
    """Return the address in gRPC's name of a peer (`ipv4:127.0.0.1:4711`, `ipv6:%5B::1%5D:4711`), without the port.

    Any other text is returned unchanged.
    """
    kind, _, rest = unquote(peer).partition(":")
    if kind == "ipv4":
        return rest.rpartition(":")[0]
    if kind == "ipv6":
        return rest.rpartition(":")[0].strip("[]")
    return kind if kind == "unix" else peer


def _merged(like: AuditEvent, event: AuditEvent) -> AuditEvent:
    return replace(
        like,
        count=like.count + event.count,
        resource=like.resource if like.resource == event.resource else MIXED,
        peer=like.peer if like.peer == event.peer else MIXED,
        subject=like.subject if like.subject == event.subject else MIXED,
        query_hash=like.query_hash if like.query_hash == event.query_hash else "",
        trace_id=like.trace_id if like.trace_id == event.trace_id else "",
    )


def _overloaded() -> Refusal:
    return Refusal(
        Reason.RATE_LIMITED,
        "the serving gateway cannot record reads fast enough and refuses them for now; try again",
        retry_after_s=1.0,
        detail="audit queue full",
    )
