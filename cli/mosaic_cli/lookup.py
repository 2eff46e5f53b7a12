"""Resolve id and name prefixes through the gateway, with an error when none or several match."""

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from federation.v1 import admin_pb2 as pb
    from federation.v1.admin_pb2_grpc import AdminServiceStub

_FULL_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


@contextmanager
def grant_at(gateway: "Path", prefix: str) -> "Iterator[tuple[AdminServiceStub, str]]":
    """Connect to a gateway, and yield the id that `resolve_grant_id` finds."""
    from federation.admin.client import connect

    with connect(gateway) as admin:
        yield admin, resolve_grant_id(admin, prefix)


@contextmanager
def peer_at(gateway: "Path", prefix: str, user: str | None) -> "Iterator[tuple[AdminServiceStub, pb.PeerStatus]]":
    """Connect to a gateway, and yield the peer whose name is or starts with `prefix`.

    Prints the full name if `prefix` is shorter. Raises `NotFoundError` or `InputError` if no peer or several peers
    match.
    """
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.output import console

    with connect(gateway) as admin:
        peer = admin.GetPeer(pb.GetPeerRequest(name=prefix, user=user or "")).peer
        if peer.name != prefix:
            console.message(f"{prefix} is {peer.name}, enrolled for {peer.user}")
        yield admin, peer


def resolve_grant_id(admin: "AdminServiceStub", prefix: str) -> str:
    """Return the id of the grant whose id is or starts with `prefix`.

    Prints the full id if `prefix` is shorter, so that the operator sees it before the command acts. Raises
    `NotFoundError` or `InputError` if no grant or several grants match.
    """
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.output import console

    if _FULL_ID.match(prefix):
        return prefix
    grant = admin.GetGrant(pb.GetGrantRequest(id=prefix)).grant
    console.message(f"{prefix} is grant {grant.id}: {grant.peer} reads as {grant.subject}")
    return grant.id
