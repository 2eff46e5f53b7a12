"""Handler of `SuggestNames`: names that start with a prefix, for shell completion."""

from collections.abc import Iterable
from typing import Final

from federation.admin.context import AdminContext
from federation.admin.lookup import KnowsNames
from federation.client.peers.peer import Peer
from federation.scope.model import KNOWN_RESOURCES, SENSITIVE_RESOURCES
from federation.v1 import admin_pb2 as pb

MAX_SUGGESTIONS: Final = 100
MAX_NAMES: Final = 10_000
MAX_USERS_SHOWN: Final = 3
NamesWithHints = Iterable[tuple[str, str]]
"""Names, each with a short description."""


async def suggest(context: AdminContext, request: pb.SuggestNamesRequest) -> pb.SuggestNamesResponse:
    """Return at most `MAX_SUGGESTIONS` names of a kind that start with the prefix, sorted; none for an unknown kind."""
    peers = context.federation.peers.all(request.user or None)
    match request.kind:
        case pb.NAME_KIND_PEER:
            suggestions = _peers(peers)
        case pb.NAME_KIND_GRANT:
            suggestions = _grants(context)
        case pb.NAME_KIND_USER:
            suggestions = ((name, "") for name in await _users(context))
        case pb.NAME_KIND_RESOURCE:
            suggestions = _resources()
        case pb.NAME_KIND_SOURCE:
            fixed = [("local", "this gateway's own rows"), ("all", "local and every peer")]
            suggestions = [*fixed, *((f"federated:{name}", about) for name, about in _peers(peers))]
        case pb.NAME_KIND_GATEWAY:
            suggestions = ((grant.peer, "") for grant in context.grants.all())
        case _:
            suggestions = ()
    found = {name: about for name, about in suggestions if name.startswith(request.prefix)}
    return pb.SuggestNamesResponse(
        names=[pb.SuggestedName(name=name, about=about) for name, about in sorted(found.items())[:MAX_SUGGESTIONS]]
    )


def _peers(peers: Iterable[Peer]) -> NamesWithHints:
    users: dict[str, list[str]] = {}
    for peer in peers:
        users.setdefault(peer.name, []).append(peer.user)
    for name, names in users.items():
        yield name, f"for {', '.join(sorted(names)[:MAX_USERS_SHOWN])}{', …' if len(names) > MAX_USERS_SHOWN else ''}"


def _grants(context: AdminContext) -> NamesWithHints:
    now_us = context.clock.now_us()
    for grant in context.grants.all():
        yield grant.id, f"{grant.status_at(now_us)}: {grant.peer} as {grant.subject}"


def _resources() -> NamesWithHints:
    yield from ((name, "") for name in KNOWN_RESOURCES)
    yield from ((name, "secrets") for name in SENSITIVE_RESOURCES)


async def _users(context: AdminContext) -> set[str]:
    """Return the users of the gateway's data, if the provider lists them, and those of peers and grants."""
    known = (
        set((await context.provider.names(MAX_NAMES))[0]) if isinstance(context.provider, KnowsNames) else set[str]()
    )
    known.update(peer.user for peer in context.federation.peers.all())
    known.update(grant.subject for grant in context.grants.all())
    return known
