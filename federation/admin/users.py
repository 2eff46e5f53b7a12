"""The local users that an operator names."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from federation.admin.parts import GatewayParts
from federation.errors import Action, NotFoundError, Remedy
from federation.near import near_matches

__all__ = ["require_user"]


@runtime_checkable
class KnowsNames(Protocol):
    """A provider that can tell which users and teams it has; the embedded one can."""

    async def names(self, most: int = ...) -> tuple[Sequence[str], Sequence[str]]:
        """Return users and teams."""
        ...


async def require_user(parts: GatewayParts, user: str) -> None:
    """Raise `NotFoundError` with near matches unless the gateway's own data know the user."""
    if user and await parts.provider.has_user(user):
        return
    known = (await parts.provider.names())[0] if isinstance(parts.provider, KnowsNames) else ()
    cure, remedy = "users come with the gateway's data, which an import loads", Remedy(action=Action.IMPORT_DATA)
    raise NotFoundError("user", user, near_matches(user, known), cure, remedy=remedy)
