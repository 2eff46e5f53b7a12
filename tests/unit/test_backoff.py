"""Growing pauses between attempts: their growth, their bound, their jitter."""

from federation.backoff import Backoff, pause_after


def test_pauses_double_up_to_the_longest() -> None:
    """Without a chance the pauses have no jitter."""
    backoff = Backoff(0.5, 3.0)
    assert [backoff.failed() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_reset_starts_with_the_first_pause() -> None:
    """The failures before a success do not count."""
    backoff = Backoff(1.0, 100.0, 3.0)
    assert [backoff.failed(), backoff.failed()] == [1.0, 3.0]
    backoff.reset()
    assert backoff.failed() == 1.0


def test_jitter_shortens_a_pause_by_up_to_half() -> None:
    """Each pause asks for a chance of its own."""
    chances = iter([0.0, 0.5, 1.0])
    backoff = Backoff(4.0, 4.0, chance=lambda: next(chances))
    assert [backoff.failed() for _ in range(3)] == [2.0, 3.0, 4.0]


def test_many_failures_do_not_overflow() -> None:
    """The power is bounded."""
    assert pause_after(100_000, 0.1, 5.0) == 5.0
