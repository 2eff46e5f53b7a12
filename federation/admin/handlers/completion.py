"""Names for completion in a shell: those that begin as given, few and quickly."""

from collections.abc import Iterable
from typing import Final

from federation.admin.context import AdminContext
from federation.admin.lookup import KnowsNames
from federation.client.peers.peer import Peer
from federation.scope.model import KNOWN_RESOURCES, SENSITIVE_RESOURCES
from federation.v1 import admin_pb2 as pb

__all__ = ["suggest"]

MOST: Final = 100
NAMES: Final = 10_000
NAMED: Final = 3
Named = Iterable[tuple[str, str]]
"""Names, each with what tells it from others."""


async def suggest(parts: AdminContext, request: pb.SuggestNamesRequest) -> pb.SuggestNamesResponse:
    """Return the names of a kind that begin with the prefix, each once, in order; none of an unknown kind."""
    peers = parts.federation.peers.all(request.user or None)
    match request.kind:
        case pb.NAME_KIND_PEER:
            named = _peers(peers)
        case pb.NAME_KIND_GRANT:
            named = _grants(parts)
        case pb.NAME_KIND_USER:
            named = ((name, "") for name in await _users(parts))
        case pb.NAME_KIND_RESOURCE:
            named = _resources()
        case pb.NAME_KIND_SOURCE:
            whole = [("local", "this gateway's own rows"), ("all", "local and every peer")]
            named = [*whole, *((f"federated:{name}", about) for name, about in _peers(peers))]
        case pb.NAME_KIND_GATEWAY:
            named = ((grant.peer, "") for grant in parts.grants.all())
        case _:
            named = ()
    found = {name: about for name, about in named if name.startswith(request.prefix)}
    return pb.SuggestNamesResponse(
        names=[pb.SuggestedName(name=name, about=about) for name, about in sorted(found.items())[:MOST]]
    )


def _peers(peers: Iterable[Peer]) -> Named:
    users: dict[str, list[str]] = {}
    for peer in peers:
        users.setdefault(peer.name, []).append(peer.user)
    for name, whose in users.items():
        yield name, f"for {', '.join(sorted(whose)[:NAMED])}{', …' if len(whose) > NAMED else ''}"


def _grants(parts: AdminContext) -> Named:
    now_us = parts.clock.now_us()
    for grant in parts.grants.all():
        yield grant.id, f"{grant.status_at(now_us)}: {grant.peer} as {grant.subject}"


def _resources() -> Named:
    yield from ((name, "") for name in KNOWN_RESOURCES)
    yield from ((name, "secrets") for name in SENSITIVE_RESOURCES)


async def _users(parts: AdminContext) -> set[str]:
    """Return the users that are known here: of the data where they can be asked, of peers and grants in any case."""
    known = set((await parts.provider.names(NAMES))[0]) if isinstance(parts.provider, KnowsNames) else set[str]()
    known.update(peer.user for peer in parts.federation.peers.all())
    known.update(grant.subject for grant in parts.grants.all())
    return known
