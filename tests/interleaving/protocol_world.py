"""The serving gateway B and the caches that hold its answers, with every delay chosen by the explorer.

The granting side uses the real lease table, subscriptions, revocation steps and final check of the service; the asking
side uses the real cache, caching flow, runner and handler of watch events. Promises are checked against the answers
and the history alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from federation.cache.response_cache import Partition, ResponseCache
from federation.client.chain.flow import Flight, Outcome
from federation.client.watch.events import EventHandler
from federation.server.revocation.leases import LeaseTable, ReleaseReason
from federation.server.revocation.protocol import revocation_steps
from tests.interleaving.asking_side import DEADLINE_S, AskingSide, BlockingDriver, Caller, Stream
from tests.interleaving.equivalence import ComparableWorld
from tests.interleaving.explorer import Violation
from tests.interleaving.granting_side import (
    LEASE_S,
    SCOPES,
    Answer,
    GrantingGateway,
    RunningRevocation,
    armed_by,
    sent_by,
)
from tests.support.clock import ManualClock
from tests.support.manual_driver import ids


@dataclass(frozen=True)
class Protocol:
    """The possible events. `sides` has the cache and grant of each side, `calls` the side and verb of each call."""

    calls: Sequence[tuple[int, str]] = ((0, "list"), (0, "list"))
    sides: Sequence[tuple[str, str]] = (("a", "g1"),)
    acts: Sequence[str] = ("revoke",)
    """The acts of B on the first side's grant, in this order: `narrow`, `revoke`."""
    armed: bool = True
    cuts: int = 0
    arms: int = 0
    changes: int = 0
    crash: bool = False
    cancel: bool = False
    rotate: bool = False
    blocking: bool = False
    deadlines: Sequence[float] = ()
    """The deadline of each call in seconds after the call begins, where it is not `DEADLINE_S`."""
    detach: bool = False
    """Whether a flight continues after every caller of it was cancelled."""
    late: bool = False
    """Whether calls may last longer than a lease. Then only calls that begin after a receipt must get no rows."""
    ticks: Sequence[float] = ()
    rate: float = 1.0
    """How fast the clocks of the sides run, B's being right."""
    partition: type[Partition[Flight]] = Partition
    handler: type[EventHandler] = EventHandler
    table: type[LeaseTable] = LeaseTable
    steps: Any = revocation_steps
    one_id: bool = False
    whole: bool = False
    """Whether events happen in every order, even where their order makes no difference."""

    def __call__(self) -> "ProtocolWorld":
        """Make a fresh world."""
        return ProtocolWorld(self)


class ProtocolWorld(ComparableWorld):
    """The state of B and of every side, and the promises that hold between them. Needs a running event loop."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.grantor_time = ManualClock()
        grants = sorted({grant for _, grant in protocol.sides})
        self.grantor = GrantingGateway(self.grantor_time, grants, table=protocol.table, steps=protocol.steps)
        self.sides = self._make_sides()
        deadlines = protocol.deadlines or [DEADLINE_S] * len(protocol.calls)
        self.callers = [
            Caller(side, verb, deadline_s, detach=protocol.detach)
            for (side, verb), deadline_s in zip(protocol.calls, deadlines, strict=True)
        ]
        self.replies: dict[tuple[int, int], Outcome] = {}
        self.admitted: set[tuple[int, int]] = set()
        self.ticks = self.cuts = self.arms = 0
        self.crashed = self.rotated = False
        self.connected: frozenset[AskingSide] = frozenset()
        """The sides whose watch was open when a revocation began, and is still open."""
        if protocol.armed:
            for n, side in enumerate(self.sides):
                self._arm(n)
                side.hear()
            self.arms = 0

    def _make_sides(self) -> list[AskingSide]:
        protocol = self.protocol
        caches: dict[str, tuple[ManualClock, ResponseCache[Flight]]] = {}
        sides = []
        for n, (instance, grant) in enumerate(protocol.sides):
            if instance not in caches:
                time = ManualClock()
                caches[instance] = time, ResponseCache(time.clock, ttl_s=LEASE_S)
            time, cache = caches[instance]
            name = next(iter(caches)) if protocol.one_id else instance
            sides.append(
                AskingSide(
                    grant,
                    name * 32,
                    cache,
                    f"peer-{n}",
                    time,
                    partition=protocol.partition,
                    handler=protocol.handler,
                    blocking=protocol.blocking,
                )
            )
        return sides

    # -- events

    def enabled(self) -> list[str]:
        """Return the possible events. Callers begin in order; all other events may happen in any order.

        Two reductions lose no relevant order. No event is possible when no promise can be broken any more: no call is
        to come and nothing is cached. An event that has the same effect now as at any later time happens now.
        """
        if self.protocol.whole:
            return self._events()
        if self._is_final():
            return []
        urgent = self._urgent()
        return [urgent] if urgent else self._events()

    def _is_final(self) -> bool:
        callers_done = all(caller.run is not None and caller.run.done for caller in self.callers)
        flying = self.protocol.detach and any(wire.open for side in self.sides for wire in side.wires)
        return callers_done and not flying and not any(any(side.kept()) for side in self.sides)

    def _urgent(self) -> str:
        """Return an event that no later event can change, and that changes no later event except of its own call."""
        waiting = [n for n, caller in enumerate(self.callers) if caller.run is None]
        if waiting and self.sides[self.callers[waiting[0]].side].sink.refusal is not None:
            return f"call {waiting[0]}"
        if self._may_begin() or self._may_crash() or hasattr(self.grantor.leases, "late"):
            return ""
        names = ("finish",) if self.grantor.version < self.protocol.changes else ("admit", "finish")
        events = (event for n, side in enumerate(self.sides) for event in self._of_wires(n, side))
        return next((event for event in events if event.startswith(names)), "")

    def _events(self) -> list[str]:
        events: list[str] = []
        for n, side in enumerate(self.sides):
            events += self._of_wires(n, side)
            events += self._of_watch(n, side)
        waiting = [n for n, caller in enumerate(self.callers) if caller.run is None]
        events += [f"call {waiting[0]}"] if waiting else []
        grantor, protocol = self.grantor, self.protocol
        events += [f"go {n}" for n, one in enumerate(grantor.revocations) if one.may_go_on and self._matters(one)]
        if protocol.cancel:
            events += [f"cancel {n}" for n, c in enumerate(self.callers) if c.run is not None and not c.run.done]
        once = {
            "lease": bool(getattr(grantor.leases, "late", ())),
            "begin": self._may_begin(),
            "change": grantor.version < protocol.changes,
            "rotate": protocol.rotate and not self.rotated,
            "tick": self.ticks < len(protocol.ticks),
            "crash": self._may_crash(),
        }
        events += [name for name, possible in once.items() if possible]
        # Spontaneous events come last: then a state with more of them left is seen first, and covers the others.
        return sorted(events, key=lambda event: event.startswith(("arm", "cut", "rotate", "tick", "crash")))

    def _matters(self, running: RunningRevocation) -> bool:
        """Tell whether a next step has an effect: a stored receipt matters only to restarts and late watches."""
        return self.protocol.whole or not running.notified or self.protocol.crash or self.arms < self.protocol.arms

    def _awaits(self) -> bool:
        """Tell whether B waits for a cache, or may later."""
        return self.protocol.whole or self._may_begin() or not all(one.effective for one in self.grantor.revocations)

    def _of_wires(self, n: int, side: AskingSide) -> list[str]:
        events = []
        for number, wire in enumerate(side.wires):
            if not wire.open:
                continue
            at = (n, number)
            if at in self.replies:
                events.append(f"receive {n} {number}")
            elif at not in self.admitted:
                events.append(f"admit {n} {number}")
            elif self._name(at) in self.grantor.working:
                events.append(f"finish {n} {number}")
        return events

    def _of_watch(self, n: int, side: AskingSide) -> list[str]:
        events = []
        stream = side.stream
        if stream is not None:
            events += [f"hear {n}"] if stream.events else []
            events += [f"ack {n}"] if stream.acks and self._awaits() else []
            events += [f"cut {n}"] if self.cuts < self.protocol.cuts else []
        elif side.arming is not None:
            events.append(f"refused {n}")
        elif self.arms < self.protocol.arms and (side.sink.refusal is None or side.owes):
            events.append(f"arm {n}")
        for number, old in enumerate(side.old if self._awaits() else ()):
            events += [f"acked {n} {number}"] if old.acks else []
            events.append(f"drop {n} {number}")
        return events

    def do(self, event: str, *, again: bool = False) -> None:
        """Apply an event, then check the promises for everything that was delivered or cached."""
        name, *numbers = event.split()
        effective = self._effective()
        getattr(self, f"_{name}")(*map(int, numbers))
        for side in self.sides:
            if isinstance(side.driver, BlockingDriver):
                side.driver.wake()
            side.record_sent()
        self._collect()
        for caller in self.callers:
            if caller.run is not None and caller.run.done and not caller.checked:
                caller.checked = True
                if not again:
                    self._check_delivery(caller, caller.run.outcome, effective=effective)
        if not again:
            for side in self.sides:
                for answer in side.kept():
                    self._check_stored(side, answer)

    def _collect(self) -> None:
        """Put the new messages of B to its watchers on the streams."""
        for side in self.sides:
            for stream in (side.stream, *side.old):
                if stream is not None:
                    version = self.grantor.version
                    messages = [(message, version) for message in sent_by(stream.watcher)]
                    if not stream.lost:
                        stream.events += messages

    def _call(self, which: int) -> None:
        caller = self.callers[which]
        caller.receipts = self._effective() if self.protocol.late else []
        self.sides[caller.side].call(caller)

    def _admit(self, n: int, number: int) -> None:
        side, at = self.sides[n], (n, number)
        self.admitted.add(at)
        verb, sent = side.wires[number].call.verb, side.sent[number]
        refusal = self.grantor.admit(self._name(at), side.grant, side.instance, verb, sent)
        if refusal is not None:
            self.replies[at] = refusal

    def _finish(self, n: int, number: int) -> None:
        self.replies[n, number] = self.grantor.finish(self._name((n, number)))

    def _receive(self, n: int, number: int) -> None:
        self.sides[n].wires[number].answer(self.replies[n, number])

    def _lease(self) -> None:
        self.grantor.leases.record_late()  # type: ignore[attr-defined]

    def _begin(self) -> None:
        self.connected = frozenset(side for side in self.sides if side.stream is not None)
        self.grantor.begin(self.protocol.acts[len(self.grantor.revocations)], self.sides[0].grant)

    def _go(self, number: int) -> None:
        self.grantor.go_on(number)

    def _rotate(self) -> None:
        self.rotated = True
        for side in self.sides:
            side.rotate()

    def _change(self) -> None:
        self.grantor.change_rows({side.grant for side in self.sides})

    def _tick(self) -> None:
        self.ticks += 1
        self._pass(self.protocol.ticks[self.ticks - 1])

    def _pass(self, seconds: float) -> None:
        self.grantor_time.advance(seconds)
        times = {id(side.time): side.time for side in self.sides}
        for time in times.values():
            time.advance(seconds * self.protocol.rate)
        for side in self.sides:
            side.driver.advance(0.0)

    def _cancel(self, which: int) -> None:
        run = self.callers[which].run
        assert run is not None
        run.cancel()

    def _arm(self, n: int) -> None:
        """A subscribes; B arms the watch in one step, and its message is on the stream."""
        self.arms += 1
        side = self.sides[n]
        armed = self.grantor.arm(side.grant, side.instance)
        if isinstance(armed, Outcome):
            side.arming = armed
            return
        scope = SCOPES.index(self.grantor.grants.require(side.grant).scope)
        side.stream = Stream(armed, self.grantor.version, scope)
        side.stream.events.append((armed_by(armed), self.grantor.version))

    def _hear(self, n: int) -> None:
        self.sides[n].hear()

    def _refused(self, n: int) -> None:
        self.sides[n].hear_refusal()

    def _ack(self, n: int) -> None:
        stream = self.sides[n].stream
        assert stream is not None
        self._acknowledge(stream)

    def _acked(self, n: int, number: int) -> None:
        self._acknowledge(self.sides[n].old[number])

    @staticmethod
    def _acknowledge(stream: Stream) -> None:
        ack = stream.acks.pop(0)
        stream.watcher.ack(ack.event_id, ack.failed_in_flight)

    def _cut(self, n: int) -> None:
        """A loses the stream with all messages to A; B notices later."""
        self.cuts += 1
        side = self.sides[n]
        assert side.stream is not None
        self._lose(side)
        side.handler.on_lost()

    def _lose(self, side: AskingSide) -> None:
        self.connected -= {side}
        if side.stream is not None:
            side.stream.lost, side.stream.events = True, []
            side.old.append(side.stream)
            side.stream = None

    def _drop(self, n: int, number: int) -> None:
        """B notices that a stream is lost; acknowledgements on the stream are lost."""
        self.grantor.subscriptions.remove(self.sides[n].old.pop(number).watcher)

    def _crash(self) -> None:
        self.crashed = True
        for side in self.sides:
            self._lose(side)
            side.old = []
            side.handler.on_lost()
        working = set(self.grantor.working)
        for at in self.admitted - self.replies.keys():
            if self._name(at) in working:
                self.replies[at] = Outcome(grpc.StatusCode.UNAVAILABLE, details="the connection was reset")
        self.grantor.crash()

    # -- promises

    def _check_delivery(self, caller: Caller, outcome: Outcome | None, *, effective: list[RunningRevocation]) -> None:
        if outcome is None or not outcome.ok:
            return
        side, [text] = self.sides[caller.side], ids(outcome)
        answer, age = Answer.read(text), side.time.monotonic_s - Answer.read(text).sent
        if answer.grant != side.grant:
            raise Violation("P2: a caller got what was answered under another grant")
        if outcome.cached and caller.verb != "list":
            raise Violation(f"P3: a {caller.verb} was answered from the cache")
        if outcome.cached and age >= LEASE_S:
            raise Violation(f"P3: a hit was {age:g} s old")
        if side.sink.refusal is not None:
            raise Violation("P1: rows were delivered by a gateway that knew of the revocation")
        if answer.version < caller.version_known:
            raise Violation("changes: rows from before a change that was known when the call began")
        if answer.scope < side.scope:
            raise Violation("scope: rows of a scope that was known to be over")
        self._check_against_receipts(caller, side, answer, effective)

    def _check_against_receipts(
        self, caller: Caller, side: AskingSide, answer: Answer, effective: list[RunningRevocation]
    ) -> None:
        if any(_holds(side, answer, running) for running in caller.receipts):
            raise Violation("P1: a call that began after the receipt brought rows")
        if self.protocol.late:
            return
        if any(_holds(side, answer, running) and self._is_promised(side, caller, running) for running in effective):
            raise Violation("P1: rows were delivered after the receipt")

    def _check_stored(self, side: AskingSide, answer: Answer) -> None:
        if answer.grant != side.grant:
            raise Violation("P2: an answer is kept under another grant")
        if side.sink.refusal is not None:
            raise Violation("P1: an entry is left at a gateway that knew of the revocation")
        if answer.version < side.version or answer.scope < side.kept_scope:
            raise Violation("an entry is kept from before a change that A knows of")
        if any(_holds(side, answer, running) for running in self._effective()):
            raise Violation("P1: an entry outlives the receipt")

    def _is_promised(self, side: AskingSide, caller: Caller, running: RunningRevocation) -> bool:
        """Tell whether an answer under way is promised to be stopped: with a lease, or at a connected gateway."""
        return caller.verb == "list" or side in self.connected or running.how(side.instance) == ReleaseReason.ACKED

    def finish(self) -> None:
        """No caller waits without end, and no flight or wire call is left."""
        for n, caller in enumerate(self.callers):
            if caller.run is None or not caller.run.done:
                raise Violation(f"caller {n} was never answered")
            if caller.run.error is not None and not self.protocol.cancel:
                raise Violation(f"caller {n} got {caller.run.error!r}")
        for side in self.sides:
            stats = side.partition.stats()
            if stats.flights or stats.detached:
                raise Violation(f"flights are left: {stats}")
            if any(wire.open for wire in side.wires):
                raise Violation("a wire call is left open")
        self._check_receipts()

    def _check_receipts(self) -> None:
        """Let B finish: at the latest, each receipt comes when the last lease and its margin have ended."""
        self._continue_revocations()
        self._pass(1.1 * LEASE_S + 0.001)
        self._continue_revocations()
        if len(self._effective()) < len(self.protocol.acts):
            raise Violation("P3: the receipt did not come when the last lease had ended")

    def _continue_revocations(self) -> None:
        while events := [event for event in self._events() if event.startswith(("begin", "go", "lease"))]:
            self.do(events[0])


def _holds(side: AskingSide, answer: Answer, running: RunningRevocation) -> bool:
    """Tell whether an answer holds rows that the revocation takes away."""
    return running.act.grant_id == side.grant and (running.final or not answer.scope)
