"""The granting gateway of the explored protocol: the real grants, leases, hub, steps and last look of the service."""

from collections.abc import Generator, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from federation.client.flow import Outcome
from federation.errors import Refusal
from federation.scope import Scope
from federation.server.acts import Narrowing, Resuming, Revoking, StoredAct
from federation.server.authorize import authorize
from federation.server.hub import Event, EventWord, Watcher, WatchHub
from federation.server.identity import CallerIdentity
from federation.server.leases import LeaseTable, Withdrawal
from federation.server.service import FederationService, _Arrival
from federation.server.verbs import Reply
from federation.server.watch import _armed, _message
from federation.server.withdrawing import Keep, Step, Store, withdraw
from federation.store.grants import CertificateRecord, Grant, GrantBook, GrantStatus
from federation.v1 import federation_pb2 as pb
from federation.wire.metadata import INSTANCE
from federation.wire.status import refusal_status
from tests.support.clock import ManualClock
from tests.support.manual import rows

LEASE_S = 30.0
SCOPES = (Scope(("tasks",), max_rows_per_query=10), Scope(("tasks",), max_rows_per_query=5))
"""The scope at first, and the narrower one."""
END_US = 10**16


@dataclass(frozen=True)
class Answer:
    """What B put into an answer, and when A had asked, on A's clock."""

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


@dataclass
class Taken:
    """Something that is being taken back: the act, its steps, and the step that it stands at."""

    act: StoredAct
    steps: Generator[Step, None, None]
    step: Step
    withdrawal: Withdrawal

    @property
    def told(self) -> bool:
        """Whether the watchers were told."""
        return not isinstance(self.step, Store)

    @property
    def effective(self) -> bool:
        """Whether nobody is awaited any more: from here on the receipt may be written at any moment."""
        now = self.withdrawal._clock.elapsed()
        return self.told and all(hold.end <= now for hold in self.withdrawal._held.values())

    def how(self, instance: str) -> str:
        """How an instance was released; empty where it was not awaited, or is still."""
        release = self.withdrawal._released.get(instance)
        return release.how.value if release else ""


@dataclass
class Working:
    """A call that was let in and read its rows, and has not been answered."""

    arrival: _Arrival
    answer: Answer


Withdrawing = Any
"""How something is taken back: `withdraw`, or a mutant of it."""


class Grantor:
    """One granting gateway, with what its database holds. `crash` forgets everything else."""

    def __init__(
        self,
        time: ManualClock,
        grants: Iterable[str],
        *,
        table: type[LeaseTable] = LeaseTable,
        steps: Withdrawing = withdraw,
    ) -> None:
        self.clock = time.clock
        self._table, self._steps = table, steps
        self.version = 0
        self.stored = {name: _grant(name) for name in grants}
        self.unfinished: StoredAct | None = None
        self.taken: Taken | None = None
        self._boot(())

    def _boot(self, inherited: Iterable[str]) -> None:
        self.grants = GrantBook(None, self.clock, self.stored.values())  # type: ignore[arg-type]
        self.leases = self._table(self.clock, inherited=inherited)
        self.hub = WatchHub(self.leases.leave)
        self.working: dict[int, Working] = {}
        self._service = FederationService(
            gateway="work.example",
            version="1",
            provider=None,  # type: ignore[arg-type]
            grants=self.grants,
            audit=None,  # type: ignore[arg-type]
            page_key=b"k" * 32,
            clock=self.clock,
            leases=self.leases,
        )

    # -- calls

    def admit(self, number: int, grant_id: str, instance: str, verb: str, sent: float) -> Outcome | None:
        """Let a call in and read its rows; the answer where it is refused at once."""
        grant = self.grants.require(grant_id)
        if grant.status is GrantStatus.REVOKED:
            return self._refused(grant)
        answer = Answer(grant_id, sent, self.version, SCOPES.index(grant.scope))
        arrival = _Arrival(
            verb=verb,  # type: ignore[arg-type]
            metadata=((INSTANCE, instance),),
            source="",
            at_us=0,
            started=0.0,
            caller=_caller(grant_id),
            request=pb.ListRequest(),
            resource="tasks",
            grant=grant,
        )
        self.working[number] = Working(arrival, answer)
        return None

    def dismiss(self, number: int) -> Outcome:
        """Let the answer leave, by the service's own last look; return what leaves."""
        work = self.working.pop(number)
        resource = "tasks" if work.arrival.verb == "list" else ""
        try:
            lease_ms = self._service._dismiss(work.arrival, Reply(pb.GetResponse(), resource))
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

    # -- what is taken back

    def begin(self, kind: str, grant_id: str) -> None:
        """Refuse and begin to wait: one step, nothing comes in between."""
        act: StoredAct
        if kind == "revoke":
            act = Revoking(self.grants, self.hub, grant_id, "over")
        else:
            act = Narrowing(self.grants, self.hub, grant_id, SCOPES[1], "rows", self.clock)
        self._run(act, final=kind == "revoke")

    def _run(self, act: StoredAct, *, final: bool) -> None:
        steps = self._steps(act, self.leases, act.grant_id, final=final)
        step = next(steps)
        assert isinstance(step, Store)
        self.taken = Taken(act, steps, step, step.withdrawal)

    def go_on(self) -> None:
        """Do the next step: it was stored, somebody was released, or time has passed."""
        assert self.taken is not None
        taken = self.taken
        if isinstance(taken.step, Store):
            self.stored[taken.act.grant_id] = self.grants.require(taken.act.grant_id)
            self.unfinished = taken.act
        taken.step = next(taken.steps)
        if isinstance(taken.step, Keep):
            self.unfinished = None

    @property
    def may_go_on(self) -> bool:
        """Whether the next step can be done."""
        taken = self.taken
        if taken is None or isinstance(taken.step, Keep):
            return False
        return isinstance(taken.step, Store) or taken.effective

    def change_rows(self, grants: Iterable[str]) -> None:
        """Commit a write, and tell the watchers."""
        self.version += 1
        for grant_id in grants:
            self.hub.publish(grant_id, Event(EventWord.RESOURCE_CHANGED, "tasks"))

    # -- streams

    def arm(self, grant_id: str, instance: str) -> Watcher | Outcome:
        """Arm a watch, or refuse it."""
        grant = self.grants.require(grant_id)
        if grant.status is GrantStatus.REVOKED:
            return self._refused(grant)
        return self.hub.add(grant_id, instance)

    def crash(self) -> None:
        """Lose the process; start again from the database, as `Upkeep` does it."""
        kept = isinstance(self.taken.step, Keep) if self.taken else False
        self._boot(self.stored)
        if self.unfinished is not None:
            act = self.unfinished
            receipt = act.receipt
            final = self.grants.require(act.grant_id).status is GrantStatus.REVOKED
            self._run(Resuming(self.hub, receipt), final=final)
        elif not kept:
            self.taken = None

    def digest(self) -> Hashable:
        """Everything that bears on the future."""
        table = self.leases
        taken = self.taken
        return (
            self.version,
            tuple((g.status.value, g.scope.max_rows_per_query) for g in self.grants._grants.values()),
            tuple((g.status.value, g.scope.max_rows_per_query) for g in self.stored.values()),
            tuple(sorted((g, tuple(sorted(n.items()))) for g, n in table._notes.items() if n)),
            (table._inherited_end if table._inherited else 0, tuple(sorted(table._closed.items()))),
            tuple(w.answer for _, w in sorted(self.working.items())),
            None
            if taken is None
            else (
                type(taken.step).__name__,
                tuple(sorted((i, h.end, h.noted) for i, h in taken.withdrawal._held.items())),
                tuple(sorted((i, r.how.value) for i, r in taken.withdrawal._released.items())),
            ),
        )


def sent_by(watcher: Watcher) -> list[pb.WatchResponse]:
    """Take what waits for a watcher, as the messages that leave."""
    messages = []
    while watcher._queue:
        messages.append(pb.WatchResponse.FromString(_message(watcher, watcher._queue.popleft())))
    return messages


def armed_by(watcher: Watcher) -> pb.WatchResponse:
    """The first message of a stream."""
    return pb.WatchResponse.FromString(_armed(watcher))


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
