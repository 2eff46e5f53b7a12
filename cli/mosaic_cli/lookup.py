"""What the beginning of an id or name stands for, asked of the gateway and told to whoever typed it."""

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from federation.v1 import admin_pb2 as pb
    from federation.v1.admin_pb2_grpc import AdminServiceStub

__all__ = ["resolve_grant_id", "resolve_peer"]

_FULL_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


def resolve_grant_id(admin: "AdminServiceStub", prefix: str) -> str:
    """Return the grant id that `prefix` is or begins; a beginning is told in full before anything happens to it."""
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.output import console

    if _FULL_ID.match(prefix):
        return prefix
    grant = admin.GetGrant(pb.GetGrantRequest(id=prefix)).grant
    console.message(f"{prefix} is grant {grant.id}: {grant.peer} reads as {grant.subject}")
    return grant.id


def resolve_peer(admin: "AdminServiceStub", prefix: str, user: str | None) -> "pb.PeerStatus":
    """Return the peer that `prefix` names or begins; a beginning is told in full before anything happens to it."""
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.output import console

    peer = admin.GetPeer(pb.GetPeerRequest(name=prefix, user=user or "")).peer
    if peer.name != prefix:
        console.message(f"{prefix} is {peer.name}, enrolled for {peer.user}")
    return peer
