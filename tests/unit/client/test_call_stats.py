"""The statistics of the calls to a peer."""

import threading

import pytest

from federation.client.chain.call_stats import CallFailure, Latency, PeerHealth, nearest_rank
from tests.support.clock import ManualClock


def test_a_new_peer_has_no_record() -> None:
    """A peer that was never called has neither a success nor a failure."""
    health = PeerHealth(ManualClock().clock)

    assert (health.last_success_us, health.last_failure, health.latency()) == (None, None, None)


def test_the_last_success_and_failure_are_kept_with_their_instants() -> None:
    """Each has the wall-clock time of its own end, and neither overwrites the other."""
    clock = ManualClock(wall=1_800_000_000.0)
    health = PeerHealth(clock.clock)
    health.record_failure("UNAVAILABLE", "PEER_UNREACHABLE", "refused")
    clock.advance(2.5)
    health.record_success(0.01)
    clock.advance(1)

    assert health.last_failure == CallFailure(1_800_000_000_000_000, "UNAVAILABLE", "PEER_UNREACHABLE", "refused")
    assert health.last_success_us == 1_800_000_002_500_000


@pytest.mark.parametrize("code", ["NOT_FOUND", "INVALID_ARGUMENT", "CANCELLED"])
def test_what_the_caller_did_is_no_failure_of_the_peer(code: str) -> None:
    """An unknown row, a malformed request or a cancelled call leaves the record as it is."""
    health = PeerHealth(ManualClock().clock)
    health.record_failure(code, "", "")

    assert health.last_failure is None


def test_a_peers_message_is_made_printable_and_short() -> None:
    """Escape sequences and very long texts of a hostile peer do not reach the status."""
    health = PeerHealth(ManualClock().clock)
    health.record_failure("INTERNAL", "", "\x1b[2Jevil\n" + "x" * 10_000)

    assert health.last_failure is not None
    assert health.last_failure.message.startswith("?[2Jevil?xxx")
    assert len(health.last_failure.message) == 300


def test_latency_is_nearest_rank_in_milliseconds() -> None:
    """Of 1 to 100 ms the median is 50 and the 99th percentile 99, whatever the order."""
    health = PeerHealth(ManualClock().clock)
    for ms in range(100, 0, -1):
        health.record_answer(ms / 1e3)

    latency = health.latency()
    assert latency is not None
    assert latency == pytest.approx(Latency(50.0, 99.0))


def test_latency_covers_the_last_512_answers() -> None:
    """The 513th answer replaces the first, and the 1024th the 512th."""
    health = PeerHealth(ManualClock().clock)
    for _ in range(512):
        health.record_answer(9.0)
    for _ in range(505):
        health.record_answer(1.0)
    before = health.latency()
    health.record_answer(1.0)
    health.record_answer(1.0)

    assert before == Latency(1_000.0, 9_000.0)
    after = health.latency()
    assert after == Latency(1_000.0, 1_000.0)


@pytest.mark.parametrize(
    ("count", "percent", "expected"),
    [
        (1, 50, 1),
        (1, 99, 1),
        (2, 50, 1),
        (2, 51, 2),
        (3, 50, 2),
        (4, 50, 2),
        (100, 100, 100),
        (10, 0, 1),
        (512, 99, 507),
    ],
)
def test_nearest_rank_by_hand(count: int, percent: int, expected: int) -> None:
    """The smallest value that the given share of all does not exceed."""
    assert nearest_rank([float(value) for value in range(1, count + 1)], percent) == expected


def test_threads_may_feed_and_read_at_once() -> None:
    """Eight threads adding and reading leave a full, sound window."""
    health = PeerHealth(ManualClock().clock)

    def feed() -> None:
        for _ in range(500):
            health.record_answer(0.002)
            assert health.latency() == Latency(2.0, 2.0)

    threads = [threading.Thread(target=feed) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert health.latency() == Latency(2.0, 2.0)
