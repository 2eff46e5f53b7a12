"""Look-up of grants and peers by name, id or unambiguous prefix, and of users by name."""

from collections.abc import Sequence
from typing import Final, Protocol, runtime_checkable

from federation.admin.context import AdminContext
from federation.client.peers.peer import Peer
from federation.client.peers.registry import PeerRegistry
from federation.errors import Action, InputError, NotFoundError, Remedy, unknown_grant
from federation.store.grants.model import Grant
from federation.store.grants.registry import GrantRegistry
from federation.suggest import MIN_PREFIX, near_ids, near_matches

MAX_CANDIDATES_SHOWN: Final = 4
"""Candidates that an error lists."""
MAX_TEXT_SHOWN: Final = 64
"""Characters of an unknown id that an error quotes."""


def find_grant(registry: GrantRegistry, text: str) -> Grant:
    """Return the grant with this id, or the only grant whose id has this prefix. Case is ignored.

    Raises `InputError` with the candidates if several ids match, `NotFoundError` with a near match if none does.
    """
    prefix = text.strip().lower()
    if (grant := registry.get(prefix)) is not None:
        return grant
    grants = [grant for grant in registry.all() if prefix and grant.id.startswith(prefix)]
    if grants and len(prefix) < MIN_PREFIX:
        cure = f"give at least {MIN_PREFIX} characters of the id; list the grants to find it"
        raise NotFoundError("grant", text, cure=cure, remedy=Remedy(action=Action.LIST_GRANTS))
    if len(grants) > 1:
        candidates = [f"{grant.id} ({grant.peer} as {grant.subject})" for grant in reversed(grants)]
        raise InputError("grant", _ambiguous(text, candidates))
    if grants:
        return grants[0]
    raise unknown_grant(text[:MAX_TEXT_SHOWN], near_ids(text, (grant.id for grant in registry.all())))


def find_peer(peers: PeerRegistry, text: str, user: str) -> Peer:
    """Return the peer with this name, or the only peer whose name has this prefix.

    `user` may be empty if only one local user has the peer. Raises what `PeerRegistry.get` raises, and `InputError`
    with the candidates if several names match.
    """
    known = {peer.name for peer in peers.all(user or None)}
    if text in known or len(text) < MIN_PREFIX:
        return peers.get(text, user or None)
    names = sorted(name for name in known if name.startswith(text))
    if len(names) > 1:
        raise InputError("peer", _ambiguous(text, names))
    return peers.get(names[0] if names else text, user or None)


def _ambiguous(text: str, candidates: Sequence[str]) -> str:
    shown = ", ".join(candidates[:MAX_CANDIDATES_SHOWN])
    more = f" and {len(candidates) - MAX_CANDIDATES_SHOWN} more" if len(candidates) > MAX_CANDIDATES_SHOWN else ""
    return f"{text!r} matches {len(candidates)}: {shown}{more}; give more characters"


@runtime_checkable
class KnowsNames(Protocol):
    """A provider that lists its users and teams. The embedded provider does."""

    async def names(self, most: int = ...) -> tuple[Sequence[str], Sequence[str]]:
        """Return at most `most` users and at most `most` teams."""
        ...


async def require_user(context: AdminContext, user: str) -> None:
    """Raise `NotFoundError` with near matches unless the gateway's own data contain the user."""
    if user and await context.provider.has_user(user):
        return
    known = (await context.provider.names())[0] if isinstance(context.provider, KnowsNames) else ()
    cure, remedy = "import the gateway's data with its users", Remedy(action=Action.IMPORT_DATA)
    raise NotFoundError("user", user, near_matches(user, known), cure, remedy=remedy)
