"""What an operator's name or id means: itself, or the one thing that begins so."""

from collections.abc import Sequence
from typing import Final, Protocol, runtime_checkable

from federation.admin.context import AdminContext
from federation.client.peers.peer import Peer
from federation.client.peers.registry import PeerRegistry
from federation.errors import Action, InputError, NotFoundError, Remedy, unknown_grant
from federation.store.grants.registry import Grant, GrantRegistry
from federation.suggest import MIN_PREFIX, near_ids, near_matches

__all__ = ["find_grant", "find_peer", "require_user"]


NAMED: Final = 4
"""Candidates that an error names."""
SHOWN: Final = 64
"""Characters of a wrong id that an error repeats."""


def find_grant(book: GrantRegistry, given: str) -> Grant:
    """Return the grant of this id, or the only one whose id begins so.

    Raises `InputError` that names the candidates where several do, `NotFoundError` with a near match where none does.
    """
    wanted = given.strip().lower()
    if (grant := book.get(wanted)) is not None:
        return grant
    grants = [grant for grant in book.all() if wanted and grant.id.startswith(wanted)]
    if grants and len(wanted) < MIN_PREFIX:
        cure = f"give {MIN_PREFIX} characters of its id or more; list the grants to find its id"
        raise NotFoundError("grant", given, cure=cure, remedy=Remedy(action=Action.LIST_GRANTS))
    if len(grants) > 1:
        named = [f"{grant.id} ({grant.peer} as {grant.subject})" for grant in reversed(grants)]
        raise InputError("grant", _ambiguous(given, named))
    if grants:
        return grants[0]
    raise unknown_grant(given[:SHOWN], near_ids(given, (grant.id for grant in book.all())))


def find_peer(peers: PeerRegistry, given: str, user: str) -> Peer:
    """Return the peer of this name, or the only one whose name begins so; `user` may be empty where one has it.

    Raises what `PeerRegistry.get` raises, and `InputError` that names the candidates where several begin so.
    """
    known = {peer.name for peer in peers.all(user or None)}
    if given in known or len(given) < MIN_PREFIX:
        return peers.get(given, user or None)
    names = sorted(name for name in known if name.startswith(given))
    if len(names) > 1:
        raise InputError("peer", _ambiguous(given, names))
    return peers.get(names[0] if names else given, user or None)


def _ambiguous(given: str, candidates: Sequence[str]) -> str:
    more = f" and {len(candidates) - NAMED} more" if len(candidates) > NAMED else ""
    return f"{given!r} begins {len(candidates)} of them: {', '.join(candidates[:NAMED])}{more}; give more of it"


@runtime_checkable
class KnowsNames(Protocol):
    """A provider that can tell which users and teams it has; the embedded one can."""

    async def names(self, most: int = ...) -> tuple[Sequence[str], Sequence[str]]:
        """Return users and teams."""
        ...


async def require_user(parts: AdminContext, user: str) -> None:
    """Raise `NotFoundError` with near matches unless the gateway's own data know the user."""
    if user and await parts.provider.has_user(user):
        return
    known = (await parts.provider.names())[0] if isinstance(parts.provider, KnowsNames) else ()
    cure, remedy = "users come with the gateway's data, which an import loads", Remedy(action=Action.IMPORT_DATA)
    raise NotFoundError("user", user, near_matches(user, known), cure, remedy=remedy)
