from dataclasses import dataclass

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from federation.server.revocation.leases import LeaseTable, PendingRevocation
from tests.support.clock import ManualClock

GRANTS = st.sampled_from(["g1", "g2"])
INSTANCES = st.sampled_from(["a" * 32, "b" * 32, "c" * 32])
LONGEST_MS = 30_000


@dataclass
class Copy:
    """An answer in a peer's cache, until an instant of true time."""

    grant: str
    instance: str
    born: int
    dies: float


@dataclass
class ModelRevocation:
    """A revocation and what the model knows of it."""

    revocation: PendingRevocation
    grant: str
    final: bool
    born: int


class LeaseModel(RuleBasedStateMachine):
    """Peers that cache answers exactly as long as they may, on clocks whose rates are off by up to 5 %.

    True time is the serving gateway's own. Restarts forget the table, not the copies.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.leases = LeaseTable(self.clock.clock)
        self.copies: list[Copy] = []
        self.revocations: list[ModelRevocation] = []
        self.revoked: set[str] = set()
        self.leased: set[str] = set()
        self.step = 0

    @rule(
        grant=GRANTS,
        instance=INSTANCES,
        lease_ms=st.integers(1, LONGEST_MS),
        on_the_way=st.floats(0, 5),
        rate=st.floats(0.95, 1.05),
    )
    def answer(self, grant: str, instance: str, lease_ms: int, on_the_way: float, rate: float) -> None:
        """A peer asks and gets an answer; it counts from when it asked, on its own clock."""
        asked = self.clock.elapsed_s
        self.clock.advance(on_the_way)
        lease = self.leases.grant_lease(grant, instance, lease_ms)
        assert lease in {0, lease_ms}
        assert not (lease and grant in self.revoked)
        self.step += 1
        if lease:
            self.leased.add(grant)
            self.copies.append(Copy(grant, instance, self.step, asked + lease / 1_000 / rate))

    @rule(grant=GRANTS, final=st.booleans(), watching=st.frozensets(INSTANCES))
    def begin(self, grant: str, final: bool, watching: frozenset[str]) -> None:
        """A revocation or scope reduction of a grant begins."""
        self.step += 1
        revocation = self.leases.begin(grant, watching, final=final)
        self.revocations.append(ModelRevocation(revocation, grant, final, self.step))
        if final:
            self.revoked.add(grant)

    @rule(grant=GRANTS, instance=INSTANCES, age=st.integers(0, 2), failed=st.integers(0, 3))
    def ack(self, grant: str, instance: str, age: int, failed: int) -> None:
        """A peer drops everything of a grant, and its ack of some event arrives, perhaps of an old one.

        It dropped what it had when that event was made, which is the least that an ack can promise.
        """
        mark = max(0, self.leases.sequence - age)
        promised = max((one.born for one in self.revocations if one.revocation.sequence <= mark), default=0)
        self.copies = [
            copy
            for copy in self.copies
            if not (copy.grant == grant and copy.instance == instance and copy.born <= promised)
        ]
        self.leases.ack(grant, instance, mark, failed)

    @rule(grant=GRANTS, instance=INSTANCES)
    def leave(self, grant: str, instance: str) -> None:
        """A peer's last watch ends; it keeps what it has."""
        self.leases.on_disconnect(grant, instance)

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.clock.advance(seconds)

    @rule(hours=st.integers(-48, 48))
    def set_the_wall_clock(self, hours: int) -> None:
        """The operator sets the wall clock."""
        self.clock.wall_s += hours * 3_600

    @precondition(lambda self: self.leased)
    @rule()
    def restart(self) -> None:
        """The gateway dies and restarts; revoked grants stay revoked, and unfinished revocations begin again."""
        unfinished = [one for one in self.revocations if one.revocation.wait_s() is not None]
        self.leases = LeaseTable(self.clock.clock, inherited=self.leased)
        self.revocations = []
        self.step += 1
        for grant in sorted(self.revoked):
            self.leases.begin(grant, (), final=True)
        for one in unfinished:
            again = self.leases.begin(one.grant, (), final=one.final)
            self.revocations.append(ModelRevocation(again, one.grant, one.final, one.born))

    @invariant()
    def nothing_is_effective_while_a_copy_lives(self) -> None:
        """Once nobody is awaited, every copy from before the revocation is gone."""
        now = self.clock.elapsed_s
        for one in self.revocations:
            if one.revocation.wait_s() is None:
                living = [c for c in self.copies if c.grant == one.grant and c.born < one.born and c.dies > now]
                assert not living, (one, living)
                assert one.revocation.effective_at_us >= one.revocation.begun_at_us

    @invariant()
    def everything_ends(self) -> None:
        """Nobody is awaited for longer than the longest lease and its margin."""
        for one in self.revocations:
            wait = one.revocation.wait_s()
            assert wait is None or 0 < wait <= 1.1 * LONGEST_MS / 1_000 + 1e-6


LeaseModel.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
test_leases_keep_the_promise = LeaseModel.TestCase
