"""Removing a user inside one transaction, and telling what that changed."""

from sqlalchemy import delete, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from federation.resources.provider import Change, Removal
from federation.resources.writing import WRITE_LOCK
from federation.store.schema import memberships, rows, users

__all__ = ["delete_user"]


async def delete_user(connection: AsyncConnection, user: str) -> tuple[Removal, tuple[Change, ...]]:
    """End every membership of a user, and remove the user itself where no row names it as its owner."""
    if connection.dialect.name == "postgresql":
        await connection.execute(text(WRITE_LOCK))
    mine = select(memberships.c.team_id).where(memberships.c.user_id == user)
    left = tuple((await connection.scalars(mine.order_by(memberships.c.team_id))).all())
    await connection.execute(delete(memberships).where(memberships.c.user_id == user))
    owned = await connection.scalar(select(func.count()).select_from(rows).where(rows.c.owner == user)) or 0
    if not owned:
        await connection.execute(delete(users).where(users.c.id == user))
    return Removal(left, owned), (Change("", frozenset({user}), frozenset(left)),)
