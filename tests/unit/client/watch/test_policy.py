"""The timing of the watch: pauses between attempts, the age at which a stream is replaced, and the bound of a flood."""

import pytest

from federation.client.watch.policy import EventRate, RedialBackoff, WatchSettings

SETTINGS = WatchSettings()


def pauses(chance: float, count: int = 12) -> list[float]:
    """The pauses of attempts that all fail."""
    backoff = RedialBackoff(SETTINGS, lambda: chance)
    return [backoff.after_failure() for _ in range(count)]


def test_pauses_double_up_to_a_bound_and_differ_by_chance() -> None:
    """The first redial comes soon, later ones less often; jitter keeps gateways apart."""
    assert pauses(1.0)[:7] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
    assert pauses(1.0)[-1] == 30.0
    assert pauses(0.0) == [pause / 2 for pause in pauses(1.0)]


def test_only_a_stream_that_lasted_resets_the_backoff() -> None:
    """A peer that arms and ends at once is not dialled in a loop."""
    backoff = RedialBackoff(SETTINGS, lambda: 1.0)
    assert [backoff.after_stream(0.1) for _ in range(3)] == [0.5, 1.0, 2.0]
    assert backoff.after_stream(SETTINGS.heartbeat_interval_s) == 0.5


def test_many_failures_do_not_overflow() -> None:
    """A peer may be unreachable for years."""
    assert pauses(1.0, 5_000)[-1] == 30.0


def test_a_peer_without_watches_is_retried_rarely() -> None:
    """The peer's next version may offer them."""
    assert 150.0 <= RedialBackoff(SETTINGS, lambda: 0.0).after_unsupported() <= 300.0


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_a_stream_moves_before_the_peer_ends_its_connection(chance: float) -> None:
    """A peer closes connections at ten minutes, plus or minus a tenth; a minute is left to arm the new stream."""
    assert 300.0 < SETTINGS.move_after_s(chance) <= 540.0 - 60.0


def test_three_missed_heartbeats_are_the_silence_timeout() -> None:
    """The silence timeout follows the heartbeat interval."""
    assert SETTINGS.silence_timeout_s == 30.0


def flood(rate: EventRate, count: int, begin: float, seconds: float) -> list[bool]:
    """Record evenly spread messages."""
    return [rate.record(begin + seconds * n / count) for n in range(count)]


def test_a_flood_begins_beyond_the_bound_and_not_before() -> None:
    """A hundred messages a second are allowed, one more is a flood."""
    rate = EventRate(100)
    assert not any(flood(rate, 100, 0.0, 0.99))
    assert rate.record(0.995)


def test_a_flood_lasts_while_it_is_read_at_its_share() -> None:
    """Slow reading does not end a flood: only a second with half the bound or less does."""
    rate = EventRate(100)
    flood(rate, 200, 10.0, 0.5)
    assert all(flood(rate, 90, 10.6, 0.9))
    assert all(flood(rate, 90, 11.6, 0.9))
    flood(rate, 40, 12.6, 0.9)
    flood(rate, 40, 13.6, 0.9)
    assert not rate.record(14.6)
    assert rate.pause_s == 0.01


def test_silence_ends_a_flood() -> None:
    """The first message after a pause is no part of the flood."""
    rate = EventRate(10)
    assert any(flood(rate, 30, 0.0, 0.1))
    assert not rate.record(5.0)


def test_the_end_of_a_stream_ends_its_flood() -> None:
    """The count is not carried over to the next stream."""
    rate = EventRate(10)
    flood(rate, 30, 0.0, 0.1)
    rate.reset()
    assert not rate.flooded
    assert not any(flood(rate, 10, 0.2, 0.1))
