import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import Reason, Refusal
from federation.server.pipeline.rate_limit import GrantLimiter
from tests.support.clock import ManualClock


def limiter(clock: ManualClock) -> GrantLimiter:
    """A limiter on a clock that the test moves."""
    return GrantLimiter(clock.clock.monotonic)


def passes(limiter: GrantLimiter, grant_id: str = "g", per_minute: int = 3) -> bool:
    """Whether one more call passes."""
    try:
        limiter.check(grant_id, per_minute)
    except Refusal:
        return False
    return True


def test_the_call_beyond_the_limit_is_refused_with_a_time() -> None:
    """The refusal is RATE_LIMITED, names the limit, and says how long to wait."""
    limits = limiter(ManualClock())
    for _ in range(3):
        limits.check("g", 3)

    with pytest.raises(Refusal) as caught:
        limits.check("g", 3)

    assert caught.value.reason is Reason.RATE_LIMITED
    assert "3 calls a minute" in caught.value.message
    assert 0 < (caught.value.retry_after_s or 0) <= 60.1


def test_grants_do_not_share_a_limit() -> None:
    """The calls of one grant do not count for another grant."""
    limits = limiter(ManualClock())

    assert [passes(limits) for _ in range(4)] == [True, True, True, False]
    assert passes(limits, "other")


def test_a_refused_call_is_not_counted() -> None:
    """Refused calls do not prolong the wait."""
    clock = ManualClock()
    limits = limiter(clock)
    while passes(limits):
        pass
    for _ in range(100):
        passes(limits)

    clock.advance(120)

    assert [passes(limits) for _ in range(4)] == [True, True, True, False]


@given(st.integers(1, 50), st.floats(0, 59.9), st.integers(0, 60))
def test_after_the_stated_wait_a_call_passes_and_shortly_before_it_does_not(
    per_minute: int, start: float, later: float
) -> None:
    """RetryInfo is exact: the call passes then, and not 10 ms sooner."""
    clock = ManualClock()
    clock.advance(start)
    limits = limiter(clock)
    for _ in range(per_minute):
        if passes(limits, per_minute=per_minute):
            clock.advance(later / per_minute)
    while passes(limits, per_minute=per_minute):
        pass
    with pytest.raises(Refusal) as caught:
        limits.check("g", per_minute)
    wait = caught.value.retry_after_s or 0

    if wait > 0.02:
        clock.advance(wait - 0.01)
        assert not passes(limits, per_minute=per_minute)
        clock.advance(0.01)
    else:
        clock.advance(wait)
    assert passes(limits, per_minute=per_minute)


@given(st.integers(1, 20), st.lists(st.floats(0, 30), min_size=1, max_size=80))
def test_no_minute_sees_more_than_twice_the_limit(per_minute: int, pauses: list[float]) -> None:
    """However calls are spread, the approximation never lets two full limits through within one minute."""
    clock = ManualClock()
    limits, allowed = limiter(clock), []
    for pause in pauses:
        clock.advance(pause)
        while passes(limits, per_minute=per_minute):
            allowed.append(clock.monotonic_s)

    for at in allowed:
        assert sum(at <= other < at + 60 for other in allowed) < 2 * per_minute + 1


def test_a_burst_at_the_end_of_a_minute_counts_in_the_next() -> None:
    """Ten calls in the last second of a window leave one for the first second of the next, not ten."""
    clock = ManualClock()
    clock.advance(59 - clock.monotonic_s % 60)
    limits = limiter(clock)
    assert sum(passes(limits, per_minute=10) for _ in range(20)) == 10

    clock.advance(2)

    assert sum(passes(limits, per_minute=10) for _ in range(20)) == 1


def test_a_lowered_limit_applies_to_the_calls_already_counted() -> None:
    """After ten calls a limit of five refuses the next one until five are left of them, and the wait is exact."""
    clock = ManualClock()
    limits = limiter(clock)
    assert sum(passes(limits, per_minute=10) for _ in range(20)) == 10

    with pytest.raises(Refusal) as caught:
        limits.check("g", 5)

    wait = caught.value.retry_after_s or 0
    clock.advance(wait - 0.01)
    assert not passes(limits, per_minute=5)
    clock.advance(0.01)
    assert passes(limits, per_minute=5)


def test_counting_starts_no_thread() -> None:
    """A thousand calls leave the number of threads as it was."""
    limits, before = GrantLimiter(), threading.active_count()

    for _ in range(1_000):
        limits.check("g", 100_000)

    assert threading.active_count() == before
