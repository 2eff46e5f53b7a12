"""The availability of a session's peers: one signal of each kind for a peer, and no late failure counts."""

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from opentelemetry.trace import INVALID_SPAN

from federation.client.peers.peer import Peer
from federation.clock import Clock
from federation.errors import Action, Remedy
from federation.session.availability.availability import PeerAvailability
from federation.session.signals import PeerSignal, SignalKind

if TYPE_CHECKING:
    from federation.session.availability.probes import Probes

LOOK = Remedy(action=Action.EXPLAIN_PEER, peer="work.example", user="ada")
LOST = PeerSignal(
    kind=SignalKind.OFFLINE, peer="work", reason="PEER_UNREACHABLE", message="no route", next_step="look", remedy=LOOK
)
GONE = replace(LOST, since_us=5, retry_at_us=35)


class NoProbes:
    """Promises a probe 30 µs after the failure, and never makes it."""

    def wait(self, peer: Peer, waiter: object) -> int:
        return 35

    def unregister(self, waiter: object) -> None:
        return None


class Subject:
    """An availability at a clock that stands still until `now_us` is set, with what it told."""

    def __init__(self, *, announce: bool = True) -> None:
        self.now_us = 5
        self.told: list[PeerSignal] = []
        clock = Clock(monotonic=lambda: 0.0, wall=lambda: self.now_us / 1e6)
        probes = cast("Probes", NoProbes())
        self.availability = PeerAvailability(probes, clock, self.told.append, announce_restored=announce)

    def lose(self, peer: Peer, returns: int = 0, reason: str = "PEER_UNREACHABLE") -> None:
        self.availability.failed(peer, returns, replace(LOST, peer=peer.name, reason=reason), INVALID_SPAN)

    def reach(self, peer: Peer, now_us: int, *, well: bool = True) -> None:
        self.now_us = now_us
        self.availability.reached(peer, well=well)

    def outage(self, peer: Peer) -> PeerSignal | None:
        return self.availability.outage(peer, INVALID_SPAN)


def a_peer(name: str = "work", enrollment: str = "e1", last_success_us: int | None = None) -> Peer:
    """A peer as far as the availability reads one."""
    health = SimpleNamespace(last_success_us=last_success_us)
    return cast("Peer", SimpleNamespace(name=name, record=SimpleNamespace(id=enrollment), health=health))


def test_the_first_failure_alone_gives_the_signal() -> None:
    """The signal says what the failure said; a later failure gives none, and leaves the first reason standing."""
    subject, work = Subject(), a_peer()
    subject.lose(work)
    subject.lose(work, reason="PEER_TIMEOUT")

    assert subject.told == [
        PeerSignal(
            kind=SignalKind.OFFLINE,
            peer="work",
            reason="PEER_UNREACHABLE",
            message="no route",
            next_step="look",
            remedy=LOOK,
            since_us=5,
            retry_at_us=35,
        )
    ]
    assert subject.told[0].text == "federation offline for work"
    assert subject.outage(work) == GONE
    assert subject.outage(a_peer("lab", "lab")) is None


def test_calls_that_fail_at_once_give_one_signal() -> None:
    """Thirty-two calls lose four peers: the session gives one signal for each peer, and one for its return."""
    subject, peers = Subject(), [a_peer(f"peer-{number}", f"e{number}") for number in range(4)]
    for number in range(32):
        subject.lose(peers[number % 4])
    for number in range(32):
        subject.reach(peers[number % 4], 9)

    names = [f"peer-{number}" for number in range(4)]
    assert [signal.peer for signal in subject.told if signal.kind is SignalKind.OFFLINE] == names
    assert [signal.peer for signal in subject.told if signal.kind is SignalKind.RESTORED] == names


def test_a_second_outage_is_skipped_in_silence() -> None:
    """After it came back a peer may go again: it is not asked, and the session gives no second signal."""
    subject, work = Subject(), a_peer()
    subject.lose(work)
    subject.reach(work, 40)

    assert (subject.told[1].text, subject.told[1].since_us) == ("federation restored for work", 40)
    subject.now_us = 5
    subject.lose(work, subject.availability.returns(work))
    assert subject.outage(work) == GONE
    subject.reach(work, 50)
    assert subject.outage(work) is None
    assert len(subject.told) == 2


def test_a_failure_of_a_call_from_before_the_return_does_not_count() -> None:
    """A call that began before the peer came back says nothing of a peer that answers now."""
    subject, work = Subject(), a_peer()
    before = subject.availability.returns(work)
    subject.lose(work, before)
    subject.reach(work, 40)
    subject.lose(work, before)

    assert len(subject.told) == 2
    assert subject.outage(work) is None


def test_nothing_is_restored_that_was_not_away() -> None:
    """A peer that never failed gives no signal, and its number of returns stays 0."""
    subject, work = Subject(), a_peer()
    subject.reach(work, 40)

    assert subject.told == []
    assert subject.availability.returns(work) == 0


@pytest.mark.parametrize(("announce", "well"), [(False, True), (True, False)])
def test_a_return_may_be_silent(announce: bool, well: bool) -> None:
    """Opted out, or answering with a refusal alone: the peer is asked again, and no signal says so."""
    subject, work = Subject(announce=announce), a_peer()
    subject.lose(work)
    subject.reach(work, 40, well=well)

    assert [signal.kind for signal in subject.told] == [SignalKind.OFFLINE]
    assert subject.outage(work) is None


def test_a_failed_probe_moves_the_next_try() -> None:
    """`retry_at_us` follows the probe; a peer without an outage gets none."""
    subject, work, lab = Subject(), a_peer(), a_peer("lab", "lab")
    subject.lose(work)
    subject.availability.postponed(work, 95)
    subject.availability.postponed(lab, 95)

    outage = subject.outage(work)
    assert outage is not None
    assert (outage.retry_at_us, outage.since_us) == (95, 5)
    assert subject.outage(lab) is None


@pytest.mark.parametrize(("succeeded_us", "back"), [(5, False), (6, True)])
def test_a_later_success_of_another_call_ends_an_outage(succeeded_us: int, back: bool) -> None:
    """Another session's call that succeeded after the outage began shows that the peer answers."""
    subject, work = Subject(), a_peer(last_success_us=succeeded_us)
    subject.lose(work)

    assert (subject.outage(work) is None) is back
    assert (subject.told[-1].kind is SignalKind.RESTORED) is back


def test_each_signal_is_reported_by_one_result() -> None:
    """A result takes the signals since the last result."""
    subject, work = Subject(), a_peer()
    subject.lose(work)

    assert [signal.kind for signal in subject.availability.unreported()] == [SignalKind.OFFLINE]
    assert subject.availability.unreported() == ()
