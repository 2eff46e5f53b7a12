"""Revocations over real mutual TLS and a real database: who is awaited, for how long, and which receipts are stored."""

import asyncio
import statistics
import time
from dataclasses import replace
from typing import Any

import grpc
import pytest

from federation.admin.messages.common import receipt_message
from federation.clock import SYSTEM_CLOCK
from federation.errors import ConflictError, InputError, NotFoundError, StoreError
from federation.server.revocation.leases import ReleaseReason
from federation.server.revocation.manager import RevocationHandle
from federation.store.grants.model import Grant, GrantStatus
from federation.store.grants.registry import GrantRegistry
from federation.store.receipts import InstanceRecord, LeaseBound, Receipt, ReceiptKind, ReceiptStore
from federation.wire.status import error_detail_of
from tests.support.clock import ManualClock
from tests.support.scripted import eventually
from tests.support.server_on_database import TASKS, A, B, C, DatabaseServer, StartDatabaseServer, WatchClient, refusing


def real_time() -> ManualClock:
    """A clock that the test moves, at an instant when the certificates are valid."""
    return ManualClock(time.time())


def how(handle: RevocationHandle) -> dict[str, str]:
    """The release reason of each instance."""
    return {release.instance: release.how.value for release in handle.instances}


def released(receipt: Receipt) -> dict[str, str]:
    """The release reason of each instance in the receipt."""
    assert receipt.effective_at_us is not None
    return {one.instance: one.how for one in receipt.instances}


async def prompt_receipt(handle: RevocationHandle) -> Receipt:
    """Return the receipt, which must come within five seconds."""
    async with asyncio.timeout(5):
        return await handle.receipt()


async def is_pending(handle: RevocationHandle) -> bool:
    """Tell whether the receipt is still awaited after 0.6 s."""
    waiting = asyncio.create_task(handle.receipt())
    _, pending = await asyncio.wait({waiting}, timeout=0.6)
    waiting.cancel()
    return bool(pending)


async def reason_of(call: Any) -> str:
    """The reason for which a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error_detail_of(error.value).reason


async def stored(granting: DatabaseServer, grant: Grant, kind: ReceiptKind = ReceiptKind.REVOKED) -> Receipt | None:
    """The receipt in the database."""
    return await ReceiptStore(granting.database).last(grant.id, kind)


def read_slowly(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Delay later reads of the latest receipt until the event is set."""
    read, go_on = ReceiptStore.last, asyncio.Event()

    async def slowly(self: ReceiptStore, grant_id: str, kind: ReceiptKind) -> Receipt | None:
        found = await read(self, grant_id, kind)
        await go_on.wait()
        return found

    monkeypatch.setattr(ReceiptStore, "last", slowly)
    return go_on


async def test_a_connected_peer_makes_a_revocation_effective_by_its_ack(granting: DatabaseServer) -> None:
    """The event reaches the watch with the reason; its ack on that stream is all that is awaited."""
    grant = await granting.grant()
    assert await granting.lease(grant) == 30_000
    watch = await granting.watch(grant)

    handle = await granting.revocations.revoke(grant.id, "contract ended")
    event = await watch.next()
    assert event.grant_revoked.reason == "contract ended"
    assert how(handle) == {A: "awaited"}
    await watch.ack(event, failed=3)

    receipt = await prompt_receipt(handle)
    assert (receipt.kind, receipt.reason) == (ReceiptKind.REVOKED, "contract ended")
    assert [(one.instance, one.how, one.failed_in_flight) for one in receipt.instances] == [(A, "acked", 3)]
    assert receipt.begun_at_us <= receipt.instances[0].at_us <= (receipt.effective_at_us or 0)
    assert receipt == await stored(granting, grant)
    error = await watch.end()
    assert error is not None
    assert error_detail_of(error).reason == "GRANT_REVOKED"
    assert await reason_of(granting.stub(grant).List(TASKS)) == "GRANT_REVOKED"
    acts = [event.verb for event in await granting.audit.seen(2)]
    assert "grant.effective" in acts


async def test_a_flush_takes_one_round_trip(granting: DatabaseServer) -> None:
    """From the durable revocation to the ack nothing is waited for: below 10 ms in the median, over loopback."""
    rounds = []
    for _ in range(3):
        took = []
        for _ in range(9):
            grant = await granting.grant()
            stub = granting.stub(grant)
            await granting.lease(grant, stub=stub)
            watch = await granting.watch(grant, stub=stub)

            async def answer(watch: WatchClient = watch) -> None:
                await watch.ack(await watch.next())

            answering = asyncio.create_task(answer())
            handle = await granting.revocations.revoke(grant.id)
            await handle.durable()
            begun = time.perf_counter()
            while how(handle) != {A: "acked"}:
                await handle.next_release(5)
            took.append(time.perf_counter() - begun)
            await answering
            await prompt_receipt(handle)
        rounds.append(statistics.median(took))
    assert min(rounds) < 0.010, rounds


async def test_a_peer_that_is_cut_off_is_awaited_until_its_lease_ends(start_granting: StartDatabaseServer) -> None:
    """The receipt comes when the last lease ends and not before; every call is refused at once."""
    hand = real_time()
    granting = await start_granting(hand.clock)
    grant = await granting.grant()
    stub = granting.stub(grant)
    await granting.lease(grant, A, stub)
    hand.advance(10)
    await granting.lease(grant, B, stub)

    handle = await granting.revocations.revoke(grant.id)
    await handle.durable()

    assert await reason_of(stub.List(TASKS)) == "GRANT_REVOKED"
    hand.advance(32.9)
    assert await is_pending(handle)
    assert how(handle) == {A: "lease_ended", B: "awaited"}
    hand.advance(0.2)
    receipt = await prompt_receipt(handle)
    assert released(receipt) == {A: "lease_ended", B: "lease_ended"}
    assert receipt.effective_at_us == hand.clock.now_us()


async def test_a_short_lease_is_outlived_in_real_time(start_granting: StartDatabaseServer) -> None:
    """With leases of a second, a peer that is cut off costs a tenth more than that, and less than 2 s."""
    granting = await start_granting(max_lease_ms=1_000)
    grant = await granting.grant()
    assert await granting.lease(grant) == 1_000
    begun = time.monotonic()
    receipt = await prompt_receipt(await granting.revocations.revoke(grant.id))
    assert 0.9 < time.monotonic() - begun < 2.0
    assert released(receipt) == {A: "lease_ended"}


async def test_the_order_is_refused_then_stored_then_sent(granting: DatabaseServer) -> None:
    """While the write hangs, calls are refused already, and no watcher has received an event."""
    grant = await granting.grant()
    stub = granting.stub(grant)
    await granting.lease(grant, A, stub)
    watch = await granting.watch(grant, A, stub)
    hearing = asyncio.create_task(watch.next())
    async with granting.grants._lock:
        handle = await granting.revocations.revoke(grant.id)
        assert granting.coordinator.leases.grant_lease(grant.id, B, 30_000) == 0
        assert await reason_of(stub.List(TASKS)) == "GRANT_REVOKED"
        late = await granting.watch(grant, B, stub)
        hearing_late = asyncio.create_task(late.next())
        assert await stored(granting, grant) is None
        await asyncio.sleep(0.1)
        assert not hearing.done()
        assert not hearing_late.done()
    assert (await hearing_late).WhichOneof("kind") == "grant_revoked"
    await watch.ack(await hearing)
    receipt = await prompt_receipt(handle)
    assert released(receipt) == {A: "acked"}


async def test_a_watch_stays_for_the_event_however_long_the_write_takes(start_granting: StartDatabaseServer) -> None:
    """The watch of a refused grant stays open across heartbeats until its event is acknowledged."""
    granting = await start_granting(heartbeat_interval_s=0.1)
    grant = await granting.grant()
    await granting.lease(grant)
    watch = await granting.watch(grant)
    async with granting.grants._lock:
        handle = await granting.revocations.revoke(grant.id)
        for _ in range(4):
            await watch.beat()
            await asyncio.sleep(0.08)
    await watch.ack(await watch.next())
    assert released(await prompt_receipt(handle)) == {A: "acked"}


async def test_a_watch_armed_during_a_revocation_gets_the_event_and_may_ack(
    start_granting: StartDatabaseServer,
) -> None:
    """A peer that arms a watch while it is awaited gets the event at once; after its ack, no watch can be armed."""
    granting = await start_granting(real_time().clock)
    grant = await granting.grant()
    await granting.lease(grant, A)
    await granting.lease(grant, B)
    handle = await granting.revocations.revoke(grant.id, "over")
    await handle.durable()
    back, stranger = await granting.watch(grant, A), await granting.watch(grant, C)
    event = await back.next()
    assert event.grant_revoked.reason == "over"
    assert (await stranger.next()).WhichOneof("kind") == "grant_revoked"
    await back.ack(event, failed=2)
    await eventually(lambda: how(handle) == {A: "acked", B: "awaited"})
    late = await granting.watch(grant, B)
    await late.ack(await late.next())
    receipt = await prompt_receipt(handle)
    assert released(receipt) == {A: "acked", B: "acked"}
    assert await reason_of(WatchClient(granting.stub(grant), C).arm()) == "GRANT_REVOKED"


async def test_a_watch_armed_during_a_scope_reduction_gets_the_event_and_a_later_one_does_not(
    start_granting: StartDatabaseServer,
) -> None:
    """The event reaches watches that are armed while acks are awaited, and no later ones."""
    granting = await start_granting(real_time().clock)
    grant = await granting.grant()
    await granting.lease(grant, A)
    handle = (await granting.revocations.edit_scope(grant.id, replace(grant.scope, max_rows_per_query=1))).handle
    back = await granting.watch(grant, A)
    event = await back.next()
    assert event.WhichOneof("kind") == "grant_changed"
    await back.ack(event)
    assert released(await prompt_receipt(handle)) == {A: "acked"}
    again = await granting.watch(grant, B)
    assert await again.silent(0.1)


async def test_a_call_under_way_at_the_revocation_gets_neither_answer_nor_lease(granting: DatabaseServer) -> None:
    """An answer that was read before the refusal and would leave after it is refused, and delays nothing."""
    grant = await granting.grant()
    begun, go_on = asyncio.Event(), asyncio.Event()
    read = granting.provider.list

    async def slow(*args: Any) -> Any:
        page = await read(*args)
        begun.set()
        await go_on.wait()
        return page

    granting.provider.list = slow  # type: ignore[method-assign]
    call = asyncio.ensure_future(granting.lease(grant))
    await begun.wait()
    receipt = await prompt_receipt(await granting.revocations.revoke(grant.id))
    go_on.set()
    assert await reason_of(call) == "GRANT_REVOKED"
    assert receipt.instances == ()
    assert granting.coordinator.leases.count(grant.id) == 0


async def test_only_the_own_ack_of_the_own_instance_counts(granting: DatabaseServer) -> None:
    """No ack of another instance, under another grant with the same instance, or of an earlier event releases one."""
    grant, other = await granting.grant(), await granting.grant()
    for instance in (A, B):
        await granting.lease(grant, instance)
    await granting.lease(other, A)
    first, second, foreign = (
        await granting.watch(grant, A),
        await granting.watch(grant, B),
        await granting.watch(other, A),
    )
    both = await granting.revocations.revoke(other.id), await granting.revocations.revoke(grant.id)
    elsewhere, mine = await foreign.next(), await first.next()
    await foreign.ack(elsewhere)
    await first.ack(1)
    assert released(await prompt_receipt(both[0])) == {A: "acked"}
    assert how(both[1]) == {A: "awaited", B: "awaited"}
    await second.ack(await second.next())
    await eventually(lambda: how(both[1]) == {B: "acked", A: "awaited"})
    await first.ack(mine)
    assert released(await prompt_receipt(both[1])) == {A: "acked", B: "acked"}


async def test_either_stream_of_one_instance_may_ack(granting: DatabaseServer) -> None:
    """Two streams of one cache object, as during a move: both get the event, and one ack counts for both."""
    grant = await granting.grant()
    await granting.lease(grant)
    old, new = await granting.watch(grant), await granting.watch(grant)
    handle = await granting.revocations.revoke(grant.id)
    await old.next()
    await new.ack(await new.next(), failed=1)
    receipt = await prompt_receipt(handle)
    assert released(receipt) == {A: "acked"}
    assert receipt.instances[0].failed_in_flight == 1


async def test_a_stream_that_ends_without_an_ack_leaves_its_lease_awaited(start_granting: StartDatabaseServer) -> None:
    """An instance with a lease is awaited after its stream has ended; an instance that only watched is not."""
    hand = real_time()
    granting = await start_granting(hand.clock)
    grant = await granting.grant()
    await granting.lease(grant, A)
    holder, onlooker, twice = (
        await granting.watch(grant, A),
        await granting.watch(grant, B),
        await granting.watch(grant, C),
    )
    again = await granting.watch(grant, C)
    handle = await granting.revocations.revoke(grant.id)
    for watch in (holder, onlooker, twice):
        watch.call.cancel()
    await eventually(lambda: granting.coordinator.subscriptions.count(grant.id) == 1)
    assert how(handle) == {B: "disconnected", A: "awaited", C: "awaited"}
    again.call.cancel()
    await eventually(lambda: how(handle)[C] == "disconnected")
    hand.advance(33.1)
    assert released(await prompt_receipt(handle)) == {A: "lease_ended", B: "disconnected", C: "disconnected"}


async def test_no_instance_is_awaited_without_leases_and_watches(granting: DatabaseServer) -> None:
    """A grant that was never used, or never enrolled, is effective at once."""
    used_never = await granting.grant()
    never_enrolled = await granting.grants.create(peer="home.example", subject="ada", scope=used_never.scope)
    for grant in (used_never, never_enrolled):
        assert (await prompt_receipt(await granting.revocations.revoke(grant.id))).instances == ()


@pytest.mark.parametrize(("reason", "recorded"), [("left the company", "revoked: left the company"), ("", "revoked")])
async def test_a_revocation_is_on_record_once_it_is_effective(
    granting: DatabaseServer, reason: str, recorded: str
) -> None:
    """The event names the grant, its peer and user, and the operator's reason."""
    grant = await granting.grant()
    await prompt_receipt(await granting.revocations.revoke(grant.id, reason))

    event = (await granting.audit.seen(1))[-1]
    assert (event.verb, event.outcome, event.reason, event.source) == ("grant.effective", "ok", recorded, "gateway")
    assert (event.grant_id, event.peer, event.subject) == (grant.id, grant.peer, grant.subject)


async def test_revoking_again_joins_or_shows_the_same_receipt(granting: DatabaseServer) -> None:
    """Concurrent callers share one revocation; later ones get its stored receipt with the first reason."""
    grant = await granting.grant()
    await granting.lease(grant)
    watch = await granting.watch(grant)
    first = await granting.revocations.revoke(grant.id, "first")
    joined = await granting.revocations.revoke(grant.id, "second")
    assert joined is first
    await watch.ack(await watch.next())
    receipt = await prompt_receipt(first)
    assert await prompt_receipt(await granting.revocations.revoke(grant.id, "third")) == receipt
    assert receipt.reason == "first"


async def test_a_revocation_continues_when_its_caller_is_cancelled(granting: DatabaseServer) -> None:
    """Cancelling the caller does not end the revocation; the receipt is stored."""
    grant = await granting.grant()
    await granting.lease(grant)
    watch = await granting.watch(grant)
    asking = asyncio.create_task((await granting.revocations.revoke(grant.id)).receipt())
    event = await watch.next()
    asking.cancel()
    await watch.ack(event)
    await eventually(lambda: not granting.revocations.is_revoking(grant.id))
    receipt = await stored(granting, grant)
    assert receipt is not None
    assert released(receipt) == {A: "acked"}


@pytest.mark.smoke
async def test_a_revocation_survives_a_restart_in_its_middle(start_granting: StartDatabaseServer) -> None:
    """The next process continues the revocation; it knows no leases, so it waits for the longest lease."""
    hand = real_time()
    granting = await start_granting(hand.clock)
    grant = await granting.grant()
    await granting.lease(grant)
    handle = await granting.revocations.revoke(grant.id, "leak")
    await handle.durable()

    hand.advance(5)
    granting = await start_granting(hand.clock)
    with pytest.raises(ConflictError, match="continues when the gateway starts again"):
        await handle.receipt()

    assert await reason_of(granting.stub(grant).List(TASKS)) == "GRANT_REVOKED"
    resumed = await granting.revocations.revoke(grant.id)
    assert how(resumed) == {"": "awaited"}
    hand.advance(32.9)
    assert await is_pending(resumed)
    hand.advance(0.2)
    receipt = await prompt_receipt(resumed)
    assert (receipt.begun_at_us, receipt.reason) == (handle.begun.begun_at_us, "leak")
    assert released(receipt) == {"": "lease_ended"}

    granting = await start_granting(hand.clock)
    assert await prompt_receipt(await granting.revocations.revoke(grant.id)) == receipt


async def test_a_revocation_continues_by_itself_after_a_restart(start_granting: StartDatabaseServer) -> None:
    """The next process sends the event to watches that are armed, and stores the receipt."""
    hand = real_time()
    granting = await start_granting(hand.clock)
    grant = await granting.grant()
    await granting.lease(grant)
    await (await granting.revocations.revoke(grant.id)).durable()
    granting = await start_granting(hand.clock)
    assert granting.revocations.is_revoking(grant.id)
    hand.advance(33.1)
    await eventually(lambda: not granting.revocations.is_revoking(grant.id))
    receipt = await stored(granting, grant)
    assert receipt is not None
    assert released(receipt) == {"": "lease_ended"}


async def test_after_a_restart_a_grant_counts_as_leased_without_a_call(start_granting: StartDatabaseServer) -> None:
    """A grant that an earlier process served waits out the restart rule, also after an ack; a new one does not."""
    hand = real_time()
    granting = await start_granting(hand.clock)
    old = await granting.grant()
    hand.advance(3_600)
    granting = await start_granting(hand.clock)
    new = await granting.grant()
    watch = await granting.watch(old)
    handle = await granting.revocations.revoke(old.id)
    await watch.ack(await watch.next())
    await eventually(lambda: how(handle) == {A: "acked", "": "awaited"})
    assert (await prompt_receipt(await granting.revocations.revoke(new.id))).instances == ()
    hand.advance(33.1)
    assert released(await prompt_receipt(handle)) == {A: "acked", "": "lease_ended"}


async def test_a_restart_with_shorter_leases_waits_for_the_longer_ones(start_granting: StartDatabaseServer) -> None:
    """Leases of the previous process are awaited, however short the new ones are, also after a second restart."""
    hand = real_time()
    granting = await start_granting(hand.clock)
    grant = await granting.grant()
    await granting.lease(grant)
    for _ in range(2):
        granting = await start_granting(hand.clock, max_lease_ms=1_000)
        assert await granting.lease(grant) == 1_000
    handle = await granting.revocations.revoke(grant.id)
    hand.advance(32.9)
    assert await is_pending(handle)
    hand.advance(0.2)
    await prompt_receipt(handle)


async def test_the_stored_bound_falls_once_the_longer_leases_have_ended(
    start_granting: StartDatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound falls when the previous process cannot answer any more and its last lease has ended, not earlier."""
    monkeypatch.setattr("federation.server.revocation.coordinator.HANDOVER_S", 0.5)
    await start_granting(SYSTEM_CLOCK, max_lease_ms=200)
    begun = time.monotonic()
    granting = await start_granting(SYSTEM_CLOCK, max_lease_ms=100)
    receipts = ReceiptStore(granting.database)
    await asyncio.wait_for(
        asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name() == "lease bound")), 5
    )
    assert await receipts.lease_bound() == LeaseBound(100, "")
    assert time.monotonic() - begun >= 0.5 + 0.22


async def test_a_takeover_from_elsewhere_waits_for_the_process_there_to_notice(
    start_granting: StartDatabaseServer,
) -> None:
    """After a takeover from another host, a receipt also waits for the time in which that process may still answer."""
    hand = real_time()
    granting = await start_granting(hand.clock, served_from="one:/srv/work")
    grant = await granting.grant()
    granting = await start_granting(hand.clock, served_from="two:/srv/work")
    handle = await granting.revocations.revoke(grant.id)
    hand.advance(33.1 + 19)
    assert await is_pending(handle)
    hand.advance(1)
    await prompt_receipt(handle)


async def test_a_revocation_that_cannot_be_stored_stays_in_force_and_can_be_repeated(
    start_granting: StartDatabaseServer,
) -> None:
    """The operator gets the error, watchers no event, calls stay refused; a second attempt runs all steps."""
    hand = real_time()
    granting = await start_granting(hand.clock)
    grant = await granting.grant()
    await granting.lease(grant)
    watch = await granting.watch(grant)
    with refusing(granting.database, "UPDATE grants"):
        handle = await granting.revocations.revoke(grant.id, "leak")
        with pytest.raises(StoreError, match=r"is refused by the running gateway.*revoke it again.*disk full"):
            await handle.durable()
        with pytest.raises(StoreError):
            await handle.receipt()
    error = await watch.end()
    assert error is not None
    assert error_detail_of(error).reason == "GRANT_REVOKED"
    assert await reason_of(granting.stub(grant).List(TASKS)) == "GRANT_REVOKED"
    assert granting.grants.require(grant.id).status is GrantStatus.REVOKED

    again = await granting.revocations.revoke(grant.id, "again")
    assert how(again) == {A: "awaited"}, "the lease that was out then is out still"
    hand.advance(33.1)
    receipt = await prompt_receipt(again)
    assert (receipt.reason, released(receipt)) == ("leak", {A: "lease_ended"})


async def test_a_beginning_that_cannot_be_stored_takes_the_revocation_with_it(granting: DatabaseServer) -> None:
    """Revocation and its beginning are one transaction: a crash never leaves a revoked grant without its beginning."""
    grant = await granting.grant()
    with refusing(granting.database, "INSERT INTO revocations"), pytest.raises(StoreError):
        await (await granting.revocations.revoke(grant.id)).durable()
    assert (await GrantRegistry.load(granting.database)).require(grant.id).status is GrantStatus.ACTIVE
    await prompt_receipt(await granting.revocations.revoke(grant.id))


async def test_a_receipt_that_cannot_be_stored_is_kept_until_it_can(granting: DatabaseServer) -> None:
    """The operator gets the error; a second attempt stores and returns the same receipt."""
    grant = await granting.grant()
    await granting.lease(grant)
    watch = await granting.watch(grant)
    with refusing(granting.database, "UPDATE revocations"):
        handle = await granting.revocations.revoke(grant.id)
        await watch.ack(await watch.next())
        with pytest.raises(StoreError, match="receipt of grant"):
            await prompt_receipt(handle)
        with pytest.raises(StoreError, match="receipt of grant"):
            await granting.revocations.revoke(grant.id)
    receipt = await prompt_receipt(await granting.revocations.revoke(grant.id))
    assert released(receipt) == {A: "acked"}
    assert receipt == await stored(granting, grant)


async def test_a_revocation_is_open_until_its_failed_receipt_is_stored(granting: DatabaseServer) -> None:
    """A receipt that could not be stored keeps the revocation open; storing the receipt closes the revocation."""
    grant = await granting.grant()
    with refusing(granting.database, "UPDATE revocations"), pytest.raises(StoreError):
        await prompt_receipt(await granting.revocations.revoke(grant.id))
    assert granting.revocations.is_open(grant.id)

    await prompt_receipt(await granting.revocations.revoke(grant.id))

    assert not granting.revocations.is_open(grant.id)


async def test_asking_while_it_ends_shows_the_one_receipt(
    granting: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller whose read of the database overlaps the last ack gets the same receipt."""
    grant = await granting.grant()
    await granting.lease(grant)
    watch = await granting.watch(grant)
    handle = await granting.revocations.revoke(grant.id)
    event = await watch.next()
    go_on = read_slowly(monkeypatch)
    again = asyncio.create_task(granting.revocations.revoke(grant.id))
    await asyncio.wait({again}, timeout=0.2)
    await watch.ack(event)
    receipt = await prompt_receipt(handle)
    go_on.set()
    assert await prompt_receipt(await again) == receipt
    assert released(receipt) == {A: "acked"}
    assert await stored(granting, grant) == receipt


async def test_concurrent_callers_after_a_failure_get_one_receipt(
    granting: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receipt that could not be stored is stored once, and all who ask are shown it."""
    grant = await granting.grant()
    with refusing(granting.database, "UPDATE revocations"), pytest.raises(StoreError):
        await prompt_receipt(await granting.revocations.revoke(grant.id))
    go_on = read_slowly(monkeypatch)
    asking = asyncio.gather(*(granting.revocations.revoke(grant.id) for _ in range(4)))
    await asyncio.wait({asking}, timeout=0.2)
    go_on.set()
    handles = await asking
    receipts = {await prompt_receipt(handle) for handle in handles}
    assert receipts == {await stored(granting, grant)}
    assert sum(event.verb == "grant.effective" for event in await granting.audit.seen(1)) == 1


async def test_what_a_peer_says_cannot_break_the_receipt(granting: DatabaseServer) -> None:
    """Two caches claim the largest number of failed calls: the sum is capped at the largest value of its field."""
    grant = await granting.grant()
    watches = [await granting.watch(grant, instance) for instance in (A, B)]
    handle = await granting.revocations.revoke(grant.id)
    for watch in watches:
        await watch.ack(await watch.next(), failed=2**32 - 1)
    told = receipt_message(await prompt_receipt(handle))
    assert [one.failed_in_flight for one in told.instances] == [2**32 - 1] * 2
    assert told.failed_in_flight == 2**32 - 1


async def test_what_cannot_be_revoked_is_named(granting: DatabaseServer) -> None:
    """An unknown grant and an unprintable reason are the operator's errors; nothing is refused then."""
    grant = await granting.grant()
    with pytest.raises(NotFoundError):
        await granting.revocations.revoke("nonsense")
    with pytest.raises(InputError, match="reason"):
        await granting.revocations.revoke(grant.id, "two\nlines")
    assert granting.grants.require(grant.id).status is GrantStatus.ACTIVE


async def test_who_follows_sees_each_release(granting: DatabaseServer) -> None:
    """Progress comes at once and after each release, and ends with the receipt."""
    grant = await granting.grant()
    for instance in (A, B):
        await granting.lease(grant, instance)
    first, second = await granting.watch(grant, A), await granting.watch(grant, B)
    handle = await granting.revocations.revoke(grant.id)
    seen: list[list[str]] = []
    async for instances in handle.follow():
        seen.append(sorted(release.how.value for release in instances))
        watch = {1: first, 2: second}.get(len(seen))
        if watch is not None:
            await watch.ack(await watch.next())
    assert seen[0] == ["awaited", "awaited"]
    assert ["acked", "awaited"] in seen
    assert all(one.how == ReleaseReason.ACKED for one in (await prompt_receipt(handle)).instances)


async def test_a_receipt_is_read_as_it_was_written(granting: DatabaseServer) -> None:
    """Every field of a receipt survives the database."""
    grant = await granting.grant()
    receipt = Receipt(
        id="r" * 36,
        grant_id=grant.id,
        kind=ReceiptKind.NARROWED,
        begun_at_us=1,
        reason="résumé",
        effective_at_us=2,
        instances=(InstanceRecord(A, "acked", 2, 7), InstanceRecord("", "lease_ended", 3)),
    )
    async with granting.database.write() as connection:
        await ReceiptStore.insertion(receipt)(connection)
    assert await stored(granting, grant, ReceiptKind.NARROWED) == receipt
