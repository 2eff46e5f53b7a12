"""The steps of the revocation protocol, driven by hand."""

from collections.abc import Callable, Iterable

import pytest

from federation.server.revocation.leases import LeaseTable, ReleaseReason
from federation.server.revocation.protocol import Store, StoreReceipt, Wait, revocation_steps
from federation.store.receipts import ReceiptKind
from tests.support.clock import ManualClock

GRANT, A, B = "grant-1", "a" * 32, "b" * 32


class Recorded:
    """An act that writes down what it is asked for, and what the table would answer at that moment."""

    grant_id = GRANT

    def __init__(
        self, leases: LeaseTable, *, kind: ReceiptKind = ReceiptKind.REVOKED, fault: Exception | None = None
    ) -> None:
        self.kind = kind
        self.done: list[str] = []
        self.on_ack: Callable[[str, int], None] | None = None
        self._leases, self._fault = leases, fault

    def refuse(self) -> None:
        self.done.append("refuse")
        if self._fault:
            raise self._fault

    def watching(self) -> Iterable[str]:
        self.done.append("watching")
        return (B,)

    def notify(self, heard: Callable[[str, int], None]) -> None:
        self.done.append("tell")
        self.on_ack = heard


def test_each_step_comes_in_its_turn():
    """Refused before anybody is counted, stored before anybody is told, kept once nobody is awaited."""
    clock = ManualClock()
    leases = LeaseTable(clock.clock)
    leases.grant_lease(GRANT, A, 10_000)
    act = Recorded(leases)
    steps = revocation_steps(act, leases)

    stored = next(steps)
    assert isinstance(stored, Store)
    assert act.done == ["refuse", "watching"]
    assert leases.grant_lease(GRANT, B, 10_000) == 0

    assert next(steps) == Wait(pytest.approx(11.0))
    assert act.done == ["refuse", "watching", "tell"]
    assert act.on_ack is not None
    act.on_ack(B, 4)
    clock.advance(11.001)
    kept = next(steps)
    assert kept == StoreReceipt(stored.revocation)
    assert {one.instance: (one.how, one.failed_in_flight) for one in stored.revocation.instances} == {
        A: (ReleaseReason.LEASE_ENDED, 0),
        B: (ReleaseReason.ACKED, 4),
    }
    assert next(steps, None) is None


def test_an_act_that_cannot_be_refused_leaves_no_trace():
    """A wrong reason, say: nothing was refused, and leases go on."""
    leases = LeaseTable(ManualClock().clock)
    act = Recorded(leases, fault=ValueError("odd"))
    with pytest.raises(ValueError, match="odd"):
        next(revocation_steps(act, leases))
    assert leases.grant_lease(GRANT, A, 10_000) == 10_000


def test_a_flow_that_is_dropped_refuses_for_ever_and_hears_no_more():
    """A write that failed ends the flow: the grant gets no lease again, and late acks find nobody."""
    clock = ManualClock()
    leases = LeaseTable(clock.clock)
    leases.grant_lease(GRANT, A, 10_000)
    steps = revocation_steps(Recorded(leases), leases)
    stored = next(steps)
    steps.close()
    leases.ack(GRANT, A, leases.sequence)
    assert isinstance(stored, Store)
    assert [one.how for one in stored.revocation.instances if one.instance == A] == [ReleaseReason.AWAITED]
    assert leases.grant_lease(GRANT, A, 10_000) == 0


def test_an_ack_counts_from_the_moment_of_telling():
    """What was told covers every revocation of the grant that had begun, and none that begins later."""
    clock = ManualClock()
    leases = LeaseTable(clock.clock)
    leases.grant_lease(GRANT, A, 10_000)
    narrowing = Recorded(leases, kind=ReceiptKind.NARROWED)
    first = revocation_steps(narrowing, leases)
    earlier = next(first)
    next(first)
    later = next(revocation_steps(Recorded(leases), leases))
    assert narrowing.on_ack is not None
    narrowing.on_ack(A, 0)
    assert isinstance(earlier, Store)
    assert isinstance(later, Store)
    how = [{one.instance: one.how for one in step.revocation.instances}[A] for step in (earlier, later)]
    assert how == [ReleaseReason.ACKED, ReleaseReason.AWAITED]
