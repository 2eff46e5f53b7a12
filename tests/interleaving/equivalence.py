"""Compares states of the explored protocol, and names the orders of events that lead to the same state."""

from collections.abc import Hashable
from functools import partial
from typing import Any

from tests.interleaving.asking_side import AskingSide, Caller
from tests.interleaving.granting_side import Answer, GrantingGateway, RunningRevocation
from tests.interleaving.snapshot import CanonicalNames

B_ALONE = ("admit", "finish", "change", "begin", "go", "ack", "acked", "drop", "arm", "cut")
"""Events that touch no cache of A."""
APART = frozenset(
    [(a, b) for a in ("call", "receive", "cancel", "rotate") for b in B_ALONE]
    + [("hear", b) for b in ("admit", "finish", "change", "begin", "go", "ack", "acked", "drop")]
    + [("admit", b) for b in ("admit", "finish", "go", "ack", "acked", "drop", "cut", "arm")]
    + [("finish", b) for b in ("finish", "change", "go", "ack", "acked", "drop", "cut", "arm")]
    + [("change", b) for b in ("ack", "acked", "drop", "cut")]
    + [("cut", b) for b in ("go", "acked", "drop")]
)
"""Pairs of events that commute."""
DELIVERING = {"call", "receive"}


class ComparableWorld:
    """The part of a `ProtocolWorld` that compares it with other worlds."""

    protocol: Any
    grantor: GrantingGateway
    sides: list[AskingSide]
    callers: list[Caller]
    replies: dict[tuple[int, int], Any]
    admitted: set[tuple[int, int]]
    connected: frozenset[AskingSide]
    ticks: int
    cuts: int
    arms: int
    crashed: bool
    rotated: bool
    _where: Hashable = ()

    @staticmethod
    def _name(at: tuple[int, int]) -> int:
        return at[0] * 1_000 + at[1]

    def _effective(self) -> list[RunningRevocation]:
        return [running for running in self.grantor.revocations if running.effective]

    def _may_begin(self) -> bool:
        return len(self.grantor.revocations) < len(self.protocol.acts)

    def _may_crash(self) -> bool:
        return bool(self.protocol.crash) and not self.crashed

    def digest(self) -> Hashable:
        """Return the state that decides on later events, as values. Callers in the same state are equal."""
        known = self._known()
        names = [CanonicalNames(side.partition, side.passed_s, partial(_relative, known)) for side in self.sides]
        return (
            self.ticks if len(self.protocol.ticks) > 1 else 0,
            tuple(side in self.connected for side in self.sides),
            self.grantor.digest(known, crashes=self._may_crash(), may_begin=self._may_begin()),
            tuple(self._wire_digests(n, side, names[n], known) for n, side in enumerate(self.sides)),
            self._caller_digests(names, known),
            tuple(side.digest(names[n], known) for n, side in enumerate(self.sides)),
            tuple(name.flights() for name in names),
        )

    def _known(self) -> int:
        """Return the version that every part of the world has reached, or 0. Earlier versions do not matter then."""
        if not self.grantor.version:
            return 0
        versions = {self.grantor.version, *(caller.version_known for caller in self._under_way if self._cares(caller))}
        for n, side in enumerate(self.sides):
            versions.update(side.versions())
            for number, wire in enumerate(side.wires):
                if wire.open:
                    reply, working = self.replies.get((n, number)), self.grantor.working.get(self._name((n, number)))
                    versions |= {Answer.of(reply.body).version} if reply is not None and reply.ok else set()
                    versions |= {working.answer.version} if working is not None else set()
        return self.grantor.version if len(versions) == 1 else 0

    @property
    def _under_way(self) -> list[Caller]:
        return [caller for caller in self.callers if caller.run is not None and not caller.run.done]

    def _cares(self, caller: Caller) -> bool:
        return self.sides[caller.side].sink.refusal is None

    def budget(self) -> tuple[int, ...]:
        """Return how often each spontaneous event may still happen."""
        protocol = self.protocol
        return (
            len(protocol.ticks) - self.ticks if len(protocol.ticks) == 1 else 0,
            protocol.cuts - self.cuts,
            protocol.arms - self.arms,
            protocol.crash - self.crashed,
            protocol.rotate - self.rotated,
            protocol.changes - self.grantor.version,
        )

    def names(self) -> Hashable:
        """Return the open wires and the places of the callers. Call it after `digest`."""
        return tuple(tuple(n for n, wire in enumerate(side.wires) if wire.open) for side in self.sides), self._where

    def apart(self, one: str, other: str) -> bool:
        """Tell whether two events commute. An effective revocation decides on what may be delivered."""
        first, second = one.partition(" ")[0], other.partition(" ")[0]
        if self.protocol.late and "call" in (first, second):
            return False
        if (first, second) not in APART and (second, first) not in APART:
            return False
        return not self._effective() or not DELIVERING & {first, second}

    def _wire_digests(self, n: int, side: AskingSide, names: CanonicalNames, known: int) -> Hashable:
        digests = []
        for number, wire in enumerate(side.wires):
            if wire.open:
                at = (n, number)
                reply, working = self.replies.get(at), self.grantor.working.get(self._name(at))
                said = reply and (reply.code.name, names.answer(reply.body), reply.trailing)
                read = working and working.answer.relative(side.passed_s, known)
                sent = names.age(side.sent[number] - side._start_s)
                digests.append((names.flow(wire.runner._flow), sent, at in self.admitted, said, read))
        return tuple(digests)

    def _caller_digests(self, names: list[CanonicalNames], known: int) -> Hashable:
        waiting = sum(caller.run is None for caller in self.callers)
        under_way = []
        for caller in self._under_way:
            assert caller.run is not None
            version = caller.version_known - known if self._cares(caller) else -1
            flow = names[caller.side].flow(caller.run._flow)
            under_way.append((caller.side, caller.verb, version, len(caller.receipts), flow))
        self._where = tuple(under_way)
        return waiting, tuple(sorted(under_way, key=hash))


def _relative(known: int, body: bytes, passed_s: float) -> Hashable:
    return Answer.of(body).relative(passed_s, known)
