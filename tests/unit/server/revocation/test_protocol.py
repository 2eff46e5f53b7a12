"""The steps of the revocation protocol, driven by hand."""

from collections.abc import Callable, Iterable

import pytest

from federation.server.revocation.leases import LeaseTable, ReleaseReason
from federation.server.revocation.protocol import Store, StoreReceipt, Wait, revocation_steps
from federation.store.receipts import ReceiptKind
from tests.support.clock import ManualClock

GRANT, A, B = "grant-1", "a" * 32, "b" * 32


class Recorded:
    """An act that records its calls, and the answer of the lease table at each."""

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


def test_each_step_comes_in_its_turn() -> None:
    """The act refuses before leases are collected, stores before it notifies, and stores the receipt last."""
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


def test_an_act_that_cannot_be_refused_leaves_no_trace() -> None:
    """If the act is invalid, nothing was refused and leases continue."""
    leases = LeaseTable(ManualClock().clock)
    act = Recorded(leases, fault=ValueError("odd"))
    with pytest.raises(ValueError, match="odd"):
        next(revocation_steps(act, leases))
    assert leases.grant_lease(GRANT, A, 10_000) == 10_000


def test_a_protocol_that_is_closed_keeps_the_refusal_and_ignores_acks() -> None:
    """After a failed write the grant gets no further lease, and late acks have no effect."""
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


def test_an_ack_counts_from_the_moment_of_telling() -> None:
    """An ack covers every revocation of the grant that began before its event, and none that began later."""
    clock = ManualClock()
    leases = LeaseTable(clock.clock)
    leases.grant_lease(GRANT, A, 10_000)
    reduction = Recorded(leases, kind=ReceiptKind.NARROWED)
    first = revocation_steps(reduction, leases)
    earlier = next(first)
    next(first)
    later = next(revocation_steps(Recorded(leases), leases))
    assert reduction.on_ack is not None
    reduction.on_ack(A, 0)
    assert isinstance(earlier, Store)
    assert isinstance(later, Store)
    how = [{one.instance: one.how for one in step.revocation.instances}[A] for step in (earlier, later)]
    assert how == [ReleaseReason.ACKED, ReleaseReason.AWAITED]
