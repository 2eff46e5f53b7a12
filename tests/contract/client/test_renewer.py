"""The renewal of a gateway's client certificates: when, by which process, and after failures."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from federation.breaker import CallResult, CircuitState
from federation.cache.entries import DeliveryDecision, Key
from federation.client.peers.peer import Peer
from federation.client.renewer import RENEWAL_LOCK, Renewer, plan_of
from federation.client.runtime import ClientRuntime
from federation.errors import ConflictError, LockedError, Reason, Refusal, StoreError
from federation.store.locks import FileLock
from federation.store.peers import PeerRecord
from tests.support.federations import config_of
from tests.support.renewal_pair import DAY_S, LIFE_S, RenewalPair


@contextmanager
def process(renewing: RenewalPair, directory: Path, *records: PeerRecord) -> Iterator[tuple[Renewer, Peer]]:
    """One process on a directory: a runtime of its own, and its renewer."""
    runtime = ClientRuntime(config_of(directory), renewing.work.clock, None)
    runtime.peers.load(records or (renewing.record,))
    renewer = Renewer(
        runtime.peers,
        renewing.peers,
        directory=directory,
        gateway_name="home.example",
        clock=renewing.work.clock,
        chance=lambda: 0.5,
    )
    try:
        yield renewer, runtime.peers.all()[0]
    finally:
        runtime.close()


def due_in_s(renewing: RenewalPair, peer: Peer) -> float:
    """Seconds until the peer's next renewal."""
    now = renewing.work.clock.now_us()
    at = plan_of(peer).next_at_us(now)
    assert at is not None
    return (at - now) / 1e6


async def stored_at(renewing: RenewalPair, address: str) -> PeerRecord:
    """Return the stored record, as if the peer's federation and enrollment services were at this address."""
    await renewing.peers.remove(renewing.record.id)
    renewing.record = replace(renewing.record, endpoint=address, enrollment_endpoint=address)
    await renewing.peers.add(renewing.record)
    return renewing.record


async def test_a_certificate_is_renewed_when_it_is_due_and_not_before(renewing: RenewalPair, tmp_path: Path) -> None:
    """One request at two thirds of the lifetime; the peer has the new certificate, its cache was flushed once."""
    async with renewing.work.serving_renewals() as address:
        await stored_at(renewing, address)
        with process(renewing, tmp_path) as (renewer, peer):
            old, flushes = peer.record, peer.cache.stats().flushes
            renewing.hands.advance(due_in_s(renewing, peer) - 1)
            await renewer.step()
            assert renewing.work.events == []

            renewing.hands.advance(2)
            await renewer.step()
            await renewer.step()

            assert [event.outcome for event in renewing.work.events] == ["ok"]
            assert peer.record.certificate_pem == renewing.grant.newest.pem != old.certificate_pem
            assert peer.cache.stats().flushes == flushes + 1
            assert plan_of(peer).attempts == {"ok": 1}
            assert due_in_s(renewing, peer) > DAY_S / 2


async def test_processes_on_one_directory_renew_once(renewing: RenewalPair, tmp_path: Path) -> None:
    """All reach the due time at once; one renews, the rest load its certificate from the store and flush once each."""
    async with renewing.work.serving_renewals() as address:
        record = await stored_at(renewing, address)
        with (
            process(renewing, tmp_path, record) as (first, one),
            process(renewing, tmp_path, record) as (second, two),
            process(renewing, tmp_path, record) as (third, three),
        ):
            renewing.hands.advance(due_in_s(renewing, one) + 1)
            for _ in range(3):
                await asyncio.gather(first.step(), second.step(), third.step())
                renewing.hands.advance(6)

            assert [event.outcome for event in renewing.work.events] == ["ok"]
            assert {peer.record.certificate_pem for peer in (one, two, three)} == {renewing.grant.newest.pem}
            assert {peer.cache.stats().flushes for peer in (one, two, three)} == {1}


async def test_a_certificate_renewed_since_the_last_read_is_not_renewed_again(
    renewing: RenewalPair, tmp_path: Path
) -> None:
    """The process that gets the lock reads the record again before renewing."""
    async with renewing.work.serving_renewals() as address:
        record = await stored_at(renewing, address)
        with process(renewing, tmp_path, record) as (first, one), process(renewing, tmp_path, record) as (second, two):
            renewing.hands.advance(due_in_s(renewing, one) + 1)
            second._polled_at = renewing.work.clock.monotonic()
            await first.step()
            assert two.record == record
            await second.step()

            assert [event.outcome for event in renewing.work.events] == ["ok"]
            assert two.record == one.record != record


async def test_a_certificate_that_another_process_renewed_first_is_taken_and_not_renewed(
    renewing: RenewalPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that finds a newer certificate in the store sends no request of its own."""
    async with renewing.work.serving_renewals() as address:
        record = await stored_at(renewing, address)
        with process(renewing, tmp_path, record) as (first, one), process(renewing, tmp_path, record) as (second, two):
            sent: list[PeerRecord] = []

            async def renewed(record: PeerRecord, **_: object) -> PeerRecord:
                sent.append(record)
                return record

            renewing.hands.advance(due_in_s(renewing, one) + 1)
            await first.step()
            monkeypatch.setattr("federation.client.renewer.renew", renewed)
            await second._renew(two, by_hand=False)

            assert sent == []
            assert two.record == one.record


async def test_a_held_renewal_lock_is_respected(renewing: RenewalPair, tmp_path: Path) -> None:
    """A lock held by another process is no failure; a rotation by hand waits, and then reports the lock."""
    lock = FileLock(tmp_path / RENEWAL_LOCK, "x")
    async with renewing.work.serving_renewals() as address:
        await stored_at(renewing, address)
        with process(renewing, tmp_path) as (renewer, peer):
            renewing.hands.advance(due_in_s(renewing, peer) + 1)
            lock.acquire()
            await renewer.step()
            assert (renewing.work.events, plan_of(peer).failures) == ([], 0)

            rotating = asyncio.create_task(renewer.rotate(peer))
            await asyncio.sleep(0.1)
            renewing.hands.advance(61)
            with pytest.raises(LockedError, match="by process"):
                await rotating

            lock.release()
            await renewer.step()
            assert [event.outcome for event in renewing.work.events] == ["ok"]


async def test_a_rotation_by_hand_makes_a_fresh_key_each_time(renewing: RenewalPair, tmp_path: Path) -> None:
    """Each rotation has a new key, also when nothing is due, and right after another one."""
    async with renewing.work.serving_renewals() as address:
        await stored_at(renewing, address)
        with process(renewing, tmp_path) as (renewer, peer):
            keys = {peer.record.key_pem}
            for _ in range(3):
                await renewer.rotate(peer)
                keys.add(peer.record.key_pem)
            assert len(keys) == 4
            assert peer.cache.stats().flushes == 3
            assert due_in_s(renewing, peer) > DAY_S / 2


async def test_failures_are_retried_and_logged_once(
    renewing: RenewalPair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Unreachable: one log line for the first failure, one for degraded, and one for the success that ends it."""
    caplog.set_level(logging.INFO, "federation.client.renewer")
    await stored_at(renewing, "127.0.0.1:1")
    with process(renewing, tmp_path) as (renewer, peer):
        renewing.hands.advance(due_in_s(renewing, peer) + 1)
        degraded = []
        for _ in range(6):
            await renewer.step()
            await renewer.step()
            degraded.append(plan_of(peer).degraded)
            renewing.hands.advance(due_in_s(renewing, peer) + 0.001)
        plan = plan_of(peer)
        assert degraded == [False, False, True, True, True, True]
        assert plan.failures == 6
        assert plan.attempts == {"offline": 6}
        assert plan.last_failure.reason == Reason.PEER_UNREACHABLE
        told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert ["failed" in told[0], "fails repeatedly" in told[1], len(told)] == [True, True, 2]

        async with renewing.work.serving_renewals() as address:
            await stored_at(renewing, address)
            peer.record = replace(peer.record, endpoint=address)
            await renewer.step()
        assert (plan.failures, plan.degraded) == (0, False)
        assert plan.attempts == {"offline": 6, "ok": 1}
        assert "can be renewed again" in caplog.text


async def test_a_revoked_grant_makes_the_peer_revoked(renewing: RenewalPair, tmp_path: Path) -> None:
    """After the peer's refusal no earlier answer is cached or delivered, and the peer is not called again."""
    await renewing.work.grants.revoke(renewing.grant.id, "over")
    async with renewing.work.serving_renewals() as address:
        await stored_at(renewing, address)
        with process(renewing, tmp_path) as (renewer, peer):
            under_way = peer.cache.fetch_token(Key(peer.grant_id, "list", "tasks", "a query"))
            renewing.hands.advance(due_in_s(renewing, peer) + 1)
            await renewer.step()
            renewing.hands.advance(DAY_S)
            await renewer.step()

            assert peer.revocation is not None
            assert peer.cache.decision(under_way) is DeliveryDecision.REFUSE
            assert peer.cache.stats().flushes == 1
            assert plan_of(peer).next_at_us(0) is None
            assert [event.reason for event in renewing.work.events] == ["grant revoked"]


async def test_another_refusal_is_not_a_revocation(renewing: RenewalPair, tmp_path: Path) -> None:
    """A grant that is not valid does not make the peer revoked; the renewal is retried later."""
    renewing.work.grants._grants[renewing.grant.id] = replace(renewing.grant, subject="eve")
    async with renewing.work.serving_renewals() as address:
        await stored_at(renewing, address)
        with process(renewing, tmp_path) as (renewer, peer):
            with pytest.raises(Refusal) as caught:
                await renewer.rotate(peer)
            assert caught.value.reason is Reason.GRANT_INVALID
            assert peer.revocation is None
            assert plan_of(peer).last_failure.reason == Reason.GRANT_INVALID
            assert plan_of(peer).next_at_us(0) is not None


async def test_a_peer_that_revoked_the_grant_is_never_due(renewing: RenewalPair, tmp_path: Path) -> None:
    """After the peer revoked the grant, its certificate is not renewed, whichever part received the revocation."""
    async with renewing.work.serving_renewals() as address:
        await stored_at(renewing, address)
        with process(renewing, tmp_path) as (renewer, peer):
            peer.on_revoked("over")
            renewing.hands.advance(due_in_s(renewing, peer) + 1)
            await renewer.step()

            assert renewing.work.events == []


async def test_a_conflict_makes_the_next_poll_read_the_store_again(
    renewing: RenewalPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a conflict the records are read again, although the store's version has not changed."""
    reads: list[None] = []
    read = renewing.peers.all

    async def counted() -> tuple[PeerRecord, ...]:
        reads.append(None)
        return await read()

    async def conflict(_: PeerRecord, **__: object) -> PeerRecord:
        raise ConflictError("the record was changed meanwhile")

    with process(renewing, tmp_path) as (renewer, peer):
        await renewer.reload()
        monkeypatch.setattr(renewing.peers, "all", counted)
        monkeypatch.setattr("federation.client.renewer.renew", conflict)
        await renewer.reload()
        assert reads == []

        with pytest.raises(ConflictError):
            await renewer.rotate(peer)
        await renewer.reload()
        assert reads == [None]


async def test_an_expired_certificate_is_renewed_in_the_background(renewing: RenewalPair, tmp_path: Path) -> None:
    """A gateway that slept for days recovers by itself."""
    async with renewing.work.serving() as address:
        await stored_at(renewing, address)
        with process(renewing, tmp_path) as (renewer, peer):
            renewing.hands.advance(LIFE_S + 3 * DAY_S)
            assert peer.channel.refusal() is not None
            await renewer.step()
            assert peer.channel.refusal() is None
            assert [event.reason for event in renewing.work.events] == ["after expiry"]


async def test_an_open_circuit_keeps_a_renewal_off_the_wire_until_it_is_urgent(
    renewing: RenewalPair, tmp_path: Path
) -> None:
    """While the circuit is open nothing is sent; in the last tenth of the lifetime the renewal is sent all the same."""
    async with renewing.work.serving_renewals() as address:
        await stored_at(renewing, address)
        with process(renewing, tmp_path) as (renewer, peer):
            renewing.hands.advance(due_in_s(renewing, peer) + 1)
            _open(peer, renewing)
            await renewer.step()
            assert renewing.work.events == []
            assert 0 < due_in_s(renewing, peer) < 40

            left_s = plan_of(peer).certificate.not_after_us / 1e6 - renewing.hands.wall_s
            renewing.hands.advance(left_s - 3_600)
            _open(peer, renewing)
            await renewer.step()
            assert [event.outcome for event in renewing.work.events] == ["ok"]


def _open(peer: Peer, renewing: RenewalPair) -> None:
    circuit, now = peer.circuit, renewing.work.clock.monotonic()
    circuit.reset()
    while circuit.snapshot(now).state is not CircuitState.OPEN:
        circuit.record(circuit.allow(now), CallResult.FAILURE, now)


async def test_changes_of_other_processes_are_loaded(renewing: RenewalPair, tmp_path: Path) -> None:
    """New peers are added and removed ones dropped, at the latest at the next poll."""
    async with renewing.work.serving_renewals() as address:
        await stored_at(renewing, address)
        with process(renewing, tmp_path) as (renewer, _):
            await renewer.step()
            other = replace(renewing.record, id="other", user="bob", grant_id="99999999-2222-4333-8444-555555555555")
            await renewing.peers.add(other)
            renewing.hands.advance(6)
            await renewer.step()
            assert {peer.user for peer in renewer._peers.all()} == {"bea", "bob"}
            await renewing.peers.remove("other")
            renewing.hands.advance(6)
            await renewer.step()
            assert {peer.user for peer in renewer._peers.all()} == {"bea"}


async def test_a_new_enrollment_under_an_old_name_is_another_peer(renewing: RenewalPair, tmp_path: Path) -> None:
    """Nothing of the old peer is kept, and a late renewal of its certificate does not reach the new one."""
    with process(renewing, tmp_path) as (renewer, old):
        registry = renewer._peers
        again = replace(renewing.record, id="again", grant_id="99999999-2222-4333-8444-555555555555")
        registry.load([again])
        [new] = registry.all()
        assert new is not old

        registry.renew(replace(renewing.record, certificate_pem="late"))
        assert registry.all() == (new,)
        assert new.record == again


async def test_changes_of_this_process_during_a_read_are_newer(renewing: RenewalPair, tmp_path: Path) -> None:
    """A peer that was added during the read is not dropped for its absence from the records read."""
    with process(renewing, tmp_path) as (renewer, _):
        registry, read = renewer._peers, renewing.peers.all
        other = replace(renewing.record, id="other", user="bob", grant_id="99999999-2222-4333-8444-555555555555")

        async def slowly():
            records = await read()
            await renewing.peers.add(other)
            registry.add(other)
            return records

        renewing.peers.all = slowly
        await renewer.reload()
        assert {peer.user for peer in registry.all()} == {"bea", "bob"}

        renewing.peers.all = read
        await renewer.reload()
        assert {peer.user for peer in registry.all()} == {"bea", "bob"}


async def test_a_store_that_fails_is_logged_once(
    renewing: RenewalPair, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The background task continues, and logs the error once."""
    monkeypatch.setattr("federation.client.renewer.TICK_S", 0.001)

    async def broken():
        calls.append(1)
        if len(calls) == 5:
            often.set()
        raise StoreError("the disk is full")

    calls: list[int] = []
    often = asyncio.Event()
    with process(renewing, tmp_path) as (renewer, _):
        renewer._poll_s = 0.0
        renewing.peers.versions = broken
        running = asyncio.create_task(renewer.run())
        await often.wait()
        running.cancel()
        await asyncio.wait([running])
    assert caplog.text.count("the disk is full") == 1


FORKING = """
import os, sys
from pathlib import Path
from federation.store.locks import FileLock

path = Path(sys.argv[1])
lock = FileLock(path, "x")
lock.acquire()
ready, told = os.pipe()
if os.fork() == 0:
    os.close(1)
    os.write(told, b"x")
    sys.stdin.read()
    os._exit(0)
os.read(ready, 1)
try:
    FileLock(path, "x").acquire()
    print("the parent has lost it")
except Exception:
    lock.release()
    FileLock(path, "x").acquire()
    print("free")
"""


def test_a_forked_child_does_not_keep_a_lock(tmp_path: Path) -> None:
    """The child neither takes the lock from its parent nor holds it when the parent releases it."""
    with subprocess.Popen(
        [sys.executable, "-c", FORKING, str(tmp_path / "l")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "free\n"
        child.stdin.close()
