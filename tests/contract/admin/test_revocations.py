"""The RPCs that withdraw rights, of a real gateway."""

import pytest

from federation.resources.provider import Removal, RemovesUsers
from federation.store.grants.model import GrantStatus
from federation.v1 import admin_pb2 as pb
from tests.support.gateway_pair import Running
from tests.support.scripted import eventually


async def new_grant(work: Running) -> str:
    """Create a grant for ada; return its id."""
    scope = '{"resources": ["tasks"]}'
    made = await work.admin.CreateGrant(pb.CreateGrantRequest(peer="home.example", subject="ada", scope=scope))
    return made.grant.id


async def test_a_grant_made_while_its_user_is_removed_is_revoked_too(
    work_gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grant created before the user has left the data is revoked after it, and has its receipt like the others."""
    provider, late = work_gateway.gateway.provider, []
    assert isinstance(provider, RemovesUsers)
    remove_user = provider.remove_user

    async def overtaken(subject: str) -> Removal:
        late.append(await new_grant(work_gateway))
        return await remove_user(subject)

    monkeypatch.setattr(provider, "remove_user", overtaken)
    grants = [await new_grant(work_gateway)]
    steps = [step async for step in work_gateway.admin.RemoveUser(pb.RemoveUserRequest(user="ada"))]
    grants += late

    assert {work_gateway.gateway.grants.require(grant).status for grant in grants} == {GrantStatus.REVOKED}
    assert [grant.id for grant in steps[0].removal.grants] == grants
    assert [step.receipt.grant_id for step in steps if step.HasField("receipt")] == grants


async def test_a_repeated_revocation_is_one_act_in_the_audit_trail(work_gateway: Running) -> None:
    """A second request for a revoked grant returns the same receipt, and is not recorded as a revocation again."""
    revocation = pb.RevokeGrantRequest(id=await new_grant(work_gateway), reason="over")
    first, second = [[step async for step in work_gateway.admin.RevokeGrant(revocation)][-1] for _ in range(2)]
    assert first.HasField("receipt")
    assert second == first

    await eventually(lambda: not work_gateway.gateway._parts.audit.waiting)
    reply = await work_gateway.admin.ListAuditEvents(pb.ListAuditEventsRequest(verb="grant.revoke"))
    assert [(event.grant_id, event.reason) for event in reply.events] == [(revocation.id, "over")]
