"""The granting gateway of the explored protocol: its grants, leases, subscriptions, steps and final check are real."""

from collections.abc import Generator, Hashable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import grpc

from federation.client.chain.flow import Outcome
from federation.errors import Refusal
from federation.scope.model import Scope
from federation.server.pipeline.authorization import authorize
from federation.server.pipeline.identity import CallerIdentity
from federation.server.pipeline.service import FederationService, _CallContext
from federation.server.revocation.leases import LeaseTable, PendingRevocation
from federation.server.revocation.protocol import (
    Act,
    Revoking,
    ScopeReduction,
    Step,
    Store,
    StoreReceipt,
    revocation_steps,
)
from federation.server.watch.service import _armed, _message
from federation.server.watch.subscriptions import Event, EventType, SubscriptionRegistry, Watcher
from federation.store.grants.model import CertificateRecord, Grant, GrantStatus
from federation.store.grants.registry import GrantRegistry
from federation.store.receipts import ReceiptKind
from federation.v1 import federation_pb2 as pb
from federation.verbs.handlers import Reply
from federation.wire.metadata import INSTANCE
from federation.wire.status import refusal_status
from tests.support.clock import ManualClock
from tests.support.manual_driver import ids, rows
from tests.support.server_in_memory import untraced

LEASE_S = 30.0
SCOPES = (Scope(("tasks",), max_rows_per_query=10), Scope(("tasks",), max_rows_per_query=5))
"""The scope at first, and the narrower one."""
END_US = 10**16


@dataclass(frozen=True)
class Answer:
    """The content of an answer, and the time at which A sent the call, on A's clock."""

    grant: str
    sent: float
    version: int
    scope: int

    @property
    def text(self) -> str:
        """As the id of a row."""
        return f"{self.grant}/{self.sent}/{self.version}/{self.scope}"

    @classmethod
    def read(cls, text: str) -> "Answer":
        """Read it back."""
        grant, sent, version, scope = text.split("/")
        return cls(grant, float(sent), int(version), int(scope))

    @classmethod
    @lru_cache(maxsize=10_000)
    def of(cls, body: bytes) -> "Answer":
        """Read it from the bytes of an answer."""
        [text] = ids(Outcome(grpc.StatusCode.OK, body))
        return cls.read(text)

    def relative(self, passed_s: float, known: int) -> Hashable:
        """Return it relative to now and to the known version."""
        return self.grant, self.sent - passed_s, self.version - known, self.scope


@dataclass
class RunningRevocation:
    """A revocation or scope reduction in progress: the act, its steps, and the current step."""

    act: Act
    steps: Generator[Step, None, None]
    step: Step
    revocation: PendingRevocation

    @property
    def notified(self) -> bool:
        """Whether the watchers were notified."""
        return not isinstance(self.step, Store)

    @property
    def over(self) -> bool:
        """Whether the receipt is stored."""
        return isinstance(self.step, StoreReceipt)

    @property
    def effective(self) -> bool:
        """Whether no instance is awaited any more: the receipt may be stored at any time from now on."""
        now = self.revocation._clock.elapsed()
        return self.notified and all(hold.end <= now for hold in self.revocation._held.values())

    @property
    def final(self) -> bool:
        """Whether the whole grant ends."""
        return self.act.kind is ReceiptKind.REVOKED

    @property
    def may_go_on(self) -> bool:
        """Whether the next step can be done."""
        return not self.over and (not self.notified or self.effective)

    def how(self, instance: str) -> str:
        """The release reason of an instance; empty if it was not awaited, or still is."""
        release = self.revocation._released.get(instance)
        return release.how.value if release else ""

    def digest(self, passed_s: float) -> Hashable:
        """The awaited instances with their ends, relative to now, and the released instances."""
        holds = () if self.effective else self.revocation._held.items()
        held = tuple(sorted((instance, hold.end - passed_s, hold.leased) for instance, hold in holds))
        released = tuple(sorted((i, r.how.value) for i, r in self.revocation._released.items()))
        return (self.final, self.notified, self.over, self.effective, held, released)


@dataclass
class PendingCall:
    """An admitted call that has read its rows and is not answered yet."""

    context: _CallContext
    answer: Answer


RevocationSteps = Any
"""The steps of a revocation: `revocation_steps`, or a mutant of it."""


class GrantingGateway:
    """One serving gateway with its stored state; `crash` loses everything else."""

    def __init__(
        self,
        time: ManualClock,
        grants: Iterable[str],
        *,
        table: type[LeaseTable] = LeaseTable,
        steps: RevocationSteps = revocation_steps,
    ) -> None:
        self.clock, self._time, self._start_s = time.clock, time, time.elapsed_s
        self._table, self._steps = table, steps
        self.version = 0
        self.stored = {name: _grant(name) for name in grants}
        self.unfinished: list[Act] = []
        self.revocations: list[RunningRevocation] = []
        self._boot(())

    def _boot(self, inherited: Iterable[str]) -> None:
        self.grants = GrantRegistry(None, self.clock, self.stored.values())  # type: ignore[arg-type]
        self.leases = self._table(self.clock, inherited=inherited)
        self.subscriptions = SubscriptionRegistry(self.leases.on_disconnect, is_pending=self.leases.is_pending)
        self.working: dict[int, PendingCall] = {}
        self._service = FederationService(
            gateway="work.example",
            version="1",
            provider=None,  # type: ignore[arg-type]
            grants=self.grants,
            audit=None,  # type: ignore[arg-type]
            page_key=b"k" * 32,
            clock=self.clock,
            tracing=untraced(self.clock),
            leases=self.leases,
        )

    # -- calls

    def admit(self, number: int, grant_id: str, instance: str, verb: str, sent: float) -> Outcome | None:
        """Admit a call and read its rows; return the refusal if it is refused."""
        grant = self.grants.require(grant_id)
        if grant.status is GrantStatus.REVOKED:
            return self._refused(grant)
        answer = Answer(grant_id, sent, self.version, SCOPES.index(grant.scope))
        context = _CallContext(
            verb=verb,  # type: ignore[arg-type]
            metadata=((INSTANCE, instance),),
            auth_context={},
            source="",
            at_us=0,
            started=0.0,
            caller=_caller(grant_id),
            request=pb.ListRequest(),
            resource="tasks",
            grant=grant,
        )
        self.working[number] = PendingCall(context, answer)
        return None

    def finish(self, number: int) -> Outcome:
        """Send the answer after the service's final check; return the answer or the refusal."""
        work = self.working.pop(number)
        resource = "tasks" if work.context.verb == "list" else ""
        try:
            lease_ms = self._service._finish(work.context, Reply(pb.GetResponse(), resource))
        except Refusal as refusal:
            return _outcome(refusal)
        return rows(work.answer.text, lease_ms=lease_ms)

    @staticmethod
    def _refused(grant: Grant) -> Outcome:
        try:
            authorize(grant, _caller(grant.id), 0)
        except Refusal as refusal:
            return _outcome(refusal)
        raise AssertionError("a revoked grant was let in")

    # -- revocations

    def begin(self, kind: str, grant_id: str) -> None:
        """Refuse and begin to wait, in one step."""
        if kind == "revoke":
            self._run(Revoking(self.grants, self.subscriptions, grant_id, "over"))
        else:
            self._run(ScopeReduction(self.grants, self.subscriptions, grant_id, SCOPES[1], "rows", self.clock))

    def _run(self, act: Act) -> None:
        steps = self._steps(act, self.leases)
        step = next(steps)
        assert isinstance(step, Store)
        self.revocations.append(RunningRevocation(act, steps, step, step.revocation))

    def go_on(self, number: int) -> None:
        """Do the next step, after storing, a release, or time."""
        running = self.revocations[number]
        if isinstance(running.step, Store):
            self.stored[running.act.grant_id] = self.grants.require(running.act.grant_id)
            self.unfinished.append(running.act)
        running.step = next(running.steps)
        if isinstance(running.step, StoreReceipt):
            self.unfinished.remove(running.act)
            next(running.steps, None)

    def change_rows(self, grants: Iterable[str]) -> None:
        """Commit a write and notify the watchers."""
        self.version += 1
        for grant_id in grants:
            self.subscriptions.publish(grant_id, Event(EventType.RESOURCE_CHANGED, "tasks"))

    # -- streams

    def arm(self, grant_id: str, instance: str) -> Watcher | Outcome:
        """Arm or refuse a watch; during a revocation it is admitted, as by the watch service."""
        grant = self.grants.require(grant_id)
        if grant.status is GrantStatus.REVOKED and not self._is_revoking(grant_id):
            return self._refused(grant)
        return self.subscriptions.add(grant_id, instance)

    def _is_revoking(self, grant_id: str) -> bool:
        return any(one.final and not one.over for one in self.revocations if one.act.grant_id == grant_id)

    def crash(self) -> None:
        """Lose the process and start again from the stored state, as `InvalidationCoordinator` does."""
        over, unfinished = [running for running in self.revocations if running.over], self.unfinished
        self._boot(self.stored)
        self.revocations, self.unfinished = over, []
        for act in unfinished:
            self._run(Act(self.subscriptions, act.receipt))
            self.unfinished.append(self.revocations[-1].act)

    def digest(self, known: int, *, crashes: bool, may_begin: bool) -> Hashable:
        """The state that decides on later events, if a crash or another revocation may come.

        Times are relative to now, versions to the known version.
        """
        table, passed_s = self.leases, self._time.elapsed_s - self._start_s
        inherited = table._inherited_end - passed_s if table._inherited and may_begin else 0
        leases = [
            (g, tuple(sorted((i, end - passed_s) for i, end in n.items()))) for g, n in table._leases.items() if n
        ]
        return (
            self.version - known,
            tuple(map(_state, self.grants._grants.values())),
            tuple(map(_state, self.stored.values())) if crashes else (),
            inherited,
            tuple(sorted(leases)) if may_begin else (),
            tuple(sorted(table._revoked)),
            tuple(running.digest(passed_s) for running in self.revocations),
        )


def sent_by(watcher: Watcher) -> list[pb.WatchResponse]:
    """Take the queued events of a watcher as messages."""
    messages = []
    while watcher._queue:
        messages.append(pb.WatchResponse.FromString(_message(watcher, watcher._queue.popleft())))
    return messages


def armed_by(watcher: Watcher) -> pb.WatchResponse:
    """The first message of a stream."""
    return pb.WatchResponse.FromString(_armed(watcher))


def _state(grant: Grant) -> tuple[str, int]:
    return grant.status.value, grant.scope.max_rows_per_query


def _grant(name: str) -> Grant:
    record = CertificateRecord("s", "f", "", "", 0, END_US, END_US)
    return Grant(
        id=name,
        peer="home.example",
        subject="ada",
        scope=SCOPES[0],
        status=GrantStatus.ACTIVE,
        created_at_us=0,
        certificates={"s": record},
    )


def _outcome(refusal: Refusal) -> Outcome:
    code, details, trailing = refusal_status(refusal)
    return Outcome(code, details=details, trailing=trailing)


def _caller(grant_id: str) -> CallerIdentity:
    return CallerIdentity(grant_id, "ada", "s", "f", 0, END_US)
