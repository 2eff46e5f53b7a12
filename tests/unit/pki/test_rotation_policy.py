from dataclasses import replace

import pytest

from federation.client.chain.call_stats import CallFailure
from federation.client.peers.renewal_plan import RenewalPlan
from federation.clock import MICROSECONDS
from federation.pki.rotation_policy import (
    AFTER_EXPIRY_US,
    DEGRADED_AT,
    Validity,
    due_at_us,
    is_urgent,
    renewal_point_us,
    retry_delay_s,
)

DAY = 86_400 * MICROSECONDS
START = 1_800_000_000 * MICROSECONDS
CERTIFICATE = Validity(START, START + DAY, "a")


def failure(at_us: int, reason: str = "PEER_UNREACHABLE") -> CallFailure:
    """An attempt that failed."""
    return CallFailure(at_us, "UNAVAILABLE", reason, "words")


def test_a_renewal_is_due_about_two_thirds_into_a_life() -> None:
    """Whatever its name and however long its life, a certificate is renewed within a twentieth of that point."""
    for life in (300 * MICROSECONDS, DAY, 365 * DAY):
        for name in map(str, range(200)):
            validity = Validity(START, START + life, name)
            assert abs(due_at_us(validity) - (START + life * 2 / 3)) <= life / 20 + 1
    assert renewal_point_us(0, 9) == 6


def test_certificates_that_end_together_are_renewed_apart() -> None:
    """Twenty of one day are spread over more than an hour, in every process alike."""
    dues = sorted(due_at_us(replace(CERTIFICATE, name=f"{n:x}" * 8)) for n in range(20))

    assert dues[-1] - dues[0] > 3_600 * MICROSECONDS
    assert len({due // (60 * MICROSECONDS) for due in dues}) > 12
    assert dues == sorted(due_at_us(replace(CERTIFICATE, name=f"{n:x}" * 8)) for n in range(20))


@pytest.mark.parametrize(
    ("failures", "left_s", "delay_s"),
    [
        (1, 1e6, 5),
        (2, 1e6, 10),
        (5, 1e6, 80),
        (9, 1e6, 900),
        (10_000, 1e6, 900),
        (9, 400, 100),
        (9, 8, 5),
        (9, -1, 900),
    ],
)
def test_retries_wait_longer_and_longer(failures: int, left_s: float, delay_s: float) -> None:
    """From 5 s to 15 min, sooner where little validity is left; chance moves it by a fifth at most."""
    assert retry_delay_s(failures, left_s, 0.5) == pytest.approx(delay_s)
    assert retry_delay_s(failures, left_s, 0.0) == pytest.approx(delay_s * 0.8)
    assert retry_delay_s(failures, left_s, 1.0) == pytest.approx(delay_s * 1.2)


def test_the_last_tenth_of_a_life_is_urgent() -> None:
    """Then, and after the end, nothing puts a renewal off."""
    assert not is_urgent(CERTIFICATE, START + DAY * 9 // 10)
    assert is_urgent(CERTIFICATE, START + DAY * 9 // 10 + 1)
    assert is_urgent(CERTIFICATE, START + 2 * DAY)


def test_a_plan_waits_for_its_instant() -> None:
    """Nothing is due before, and everything from then on."""
    plan, due = RenewalPlan(CERTIFICATE), due_at_us(CERTIFICATE)

    assert not plan.is_due(due - 1)
    assert plan.is_due(due)
    assert plan.next_at_us(START) == due


def test_a_failing_plan_tries_again_and_is_degraded_from_the_third_failure_on() -> None:
    """Each failure is counted and followed by a delay; a success resets the count."""
    plan, now = RenewalPlan(CERTIFICATE), due_at_us(CERTIFICATE)
    seen = []
    for _ in range(DEGRADED_AT):
        plan.record_failure(failure(now), 0.5)
        assert not plan.is_due(now)
        now = plan.next_at_us(now)
        assert plan.is_due(now)
        seen.append(plan.degraded)

    plan.record_renewal(Validity(now, now + DAY, "b"), now)

    assert seen == [False, False, True]
    assert (plan.degraded, plan.failures, plan.last_failure) == (False, 0, None)
    assert plan.next_at_us(now) == due_at_us(Validity(now, now + DAY, "b"))


def test_a_final_refusal_ends_the_attempts() -> None:
    """No renewal is attempted under a revoked grant."""
    plan, now = RenewalPlan(CERTIFICATE), due_at_us(CERTIFICATE)

    plan.record_failure(failure(now, "GRANT_REVOKED"), 0.5, final=True)

    assert plan.next_at_us(now) is None
    assert plan.degraded


def test_the_peer_may_ask_for_patience_within_reason() -> None:
    """Its wish counts where it is longer than the own pause, and an hour is the most."""
    for asked, waited in ((1.0, 5), (100.0, 100), (1e9, 3_600)):
        plan, now = RenewalPlan(CERTIFICATE), due_at_us(CERTIFICATE)
        plan.record_failure(failure(now), 0.5, retry_after_s=asked)
        assert plan.next_at_us(now) == now + waited * MICROSECONDS


def test_hope_ends_seven_days_after_expiry() -> None:
    """Until then an expired certificate is still tried."""
    plan, end = RenewalPlan(CERTIFICATE), CERTIFICATE.not_after_us

    assert plan.is_due(end + AFTER_EXPIRY_US)
    assert plan.next_at_us(end + AFTER_EXPIRY_US + 1) is None


def test_a_certificate_that_brings_no_time_is_the_last() -> None:
    """At the end of the grant itself, repeated renewals would gain nothing."""
    plan, now = RenewalPlan(CERTIFICATE), due_at_us(CERTIFICATE)

    plan.record_renewal(Validity(now, CERTIFICATE.not_after_us, "b"), now)

    assert plan.next_at_us(now) is None
    assert not plan.degraded


def test_a_rotation_by_hand_soon_after_another_leaves_the_plan_alive() -> None:
    """Two certificates of the same second end together; only a renewal that was due tells that the grant ends."""
    plan, now = RenewalPlan(CERTIFICATE), START + MICROSECONDS

    plan.record_renewal(replace(CERTIFICATE, name="b"), now)

    assert plan.next_at_us(now) == due_at_us(replace(CERTIFICATE, name="b"))


def test_automatic_renewals_keep_a_minute_apart() -> None:
    """A certificate whose life is nearly over as it comes is not renewed in a loop."""
    plan, now = RenewalPlan(CERTIFICATE), due_at_us(CERTIFICATE)
    short = Validity(now - DAY, CERTIFICATE.not_after_us + MICROSECONDS, "b")

    plan.record_renewal(short, now)

    assert plan.next_at_us(now) == now + 60 * MICROSECONDS


def test_a_postponed_renewal_comes_later_and_never_sooner() -> None:
    """A resting circuit delays a renewal."""
    plan, due = RenewalPlan(CERTIFICATE), due_at_us(CERTIFICATE)

    plan.postpone(due + 7)
    plan.postpone(due + 5)

    assert plan.next_at_us(due) == due + 7
