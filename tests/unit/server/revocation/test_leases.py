from dataclasses import replace

import pytest

from federation.server.revocation.leases import (
    MAX_INSTANCES,
    PREVIOUS_PROCESS,
    LeaseTable,
    PendingRevocation,
    Release,
    ReleaseReason,
    lease_hold_s,
)
from tests.support.clock import ManualClock

GRANT, OTHER = "grant-1", "grant-2"
A, B, C = "a" * 32, "b" * 32, "c" * 32


def table(clock: ManualClock, **options: object) -> LeaseTable:
    """A table on a clock that the test moves."""
    return LeaseTable(clock.clock, **options)


def how(revocation: PendingRevocation) -> dict[str, ReleaseReason]:
    """The release reason of each instance of a revocation."""
    revocation.wait_s()
    return {release.instance: release.how for release in revocation.instances}


def test_a_lease_is_held_a_tenth_longer_than_it_lasts() -> None:
    """A lease of 30 s is awaited for 33 s, and not a moment less."""
    clock = ManualClock()
    leases = table(clock)
    assert leases.grant_lease(GRANT, A, 30_000) == 30_000

    revocation = leases.begin(GRANT, (), final=True)
    assert revocation.wait_s() == pytest.approx(33.0)
    clock.advance(32.999)
    assert revocation.wait_s() == pytest.approx(0.001, abs=1e-6)
    clock.advance(0.001_001)
    assert revocation.wait_s() is None
    assert how(revocation) == {A: ReleaseReason.LEASE_ENDED}


def test_a_later_shorter_lease_never_shortens_the_one_before() -> None:
    """The first lease is still held, so the entry ends with the longer one."""
    clock = ManualClock()
    leases = table(clock)
    leases.grant_lease(GRANT, A, 30_000)
    clock.advance(1)
    leases.grant_lease(GRANT, A, 1_000)
    assert leases.begin(GRANT, (), final=True).wait_s() == pytest.approx(32.0)


def test_no_lease_is_granted_after_a_revocation_began() -> None:
    """From `begin` on every lease of that grant is 0, and other grants go on."""
    clock = ManualClock()
    leases = table(clock)
    leases.begin(GRANT, (), final=True)
    assert leases.grant_lease(GRANT, A, 30_000) == 0
    assert leases.count(GRANT) == 0
    assert leases.grant_lease(OTHER, A, 30_000) == 30_000


def test_a_scope_reduction_awaits_only_earlier_leases_and_grants_new_ones() -> None:
    """Leases under the new scope neither enter the scope reduction that is under way nor lengthen it."""
    clock = ManualClock()
    leases = table(clock)
    leases.grant_lease(GRANT, A, 10_000)
    revocation = leases.begin(GRANT, (), final=False)
    clock.advance(5)
    assert leases.grant_lease(GRANT, A, 30_000) == 30_000
    assert leases.grant_lease(GRANT, B, 30_000) == 30_000
    clock.advance(6.001)
    assert revocation.wait_s() is None
    assert how(revocation) == {A: ReleaseReason.LEASE_ENDED}


@pytest.mark.parametrize("lease_ms", [0, -1])
def test_an_answer_without_a_lease_is_not_recorded(lease_ms: int) -> None:
    """No lease is recorded for an answer that may not be cached."""
    leases = table(ManualClock())
    assert leases.grant_lease(GRANT, A, lease_ms) == 0
    assert leases.count(GRANT) == 0


def test_a_lease_never_passes_the_longest() -> None:
    """The restart rule relies on the bound, so the table itself holds it."""
    clock = ManualClock()
    leases = table(clock, max_lease_ms=1_000)
    assert leases.grant_lease(GRANT, A, 30_000) == 1_000
    assert leases.begin(GRANT, (), final=True).wait_s() == pytest.approx(1.1)


def test_only_so_many_instances_of_a_grant_hold_leases() -> None:
    """Beyond the limit of instances, a new one gets 0; known ones may renew, and other grants are not affected."""
    clock = ManualClock()
    leases = table(clock)
    for number in range(MAX_INSTANCES):
        assert leases.grant_lease(GRANT, f"{number:032x}", 30_000) == 30_000
    assert leases.grant_lease(GRANT, A, 30_000) == 0
    assert leases.grant_lease(GRANT, f"{0:032x}", 30_000) == 30_000
    assert leases.grant_lease(OTHER, A, 30_000) == 30_000
    assert leases.count(GRANT) == MAX_INSTANCES

    clock.advance(33.001)
    assert leases.grant_lease(GRANT, A, 30_000) == 30_000, "ended leases make room"
    assert leases.count(GRANT) == 1


def test_ended_leases_are_removed() -> None:
    """Ended leases are removed, so memory is bounded by recent leases."""
    clock = ManualClock()
    leases = table(clock)
    for number in range(10_000):
        leases.grant_lease(f"grant-{number}", A, 30_000)
        clock.advance(1)
    assert len(leases._leases) < 70
    assert leases.total == 32


def test_an_ack_releases_its_instance_alone() -> None:
    """Other instances stay awaited, and the release states the instant and the number of failed calls."""
    clock = ManualClock()
    leases = table(clock)
    leases.grant_lease(GRANT, A, 30_000)
    leases.grant_lease(GRANT, B, 20_000)
    revocation = leases.begin(GRANT, (), final=True)
    clock.advance(1)
    at_us = clock.clock.now_us()
    leases.ack(GRANT, A, leases.sequence, 3)
    assert revocation.instances[0] == Release(A, ReleaseReason.ACKED, at_us, 3)
    assert revocation.wait_s() == pytest.approx(21.0)
    assert revocation.instances[1] == Release(B, ReleaseReason.AWAITED, until_us=at_us + 21_000_000)
    leases.ack(GRANT, A, leases.sequence, 9)
    assert revocation.instances[0].failed_in_flight == 3, "the first word counts"


def test_an_ack_under_one_grant_releases_nothing_of_another() -> None:
    """The same instance id under two grants has two leases."""
    clock = ManualClock()
    leases = table(clock)
    leases.grant_lease(GRANT, A, 30_000)
    leases.grant_lease(OTHER, A, 30_000)
    mine, others = leases.begin(GRANT, (), final=True), leases.begin(OTHER, (), final=True)
    leases.ack(GRANT, A, leases.sequence)
    assert how(mine) == {A: ReleaseReason.ACKED}
    assert how(others) == {A: ReleaseReason.AWAITED}


def test_an_ack_of_an_event_made_before_the_revocation_releases_nothing() -> None:
    """Between such an event and the revocation the cache may have been filled again."""
    clock = ManualClock()
    leases = table(clock)
    before = leases.sequence
    leases.grant_lease(GRANT, A, 30_000)
    revocation = leases.begin(GRANT, (), final=True)
    leases.ack(GRANT, A, before)
    assert how(revocation) == {A: ReleaseReason.AWAITED}


def test_an_ack_of_an_earlier_event_leaves_the_lease_for_a_second_attempt() -> None:
    """A revocation whose write failed is begun again; it must await what the first one awaited."""
    clock = ManualClock()
    leases = table(clock)
    before = leases.sequence
    leases.grant_lease(GRANT, A, 30_000)
    leases.remove(leases.begin(GRANT, (), final=True))
    leases.ack(GRANT, A, before)
    assert how(leases.begin(GRANT, (), final=True)) == {A: ReleaseReason.AWAITED}


def test_an_ack_of_the_revocation_removes_the_lease() -> None:
    """A removed lease is counted no longer, and a second attempt does not await it."""
    clock = ManualClock()
    leases = table(clock)
    leases.grant_lease(GRANT, A, 30_000)
    first = leases.begin(GRANT, (), final=True)
    leases.ack(GRANT, A, leases.sequence)
    assert leases.count(GRANT) == 0
    leases.remove(first)
    assert leases.begin(GRANT, (), final=True).wait_s() is None


def test_the_ack_of_a_revocation_also_ends_a_scope_reduction_under_way() -> None:
    """A peer that dropped everything has dropped what the scope reduction took back."""
    clock = ManualClock()
    leases = table(clock)
    leases.grant_lease(GRANT, A, 30_000)
    reduction = leases.begin(GRANT, (), final=False)
    revocation = leases.begin(GRANT, (), final=True)
    leases.ack(GRANT, A, leases.sequence)
    assert how(reduction) == how(revocation) == {A: ReleaseReason.ACKED}


def test_a_watcher_without_a_lease_is_awaited_until_it_disconnects() -> None:
    """It may have calls in flight; after a disconnect, it has none that its cache could store."""
    clock = ManualClock()
    leases = table(clock)
    leases.grant_lease(GRANT, B, 30_000)
    revocation = leases.begin(GRANT, (A, B, C), final=True)
    leases.on_disconnect(GRANT, A)
    leases.on_disconnect(GRANT, B)
    assert how(revocation) == {A: ReleaseReason.DISCONNECTED, B: ReleaseReason.AWAITED, C: ReleaseReason.AWAITED}
    clock.advance(33.001)
    assert revocation.wait_s() is None
    assert how(revocation) == {
        A: ReleaseReason.DISCONNECTED,
        B: ReleaseReason.LEASE_ENDED,
        C: ReleaseReason.LEASE_ENDED,
    }


def test_after_a_restart_every_inherited_grant_is_leased() -> None:
    """The leases of the previous process are unknown, so its longest lease is waited for; no ack shortens the wait."""
    clock = ManualClock()
    leases = table(clock, max_lease_ms=1_000, inherited=(GRANT,), inherited_ms=30_000)
    clock.advance(3)
    revocation = leases.begin(GRANT, (A,), final=True)
    leases.ack(GRANT, A, leases.sequence)
    leases.ack(GRANT, PREVIOUS_PROCESS, leases.sequence)
    leases.on_disconnect(GRANT, PREVIOUS_PROCESS)
    assert how(revocation) == {A: ReleaseReason.ACKED, PREVIOUS_PROCESS: ReleaseReason.AWAITED}
    assert revocation.wait_s() == pytest.approx(30.0)
    assert leases.begin(OTHER, (), final=True).wait_s() is None, "a grant made since then is not inherited"
    clock.advance(30.001)
    assert how(revocation) == {A: ReleaseReason.ACKED, PREVIOUS_PROCESS: ReleaseReason.LEASE_ENDED}
    assert leases.begin(GRANT, (), final=True).wait_s() is None


def test_the_wall_clock_decides_nothing() -> None:
    """A jump of the wall clock changes no lease and yields no effective time before the beginning."""
    clock = ManualClock()
    leases = table(clock)
    leases.grant_lease(GRANT, A, 30_000)
    revocation = leases.begin(GRANT, (), final=True)
    clock.wall_s += 86_400
    assert revocation.wait_s() == pytest.approx(33.0)
    clock.wall_s -= 2 * 86_400
    clock.elapsed_s += 33.001
    assert revocation.wait_s() is None
    assert revocation.effective_at_us == revocation.begun_at_us


def test_a_machine_that_slept_counts_its_sleep() -> None:
    """The elapsed clock runs during a suspend, so leases end meanwhile."""
    clock = ManualClock()
    leases = table(clock)
    leases.grant_lease(GRANT, A, 30_000)
    revocation = leases.begin(GRANT, (), final=True)
    clock.elapsed_s += 3_600
    assert revocation.wait_s() is None


def test_a_revocation_without_leases_and_watches_is_effective_at_once() -> None:
    """Without a lease and a watch, no cache object is awaited."""
    revocation = table(ManualClock()).begin(GRANT, (), final=True)
    assert revocation.wait_s() is None
    assert revocation.instances == ()
    assert revocation.effective_at_us == revocation.begun_at_us


def test_a_removed_revocation_gets_no_more_acks() -> None:
    """`remove` takes a revocation out of the table, is idempotent, and leaves others in."""
    clock = ManualClock()
    leases = table(clock)
    leases.grant_lease(GRANT, A, 30_000)
    gone, kept = leases.begin(GRANT, (), final=False), leases.begin(GRANT, (), final=False)
    leases.remove(gone)
    leases.remove(gone)
    leases.ack(GRANT, A, leases.sequence)
    assert how(gone) == {A: ReleaseReason.AWAITED}
    assert how(kept) == {A: ReleaseReason.ACKED}


def test_a_lease_is_held_as_long_as_the_protocol_requires() -> None:
    """33 s for 30 s; the margin covers a clock rate that is wrong by 5 % at either end."""
    assert lease_hold_s(30_000) == 33.0
    assert lease_hold_s(30_000) > 30 / 0.95
    assert lease_hold_s(30_000) / 1.05 > 30


def test_releases_are_values() -> None:
    """A snapshot of a revocation does not change under its reader."""
    clock = ManualClock()
    leases = table(clock)
    leases.grant_lease(GRANT, A, 30_000)
    revocation = leases.begin(GRANT, (), final=True)
    before = revocation.instances
    leases.ack(GRANT, A, leases.sequence)
    assert before == (replace(before[0]),)
    assert before[0].how is ReleaseReason.AWAITED
