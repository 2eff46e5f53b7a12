from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from federation.clock import SYSTEM_CLOCK, from_micros, to_micros
from tests.support.clock import ManualClock


@given(st.integers(min_value=-(10**15), max_value=10**17))
def test_microseconds_survive_conversion_to_datetime(micros: int) -> None:
    """No instant loses a microsecond to a float."""
    assert to_micros(from_micros(micros)) == micros


def test_an_instant_before_1970_is_exact() -> None:
    """Negative microseconds keep their fraction."""
    assert from_micros(-1) == datetime(1970, 1, 1, tzinfo=UTC) - timedelta(microseconds=1)


def test_the_system_clock_goes_on() -> None:
    """Each reading of the system clock moves forward, and `now` agrees with `now_us`."""
    before, after = SYSTEM_CLOCK.elapsed(), SYSTEM_CLOCK.elapsed()

    assert after >= before
    assert abs(to_micros(SYSTEM_CLOCK.now()) - SYSTEM_CLOCK.now_us()) < 1_000_000


def test_a_manual_clock_moves_its_readings_together() -> None:
    """Advancing moves all three readings by the same time."""
    manual = ManualClock(wall=100.0)
    clock = manual.clock
    manual.advance(2.5)

    assert (clock.monotonic(), clock.elapsed(), clock.wall()) == (1_002.5, 5_002.5, 102.5)
    assert clock.now_us() == 102_500_000
