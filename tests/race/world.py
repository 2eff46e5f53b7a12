"""One peer B, one gateway A, and its callers, with every delay in the hands of the explorer.

A's side is the real thing: cache, flights, caching interceptor and `Run`. B's side is a few variables. Each answer
says when it was asked for and which version of rows and scope it was made from, so whether it may be delivered is
decided from the answer and the history alone, never by asking the cache.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import grpc

from federation.cache import Cause, Key, Partition, ResponseCache, Ticket
from federation.client.flight import Flight
from federation.client.flow import Call, Flow, Outcome
from federation.client.interceptors.caching import CachingInterceptor, cut
from federation.client.run import Run
from federation.errors import Reason, Refusal
from federation.wire.status import refusal_status
from tests.race.explorer import Violation
from tests.support.clock import ManualClock
from tests.support.manual import ManualChain, ManualPort, Wire, ids, make_call, rows

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
    cancel: bool = False
    cuts: bool = True
    """False: as with blocking calls, which nobody can cut; they are refused when their answer arrives."""
    detach: bool = False
    ticks: int = 0
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
        [text] = ids(outcome)
        sent, version, scope = text.split("/")
        return cls(float(sent), int(version), int(scope))


@dataclass
class Caller:
    """One call of a user of A."""

    verb: str
    deadline: float
    run: Run | None = None
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
    ticks: int = 0

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
        """Callers are alike, so they begin in their order; everything else may happen whenever it can."""
        events = [f"receive {n}" for n, wire in enumerate(self.wires) if wire.open and n in self.served]
        events += [f"serve {n}" for n, wire in enumerate(self.wires) if wire.open and n not in self.served]
        waiting = [n for n, caller in enumerate(self.callers) if caller.run is None]
        events += [f"call {waiting[0]}"] if waiting else []
        once = {
            "told revoke": self.revoked and not self.told_revoked,
            "told change": self.told_version < self.version,
            "told scope": self.told_scope < self.scope,
            "revoke": self.scenario.revoke and not self.revoked,
            "change": self.scenario.change and not self.version and not self.revoked,  # nothing is served after it
            "scope": self.scenario.scope and not self.scope and not self.revoked,
            "rotate": self.scenario.rotate and not self.rotated,
            "tick": self.ticks < self.scenario.ticks,
        }
        events += [name for name, possible in once.items() if possible]
        if self.scenario.cancel:
            events += [f"cancel {n}" for n, c in enumerate(self.callers) if c.run is not None and not c.run.done]
        return events

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
            flushed = self.partition.flush(Cause.GRANT_REVOKED, GRANT)
            if self.scenario.cuts:
                cut(flushed)
            self.told_revoked = True
        elif what == "change":
            cut(self.partition.flush(Cause.RESOURCE_CHANGED, GRANT, "tasks"))
            self.told_version = self.version
        else:
            cut(self.partition.flush(Cause.GRANT_CHANGED, GRANT))
            self.told_scope = self.scope

    def _rotate(self, _: str) -> None:
        self.partition.flush(Cause.ROTATION)
        self.rotated = True

    def _cancel(self, which: str) -> None:
        run = self.callers[int(which)].run
        assert run is not None
        run.cancel()

    def _tick(self, _: str) -> None:
        self.ticks += 1
        self.port.advance(TICK_S)

    # -- promises

    def _judge_delivery(self, caller: Caller, run: Run) -> None:
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

        Of epochs only what they decide is taken: two flushes in either order leave tickets that may do the same.
        """
        names = Names(self.partition)
        return (
            (self.revoked, self.version, self.scope, self.rotated, self._noted()),
            (self.told_revoked, self.told_version, self.told_scope, self.ticks),
            tuple(self._caller_digest(caller, names) for caller in self.callers),
            tuple(
                (names.flow(wire.run._flow), self.sent[n], self._served_digest(n))
                for n, wire in enumerate(self.wires)
                if wire.open
            ),
            self._partition_digest(names),
            names.flights(),
        )

    def _noted(self) -> float:
        return self.noted_until if self.scenario.revoke else 0.0

    def _caller_digest(self, caller: Caller, names: "Names") -> Hashable:
        if caller.run is None or caller.run.done:
            return caller.run is None
        return (caller.version_known, names.flow(caller.run._flow))

    def _served_digest(self, n: int) -> Hashable:
        outcome = self.served.get(n)
        return None if outcome is None else (outcome.code.name, Answer.of(outcome) if outcome.ok else None)

    def _partition_digest(self, names: "Names") -> Hashable:
        grants = self.partition._grants.values()
        detached = tuple(sorted(names.flight(flight) for flight in self.partition._detached))
        return tuple((grant.revoked, tuple(self._shelf_digests(grant, names))) for grant in grants), detached

    def _shelf_digests(self, grant: Any, names: "Names") -> Iterator[Hashable]:
        for resource, shelf in sorted(grant.shelves.items()):
            entries = tuple((key, entry.body, entry.elapsed, entry.life) for key, entry in shelf._entries.items())
            flights = tuple((key, names.flight(flight)) for key, flight in shelf.flights.items())
            if entries or flights:
                yield (resource, entries, flights)


class Names:
    """Names objects by the order in which they are met, and writes down where a flow stands."""

    PLAIN = (int, float, str, bytes, Enum, Key, type(None))

    def __init__(self, partition: Partition[Flight]) -> None:
        self._partition = partition
        self._flights: dict[int, int] = {}
        self._met: list[Flight] = []

    def flight(self, flight: Flight) -> int:
        """Return the number of a flight."""
        if id(flight) not in self._flights:
            self._flights[id(flight)] = len(self._met)
            self._met.append(flight)
        return self._flights[id(flight)]

    def flights(self) -> Hashable:
        """Return the state of every flight that was met."""
        return tuple(
            (f.deadline, f._waiters, f._landed, f._ended, f._flow is None, len(f._subscribers)) for f in self._met
        )

    def flow(self, flow: Flow) -> Hashable:
        """Return where a suspended generator and those it delegates to stand, with what they remember."""
        frames: list[Hashable] = []
        generator: Any = flow
        while generator is not None and getattr(generator, "gi_frame", None) is not None:
            frame = generator.gi_frame
            remembered = tuple((name, self._value(value)) for name, value in sorted(frame.f_locals.items()))
            frames.append((frame.f_code.co_name, frame.f_lasti, remembered))
            generator = generator.gi_yieldfrom
        return tuple(frames)

    def _value(self, value: Any) -> Hashable:
        if isinstance(value, self.PLAIN):
            return value
        if isinstance(value, Flight):
            return self.flight(value)
        if isinstance(value, Call):
            return (value.verb, value.deadline)
        if isinstance(value, Ticket):
            may_insert = self._partition._fenced(value) is not None
            return (value.key, value.elapsed, may_insert, self._partition.verdict(value))
        if isinstance(value, tuple):
            return tuple(self._value(part) for part in value)
        return type(value).__name__
