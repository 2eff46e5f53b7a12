"""Operations of an operator continue and are recorded after their command has ended."""

import asyncio
import json

import grpc
import pytest

from federation.store.grants.model import GrantStatus
from federation.store.grants.registry import GrantRegistry
from federation.v1 import admin_pb2 as pb
from tests.support.gateway_pair import SCOPE, Running, enroll
from tests.support.scripted import eventually
from tests.support.server_on_database import refusing

WIDER = json.dumps({**SCOPE, "max_rows_per_query": 50})


async def verbs(work: Running) -> set[str]:
    """The verbs of the recorded operations."""
    events = await work.admin.ListAuditEvents(pb.ListAuditEventsRequest(page_size=100))
    return {event.verb for event in events.events}


async def on_record(work: Running, verb: str) -> None:
    """Wait until an operation is recorded."""
    for _ in range(100):
        if verb in await verbs(work):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{verb} is not on record")


async def test_a_scope_edit_continues_after_its_command(home: Running, work: Running) -> None:
    """The command ends during the write; the edit is applied and recorded."""
    grant = await enroll(home, work)
    async with work.gateway.grants._lock:
        call = work.admin.UpdateGrantScope(pb.UpdateGrantScopeRequest(id=grant, scope=WIDER))
        reading = asyncio.ensure_future(call.read())
        await eventually(lambda: bool(work.gateway._parts.coordinator.revocations._stored_scopes))
        call.cancel()
        await asyncio.wait({reading})
    await on_record(work, "grant.scope")
    assert work.gateway.grants.require(grant).scope.max_rows_per_query == 50


async def test_a_user_removal_continues_after_its_command(home: Running, work: Running) -> None:
    """Grants are revoked and team memberships removed, although the command has ended."""
    grant = await enroll(home, work)
    async with work.gateway.grants._lock:
        call = work.admin.RemoveUser(pb.RemoveUserRequest(user="ada", reason="left"))
        reading = asyncio.ensure_future(call.read())
        await eventually(lambda: work.gateway.grants.require(grant).revoked_at_us is not None)
        call.cancel()
        await asyncio.wait({reading})
    await on_record(work, "user.remove")
    shown = await work.admin.GetGrant(pb.GetGrantRequest(id=grant))
    assert (shown.grant.status, shown.grant.revoked_reason) == (pb.GRANT_STATUS_REVOKED, "left")
    assert await work.gateway.provider.teams_of("ada") == frozenset()


async def test_a_removal_that_was_not_stored_can_be_repeated(home: Running, work: Running) -> None:
    """Grants refuse calls, but a restart would lose that; a second removal is stored and shows a receipt."""
    grant = await enroll(home, work)
    removal = pb.RemoveUserRequest(user="ada", reason="left")
    database = work.gateway.grants._database
    with refusing(database, "UPDATE grants"), pytest.raises(grpc.aio.AioRpcError, match="is not stored"):
        async for _ in work.admin.RemoveUser(removal):
            pass
    news = [one async for one in work.admin.RemoveUser(removal)]
    assert [one.id for one in news[0].removal.grants] == [grant]
    assert news[-1].receipt.grant_id == grant
    assert (await GrantRegistry.load(database)).require(grant).status is GrantStatus.REVOKED
    over = [one async for one in work.admin.RemoveUser(removal)]
    assert (len(over), len(over[0].removal.grants)) == (1, 0)


async def test_a_waiting_command_learns_that_the_gateway_stops(home: Running, work: Running) -> None:
    """The command prints that the revocation continues at the next start, and does not delay the stop."""
    grant = await enroll(home, work)
    coordinator = work.gateway._parts.coordinator
    coordinator.leases.grant_lease(grant, "f" * 32, 30_000)  # a cache object that never comes back
    call = work.admin.RevokeGrant(pb.RevokeGrantRequest(id=grant))
    first = await call.read()
    assert "f" * 32 in {one.instance_id for one in first.progress.awaited}
    assert (await work.admin.GetGrant(pb.GetGrantRequest(id=grant))).grant.leases == 1
    begun = asyncio.get_running_loop().time()
    await work.gateway.stop()
    assert asyncio.get_running_loop().time() - begun < 4
    with pytest.raises(grpc.aio.AioRpcError, match="continues when the gateway starts again"):
        while await call.read():
            pass
