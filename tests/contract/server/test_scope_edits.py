"""Scope edits over real mutual TLS and a real database: in force at once, durable, sent, receipts for losses."""

import asyncio
import time

import pytest

from federation.errors import ConflictError, NotFoundError, StoreError
from federation.scope.model import RowFilter, Scope
from federation.store.grants.registry import GrantRegistry
from federation.store.receipts import ReceiptKind
from tests.contract.server.test_revocation import how, is_pending, prompt_receipt, reason_of, released, stored
from tests.support.clock import ManualClock
from tests.support.server_on_database import TASKS, WIDE, A, DatabaseServer, StartDatabaseServer, refusing

NOTES_ONLY = Scope(("notes",), max_rows_per_query=10)
NOTHING_MUCH = Scope(("notes",), max_rows_per_query=1)
WIDER = Scope(("tasks", "notes", "memory"), max_rows_per_query=10)


async def test_a_scope_reduction_applies_to_the_next_call_and_ends_with_a_receipt(granting: DatabaseServer) -> None:
    """The peer gets `grant_changed`, and its ack makes the scope reduction effective."""
    grant = await granting.grant()
    stub = granting.stub(grant)
    await granting.lease(grant, stub=stub)
    watch = await granting.watch(grant, stub=stub)

    edit = await granting.revocations.edit_scope(grant.id, NOTES_ONLY)

    assert edit.applied
    assert edit.grant.scope == NOTES_ONLY
    assert edit.change.losses == ("tasks: rows of every team and personal rows",)
    assert await reason_of(stub.List(TASKS)) == "SCOPE_VIOLATION"
    assert edit.handle is not None
    assert how(edit.handle) == {A: "awaited"}
    event = await watch.next()
    assert event.WhichOneof("kind") == "grant_changed"
    await watch.ack(event, 2)
    receipt = await prompt_receipt(edit.handle)
    assert (receipt.kind, receipt.reason) == (ReceiptKind.NARROWED, edit.change.losses[0])
    assert released(receipt) == {A: "acked"}
    assert receipt == await stored(granting, grant, ReceiptKind.NARROWED)
    assert (await GrantRegistry.load(granting.database)).require(grant.id).scope == NOTES_ONLY
    assert granting.coordinator.subscriptions.count(grant.id) == 1, "the watch goes on"


async def test_a_scope_reduction_awaits_what_was_given_out_before_it_alone(start_granting: StartDatabaseServer) -> None:
    """Without a watch the receipt waits for the earlier lease to end; a lease under the new scope is not awaited."""
    hand = ManualClock(time.time())
    granting = await start_granting(hand.clock)
    grant = await granting.grant()
    await granting.lease(grant)
    edit = await granting.revocations.edit_scope(grant.id, Scope(("tasks",), max_rows_per_query=10))
    assert edit.handle is not None
    hand.advance(20)
    assert await granting.lease(grant) == 30_000
    assert await is_pending(edit.handle)
    hand.advance(13.1)
    assert released(await prompt_receipt(edit.handle)) == {A: "lease_ended"}


async def test_a_wider_scope_is_sent_and_needs_no_receipt(granting: DatabaseServer) -> None:
    """The peer flushes its cache and sees the new rows; no instance is awaited."""
    grant = await granting.grant()
    await granting.lease(grant)
    watch = await granting.watch(grant)
    edit = await granting.revocations.edit_scope(grant.id, WIDER)
    assert (edit.applied, edit.handle) == (True, None)
    assert edit.change.gains == ("memory: rows of every team and personal rows",)
    assert (await watch.next()).WhichOneof("kind") == "grant_changed"
    assert (await GrantRegistry.load(granting.database)).require(grant.id).scope == WIDER
    assert await stored(granting, grant, ReceiptKind.NARROWED) is None


async def test_the_same_scope_again_changes_nothing_and_shows_the_receipt(granting: DatabaseServer) -> None:
    """Asking again joins the scope reduction that goes on, and shows its receipt once it is over."""
    grant = await granting.grant()
    assert not (await granting.revocations.edit_scope(grant.id, WIDE)).applied
    await granting.lease(grant)
    watch = await granting.watch(grant)
    first = await granting.revocations.edit_scope(grant.id, NOTES_ONLY)
    again = await granting.revocations.edit_scope(grant.id, NOTES_ONLY)
    assert not again.applied
    assert again.handle is first.handle
    await watch.ack(await watch.next())
    assert first.handle is not None
    receipt = await prompt_receipt(first.handle)
    later = await granting.revocations.edit_scope(grant.id, NOTES_ONLY)
    assert later.handle is not None
    assert await prompt_receipt(later.handle) == receipt


async def test_the_receipt_of_a_grant_is_that_of_its_last_scope_reduction(granting: DatabaseServer) -> None:
    """After two scope reductions, the same scope again shows the receipt of the second one."""
    grant = await granting.grant()
    await prompt_receipt((await granting.revocations.edit_scope(grant.id, NOTES_ONLY)).handle)
    second = await prompt_receipt((await granting.revocations.edit_scope(grant.id, NOTHING_MUCH)).handle)
    again = await granting.revocations.edit_scope(grant.id, NOTHING_MUCH)
    assert await prompt_receipt(again.handle) == second
    assert await granting.revocations.receipts(grant.id) == (second,)


async def test_a_scope_reduction_that_is_not_stored_stays_in_force_and_can_be_repeated(
    granting: DatabaseServer,
) -> None:
    """Refused stays refused; editing again stores it and goes through all the steps."""
    grant = await granting.grant()
    await granting.lease(grant)
    watch = await granting.watch(grant)
    with refusing(granting.database, "UPDATE grants"), pytest.raises(StoreError, match=r"in force.*edit it again"):
        await granting.revocations.edit_scope(grant.id, NOTES_ONLY)
    assert await reason_of(granting.stub(grant).List(TASKS)) == "SCOPE_VIOLATION"
    edit = await granting.revocations.edit_scope(grant.id, NOTES_ONLY)
    assert edit.applied
    assert edit.change.losses
    await watch.ack(await watch.next())
    assert edit.handle is not None
    assert released(await prompt_receipt(edit.handle)) == {A: "acked"}
    assert (await GrantRegistry.load(granting.database)).require(grant.id).scope == NOTES_ONLY


async def test_a_loss_against_the_stored_scope_is_a_scope_reduction(granting: DatabaseServer) -> None:
    """After a scope reduction that was not stored, a scope wider than that in force still takes rows from the peer."""
    grant = await granting.grant()
    with refusing(granting.database, "UPDATE grants"), pytest.raises(StoreError):
        await granting.revocations.edit_scope(grant.id, NOTHING_MUCH)

    edit = await granting.revocations.edit_scope(grant.id, NOTES_ONLY)

    assert edit.change.losses
    assert edit.handle is not None
    assert (await prompt_receipt(edit.handle)).kind is ReceiptKind.NARROWED


async def test_a_loss_against_the_scope_in_force_is_a_scope_reduction(
    granting: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scope that takes nothing from the stored scope, but from the scope in force, still gets a receipt."""
    grant = await granting.grant(scope=NOTES_ONLY)
    granting.revocations._stored_scopes[grant.id] = NOTES_ONLY
    granting.grants.narrow(grant.id, WIDER)

    edit = await granting.revocations.edit_scope(grant.id, Scope(("notes", "tasks"), max_rows_per_query=10))

    assert not edit.change.losses
    assert edit.handle is not None
    assert (await prompt_receipt(edit.handle)).kind is ReceiptKind.NARROWED


async def test_a_widening_that_cannot_be_stored_opens_nothing(granting: DatabaseServer) -> None:
    """Rights that a scope edit adds apply once they are stored."""
    grant = await granting.grant(scope=NOTES_ONLY)
    with refusing(granting.database, "UPDATE grants"), pytest.raises(StoreError, match="old one stays in force"):
        await granting.revocations.edit_scope(grant.id, WIDER)
    assert await reason_of(granting.stub(grant).List(TASKS)) == "SCOPE_VIOLATION"


async def test_edits_come_one_after_the_other(granting: DatabaseServer) -> None:
    """A widening whose write hangs does not undo the scope reduction that came after it."""
    grant = await granting.grant()
    async with granting.grants._lock:
        widening = asyncio.create_task(granting.revocations.edit_scope(grant.id, WIDER))
        await asyncio.sleep(0)
        reducing = asyncio.create_task(granting.revocations.edit_scope(grant.id, NOTES_ONLY))
        await asyncio.sleep(0.05)
    await asyncio.gather(widening, reducing)
    assert granting.grants.require(grant.id).scope == NOTES_ONLY
    assert (await GrantRegistry.load(granting.database)).require(grant.id).scope == NOTES_ONLY


async def test_a_scope_edit_never_undoes_a_revocation(granting: DatabaseServer) -> None:
    """A grant revoked while its scope is being stored stays revoked, and a revoked one has no scope to edit."""
    grant = await granting.grant()
    async with granting.grants._lock:
        widening = asyncio.create_task(granting.revocations.edit_scope(grant.id, WIDER))
        await asyncio.sleep(0.05)
        handle = await granting.revocations.revoke(grant.id)
    await widening
    await prompt_receipt(handle)
    assert await reason_of(granting.stub(grant).List(TASKS)) == "GRANT_REVOKED"
    with pytest.raises(ConflictError, match="final"):
        await granting.revocations.edit_scope(grant.id, WIDE)
    with pytest.raises(NotFoundError):
        await granting.revocations.edit_scope("nonsense", WIDE)


async def test_one_ack_of_a_revocation_ends_the_scope_reduction_under_way(granting: DatabaseServer) -> None:
    """The peer that drops everything need not ack twice; both receipts are stored."""
    grant = await granting.grant()
    await granting.lease(grant)
    watch = await granting.watch(grant)
    edit = await granting.revocations.edit_scope(grant.id, NOTES_ONLY)
    await watch.next()
    handle = await granting.revocations.revoke(grant.id)
    revoked = await watch.next()
    await watch.ack(revoked)
    assert edit.handle is not None
    assert released(await prompt_receipt(handle)) == released(await prompt_receipt(edit.handle)) == {A: "acked"}


async def test_a_scope_reduction_survives_a_restart_in_its_middle(start_granting: StartDatabaseServer) -> None:
    """The next process holds the new scope, notifies watches armed meanwhile, and waits for the longest lease."""
    hand = ManualClock(time.time())
    granting = await start_granting(hand.clock)
    grant = await granting.grant()
    await granting.lease(grant)
    await granting.revocations.edit_scope(grant.id, NOTES_ONLY)
    granting = await start_granting(hand.clock)
    assert granting.grants.require(grant.id).scope == NOTES_ONLY
    again = await granting.revocations.edit_scope(grant.id, NOTES_ONLY)
    assert again.handle is not None
    assert how(again.handle) == {"": "awaited"}
    hand.advance(33.1)
    assert released(await prompt_receipt(again.handle)) == {"": "lease_ended"}


async def test_a_filter_narrows_within_a_resource(granting: DatabaseServer) -> None:
    """Rows that the new filter takes away are gone at the next call."""
    grant = await granting.grant()
    stub = granting.stub(grant)
    assert [row.id for row in (await stub.List(TASKS)).rows] == ["t1", "t2"]
    team_only = {"tasks": RowFilter(frozenset({"T1"}), include_personal=False)}
    edit = await granting.revocations.edit_scope(
        grant.id, Scope(("tasks", "notes"), max_rows_per_query=10, filters=team_only)
    )
    assert edit.change.losses == ("tasks: rows of every team but T1", "tasks: personal rows")
    assert [row.id for row in (await stub.List(TASKS)).rows] == ["t1"]
