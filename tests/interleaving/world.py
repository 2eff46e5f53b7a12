"""One peer B, one gateway A, and its callers, with every delay in the hands of the explorer.

A's side is real: cache, flights, caching interceptor and `FlowRunner`. B's side is a few variables. Each answer
says when it was asked for and which version of rows and scope it was made from, so whether it may be delivered is
decided from the answer and the history alone, never by asking the cache.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import grpc

from federation.cache.response_cache import InvalidationReason, Partition, ResponseCache
from federation.client.chain.flow import Flight, Outcome
from federation.client.chain.runner import FlowRunner
from federation.client.interceptors.caching import CachingInterceptor, cut
from federation.errors import Reason, Refusal
from federation.wire.status import refusal_status
from tests.interleaving.explorer import Violation
from tests.interleaving.snapshot import Names
from tests.support.clock import ManualClock
from tests.support.manual_driver import ManualChain, ManualPort, Wire, ids, make_call, rows

GRANT = "grant-1"
LEASE_S = 30.0
NOTE_S = 1.1 * LEASE_S
"""How long B holds a lease for noted, on its own clock."""
TICK_S = 20.0

MakePartition = Callable[[ResponseCache[Flight]], Partition[Flight]]


@dataclass(frozen=True)
class Scenario:
    """Which events there are. A caller's deadline is in seconds from the beginning."""

    verbs: Sequence[str] = ("list", "list")
    deadlines: Sequence[float] = ()
    revoke: bool = False
    change: bool = False
    scope: bool = False
    rotate: bool = False
    rearm: bool = False
    cancel: bool = False
    cuts: bool = True
    """False: as with blocking calls, which nobody can cut; they are refused when their answer arrives."""
    detach: bool = False
    ticks: int = 0
    tick_s: float = TICK_S
    partition: MakePartition = Partition
    caching: Callable[[Partition[Flight], Any], CachingInterceptor] = CachingInterceptor

    def __call__(self) -> "GatewayWorld":
        """Make a fresh world."""
        return GatewayWorld(self)


@dataclass(frozen=True)
class Answer:
    """What B put into an answer, and when A had asked."""

    sent: float
    version: int
    scope: int

    @classmethod
    def of(cls, outcome: Outcome | None) -> "Answer":
        """Read it back from the rows."""
        assert outcome is not None
        assert outcome.ok, outcome
        return cls.read(outcome.body)

    @classmethod
    @lru_cache(maxsize=10_000)
    def read(cls, body: bytes) -> "Answer":
        """Read it from the bytes of an answer."""
        [text] = ids(Outcome(grpc.StatusCode.OK, body))
        sent, version, scope = text.split("/")
        return cls(float(sent), int(version), int(scope))


@dataclass
class Caller:
    """One call of a user of A."""

    verb: str
    deadline: float
    run: FlowRunner | None = None
    version_known: int = 0
    """The newest version of which A had been told when this call began."""
    judged: bool = False


@dataclass
class GatewayWorld:
    """The state of both gateways, and the promises that hold between them."""

    scenario: Scenario
    time: ManualClock = field(default_factory=ManualClock)
    revoked: bool = False
    version: int = 0
    scope: int = 0
    noted_until: float = 0.0
    told_revoked: bool = False
    told_version: int = 0
    told_scope: int = 0
    rotated: bool = False
    rearmed: bool = False
    ticks: int = 0
    where: Hashable = ()

    def __post_init__(self) -> None:
        self.start = self.time.monotonic_s
        cache: ResponseCache[Flight] = ResponseCache(self.time.clock, ttl_s=LEASE_S)
        self.partition = self.scenario.partition(cache)
        self.port = ManualPort(self.time)
        self.chain = ManualChain(self.port, self.partition, self.scenario.caching)
        deadlines = self.scenario.deadlines or [1e6] * len(self.scenario.verbs)
        self.callers = [Caller(v, self.start + d) for v, d in zip(self.scenario.verbs, deadlines, strict=True)]
        self.served: dict[int, Outcome] = {}
        self.sent: dict[int, float] = {}

    # -- events

    def enabled(self) -> list[str]:
        """Callers are alike, so they begin in their order; everything else may happen whenever it can.

        Nothing happens any more where nothing can be broken any more: no call is to come, nothing is kept. What needs
        no cause comes last: a state with more of it left is seen first then, and covers those with less.
        """
        if self._settled():
            return []
        events = [f"receive {n}" for n, wire in enumerate(self.wires) if wire.open and n in self.served]
        events += [f"serve {n}" for n, wire in enumerate(self.wires) if wire.open and n not in self.served]
        waiting = [n for n, caller in enumerate(self.callers) if caller.run is None]
        events += [f"call {waiting[0]}"] if waiting else []
        if self.scenario.cancel:
            events += [f"cancel {n}" for n, c in enumerate(self.callers) if c.run is not None and not c.run.done]
        once = {
            "told revoke": self.revoked and not self.told_revoked,
            "told change": self.told_version < self.version,
            "told scope": self.told_scope < self.scope,
            "revoke": self.scenario.revoke and not self.revoked,
            "change": self.scenario.change and not self.version and not self.revoked,  # nothing is served after it
            "scope": self.scenario.scope and not self.scope and not self.revoked,
            "rotate": self.scenario.rotate and not self.rotated,
            "rearm": self.scenario.rearm and not self.rearmed,
            "tick": self.ticks < self.scenario.ticks,
        }
        return events + [name for name, possible in once.items() if possible]

    def _settled(self) -> bool:
        done = all(caller.run is not None and caller.run.done for caller in self.callers)
        return done and not any(wire.open for wire in self.wires) and not any(self._kept())

    def do(self, event: str, *, again: bool = False) -> None:
        """Let an event happen, then hold everything that was delivered or kept against the promises.

        `again` leaves the checks out: this beginning has been walked before.
        """
        name, _, which = event.partition(" ")
        getattr(self, f"_{name}")(which)
        for _ in self.wires[len(self.sent) :]:
            self.sent[len(self.sent)] = self.time.monotonic_s
        for caller in self.callers:
            if caller.run is not None and caller.run.done and not caller.judged:
                caller.judged = True
                if not again:
                    self._judge_delivery(caller, caller.run)
        if not again:
            for answer in self._kept():
                self._judge_kept(answer)

    def _call(self, which: str) -> None:
        caller = self.callers[int(which)]
        caller.version_known = self.told_version
        call = make_call(caller.verb, deadline=caller.deadline, grant_id=GRANT, detach=self.scenario.detach)
        caller.run = self.chain.start(call)

    def _serve(self, which: str) -> None:
        """B authorises and answers; the lease is noted before the answer leaves."""
        if self.revoked:
            code, details, trailing = refusal_status(Refusal(Reason.GRANT_REVOKED, "revoked"))
            self.served[int(which)] = Outcome(code, details=details, trailing=trailing)
            return
        self.noted_until = self.time.monotonic_s + NOTE_S
        text = f"{self.sent[int(which)]}/{self.version}/{self.scope}"
        self.served[int(which)] = rows(text, lease_ms=int(LEASE_S * 1000))

    def _receive(self, which: str) -> None:
        self.wires[int(which)].answer(self.served[int(which)])

    def _revoke(self, _: str) -> None:
        self.revoked = True

    def _change(self, _: str) -> None:
        self.version = 1

    def _scope(self, _: str) -> None:
        self.scope = 1

    def _told(self, what: str) -> None:
        """An event of the watch arrives at A, which acts and then acknowledges."""
        if what == "revoke":
            flushed = self.partition.flush(InvalidationReason.GRANT_REVOKED, GRANT)
            if self.scenario.cuts:
                cut(flushed)
            self.told_revoked = True
        elif what == "change":
            cut(self.partition.flush(InvalidationReason.RESOURCE_CHANGED, GRANT, "tasks"))
            self.told_version = self.version
        else:
            cut(self.partition.flush(InvalidationReason.GRANT_CHANGED, GRANT))
            self.told_scope = self.scope

    def _rotate(self, _: str) -> None:
        self.partition.flush(InvalidationReason.ROTATION)
        self.rotated = True

    def _rearm(self, _: str) -> None:
        """The watch stands again after a gap, in which nothing was told."""
        cut(self.partition.flush(InvalidationReason.WATCH_REARMED))
        self.rearmed = True

    def _cancel(self, which: str) -> None:
        run = self.callers[int(which)].run
        assert run is not None
        run.cancel()

    def _tick(self, _: str) -> None:
        self.ticks += 1
        self.port.advance(self.scenario.tick_s)

    # -- promises

    def _judge_delivery(self, caller: Caller, run: FlowRunner) -> None:
        if run.outcome is None or not run.outcome.ok:
            return
        answer, now = Answer.of(run.outcome), self.time.monotonic_s
        if self.told_revoked:
            raise Violation("P1: rows were delivered after the revocation was acknowledged")
        if run.outcome.cached:
            if caller.verb != "list":
                raise Violation(f"P3: a {caller.verb} was answered from the cache")
            if now - answer.sent >= LEASE_S:
                raise Violation(f"P3: a hit was {now - answer.sent:g} s old")
            if self.revoked and now >= self.noted_until:
                raise Violation("P1: a hit after B's note of the lease had ended")
        if answer.version < caller.version_known:
            raise Violation("freshness: rows from before a change that was known when the call began")
        if answer.scope < self.told_scope:
            raise Violation("scope: rows of a scope that was known to be over")

    def _judge_kept(self, answer: Answer) -> None:
        if self.told_revoked:
            raise Violation("P1: an entry is left after the revocation was acknowledged")
        if answer.version < self.told_version or answer.scope < self.told_scope:
            raise Violation("an entry is kept from before a change that A was told of")

    def finish(self) -> None:
        """Nobody sleeps for ever, and nothing is left lying about."""
        for n, caller in enumerate(self.callers):
            if caller.run is None or not caller.run.done:
                raise Violation(f"caller {n} was never answered")
            if caller.run.error is not None and not self.scenario.cancel:
                raise Violation(f"caller {n} got {caller.run.error!r}")
        stats = self.partition.stats()
        if stats.flights or stats.detached:
            raise Violation(f"flights are left: {stats}")
        if any(wire.open for wire in self.wires):
            raise Violation("a wire call is left open")

    # -- state

    @property
    def wires(self) -> list[Wire]:
        """Every call that ever left A."""
        return self.port.wires

    def _kept(self) -> Iterator[Answer]:
        for shelf in self.partition._shelves():
            for entry in shelf._entries.values():
                yield Answer.of(Outcome(grpc.StatusCode.OK, entry.body))

    def digest(self) -> Hashable:
        """Flights are named in the order in which they are met here, so that equal states look equal.

        Of epochs only what they decide is taken: two flushes in either order leave tickets that may do the same. Of
        callers who wait alike only how many there are counts.
        """
        known = self._known()
        names = Names(self.partition, self.time.monotonic_s - self.start, partial(_relative, known))
        open_wires = tuple(n for n, wire in enumerate(self.wires) if wire.open)
        said = {n: self.served[n] for n in open_wires if n in self.served}
        wires = tuple((names.flow(self.wires[n].run._flow), names.age(self.sent[n])) for n in open_wires)
        under_way = [self._caller_digest(c, names, known) for c in self._under_way]
        self.where = open_wires, tuple(under_way)
        return (
            (self.revoked, self.told_revoked, names.age(self.noted_until) if self.scenario.revoke else 0.0),
            (self.version - known.version, self.told_version - known.version),
            (self.scope - known.scope, self.told_scope - known.scope),
            sum(caller.run is None for caller in self.callers),
            tuple(sorted(under_way, key=hash)),
            wires,
            tuple(names.answer(said[n].body) if said[n].ok else said[n].code.name for n in said),
            tuple(n in said for n in open_wires),
            self._partition_digest(names),
            names.flights(),
        )

    @property
    def _under_way(self) -> list[Caller]:
        return [caller for caller in self.callers if caller.run is not None and not caller.run.done]

    def _known(self) -> Answer:
        """Return version and scope that everything has come to, or zeros: what was before makes no difference then."""
        if not (self.version or self.scope):
            return Answer(0.0, 0, 0)
        answers = [Answer.of(self.served[n]) for n, w in enumerate(self.wires) if w.open and self._is_served(n)]
        answers += self._kept()
        versions = {self.told_version, *(a.version for a in answers), *(c.version_known for c in self._under_way)}
        scopes = {self.told_scope, *(a.scope for a in answers)}
        return Answer(
            0.0, self.version if versions == {self.version} else 0, self.scope if scopes == {self.scope} else 0
        )

    def _is_served(self, n: int) -> bool:
        return n in self.served and self.served[n].ok

    def budget(self) -> tuple[int, ...]:
        """How often time may pass, and what concerns A alone may happen."""
        scenario = self.scenario
        return (
            scenario.ticks - self.ticks,
            scenario.rotate - self.rotated,
            scenario.rearm - self.rearmed,
            scenario.change - self.version,
            scenario.scope - self.scope,
        )

    def names(self) -> Hashable:
        """Which wires are open, and which caller is where. To be asked for after `digest`."""
        return self.where

    def apart(self, one: str, other: str) -> bool:
        """Tell whether one event is A's alone and the other B's, or both are answers of B."""
        first, second = one.partition(" ")[0], other.partition(" ")[0]
        return (first, second) in APART or (second, first) in APART

    @staticmethod
    def _caller_digest(caller: Caller, names: Names, known: Answer) -> Hashable:
        assert caller.run is not None
        flow = names.flow(caller.run._flow)
        return (caller.verb, names.age(caller.deadline), caller.version_known - known.version, flow)

    def _partition_digest(self, names: Names) -> Hashable:
        grants = self.partition._grants.values()
        detached = tuple(sorted(names.flight(flight) for flight in self.partition._detached))
        return tuple((grant.revoked, names.shelves(grant.shelves)) for grant in grants), detached


APART = frozenset(
    [(a, b) for a in ("receive", "call", "cancel", "rotate", "rearm", "told") for b in ("serve", "change", "scope")]
    + [(a, "revoke") for a in ("cancel", "rotate", "rearm", "told")]
    + [("serve", "serve")]
)
"""Events that do not touch each other, whichever comes first. The revocation decides what A may deliver."""


def _relative(known: Answer, body: bytes, passed_s: float) -> Hashable:
    answer = Answer.read(body)
    return answer.sent - passed_s, answer.version - known.version, answer.scope - known.scope
