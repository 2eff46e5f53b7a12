"""The signals of a session: each sentence once, whoever comes at the same time."""

import threading
from collections.abc import Callable

import pytest

from federation.errors import Action, Remedy
from federation.session.signals import AvailabilitySignals, Outage, PeerSignal, SignalKind

LOOK = Remedy(action=Action.EXPLAIN_PEER, peer="work.example", user="ada")
GONE = Outage(reason="PEER_UNREACHABLE", message="no route", next_step="look", remedy=LOOK, since_us=5, retry_at_us=35)


def together(count: int, work: Callable[[int], PeerSignal | None]) -> list[PeerSignal]:
    """The signals that so many threads get at once."""
    barrier, got = threading.Barrier(count), []

    def run(index: int) -> None:
        barrier.wait()
        signal = work(index)
        if signal is not None:
            got.append(signal)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


def test_the_first_failure_alone_gives_the_signal() -> None:
    """The signal says what the failure said; a later failure gives none, and leaves the first reason standing."""
    signals = AvailabilitySignals()
    signal = signals.lost("e1", "work", GONE, 0)

    assert signal == PeerSignal(
        kind=SignalKind.OFFLINE,
        peer="work",
        reason="PEER_UNREACHABLE",
        message="no route",
        next_step="look",
        remedy=LOOK,
        since_us=5,
        retry_at_us=35,
    )
    assert signal.text == "federation offline for work"
    assert signals.lost("e1", "work", Outage(reason="PEER_TIMEOUT"), 0) is None
    assert signals.outage("e1") == GONE
    assert signals.outage("lab") is None


@pytest.mark.parametrize("attempt", range(20))
def test_threads_that_fail_at_once_give_one_signal(attempt: int) -> None:
    """Thirty-two threads lose four peers together: each peer's sentence comes once; so does its return."""
    signals = AvailabilitySignals()

    lost = together(32, lambda index: signals.lost(f"e{index % 4}", f"peer-{index % 4}", GONE, 0))
    back = together(32, lambda index: signals.back(f"e{index % 4}", f"peer-{index % 4}", 9))

    names = [f"peer-{number}" for number in range(4)]
    assert sorted(signal.peer for signal in lost) == names
    assert sorted(signal.peer for signal in back) == names


def test_a_second_outage_is_skipped_in_silence() -> None:
    """After it came back a peer may go again: it is not asked, and nothing is said a second time."""
    signals = AvailabilitySignals()
    signals.lost("e1", "work", GONE, signals.returns("e1"))
    restored = signals.back("e1", "work", 40)

    assert restored is not None
    assert (restored.text, restored.since_us) == ("federation restored for work", 40)
    assert signals.lost("e1", "work", GONE, signals.returns("e1")) is None
    assert signals.outage("e1") == GONE
    assert signals.back("e1", "work", 50) is None
    assert signals.outage("e1") is None


def test_a_late_failure_of_an_earlier_turn_is_not_taken() -> None:
    """A call that began before the peer came back says nothing of a peer that answers now."""
    signals = AvailabilitySignals()
    before = signals.returns("e1")
    signals.lost("e1", "work", GONE, before)
    signals.back("e1", "work", 40)

    assert signals.lost("e1", "work", GONE, before) is None
    assert signals.outage("e1") is None


def test_nothing_is_restored_that_was_not_away() -> None:
    """A peer that never failed gives no signal, and its turn does not move."""
    signals = AvailabilitySignals()
    assert signals.back("e1", "work", 1) is None
    assert signals.returns("e1") == 0


@pytest.mark.parametrize(("announce", "well"), [(False, True), (True, False)])
def test_a_return_may_be_silent(announce: bool, well: bool) -> None:
    """Opted out, or answering with a refusal alone: the peer is asked again, and no signal says so."""
    signals = AvailabilitySignals(announce_restored=announce)
    signals.lost("e1", "work", GONE, 0)
    assert signals.back("e1", "work", 40, well=well) is None
    assert signals.outage("e1") is None


def test_a_failed_probe_moves_the_next_try() -> None:
    """`retry_at_us` follows the probe; nobody who is not away gets one."""
    signals = AvailabilitySignals()
    signals.lost("e1", "work", GONE, 0)
    signals.postpone("e1", 95)
    signals.postpone("lab", 95)

    absence = signals.outage("e1")
    assert absence is not None
    assert (absence.retry_at_us, absence.since_us) == (95, 5)
    assert signals.outage("lab") is None
