"""Stored revocations and scope reductions, from their beginning to the finished receipt."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import orjson
from sqlalchemy import Row, delete, insert, select, update

from federation.store import schema
from federation.store.database import Database
from federation.store.records import from_row, to_columns

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

_TABLE: Final = schema.revocations
_BOUND: Final = schema.lease_bound
_UNREADABLE: Final = "the receipts cannot be read"


class ReceiptKind(StrEnum):
    """The operation that a receipt confirms."""

    REVOKED = "revoked"
    """The grant was revoked."""
    NARROWED = "narrowed"
    """The scope was reduced."""


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """Release of one cache object of the peer. An empty `instance` stands for the leases of an earlier process."""

    instance: str
    how: str
    at_us: int
    failed_in_flight: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A revocation or scope reduction. Instants are Unix microseconds.

    `effective_at_us` is `None` while leases are awaited. `reason` is the operator's text, or for a reduced scope what
    the peer lost.
    """

    id: str
    grant_id: str
    kind: ReceiptKind
    begun_at_us: int
    reason: str = ""
    effective_at_us: int | None = None
    instances: tuple[InstanceRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class LeaseBound:
    """The longest lease in milliseconds that peers can hold, and host and directory of the serving process."""

    max_lease_ms: int
    served_from: str


class ReceiptStore:
    """The receipts of this gateway. Every method raises `StoreError` if the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @staticmethod
    def insertion(receipt: Receipt) -> Callable[["AsyncConnection"], Awaitable[None]]:
        """Return a function that stores the unfinished receipt in the transaction of the revocation."""

        async def within(connection: "AsyncConnection") -> None:
            await connection.execute(insert(_TABLE).values(_columns(receipt)))

        return within

    async def finish(self, receipt: Receipt) -> None:
        """Store the finished receipt. Idempotent."""
        finished = update(_TABLE).where(_TABLE.c.id == receipt.id).values(_columns(receipt))
        await self._database.execute(finished, failing=f"the receipt of grant {receipt.grant_id} cannot be stored")

    async def last(self, grant_id: str, kind: ReceiptKind) -> Receipt | None:
        """Return the newest receipt of a grant, finished or not."""
        found = select(_TABLE).where(_TABLE.c.grant_id == grant_id, _TABLE.c.kind == kind)
        row = await self._database.fetch_one(found.order_by(_TABLE.c.begun_at.desc()).limit(1), _UNREADABLE)
        return None if row is None else _receipt(row)

    async def unfinished(self) -> tuple[Receipt, ...]:
        """Return the unfinished receipts, oldest first."""
        found = select(_TABLE).where(_TABLE.c.effective_at.is_(None)).order_by(_TABLE.c.begun_at)
        return tuple(map(_receipt, await self._database.fetch(found, _UNREADABLE)))

    async def lease_bound(self) -> LeaseBound | None:
        """Return the stored bound of leases granted by earlier processes, `None` if none is stored."""
        row = await self._database.fetch_one(select(_BOUND), "the bound of leases cannot be read")
        return None if row is None else from_row(LeaseBound, row)

    async def set_lease_bound(self, bound: LeaseBound) -> None:
        """Store the bound of leases from now on."""
        new = insert(_BOUND).values(to_columns(bound, _BOUND, id=1))
        await self._database.execute(delete(_BOUND), new, failing="the bound of leases cannot be stored")


def _columns(receipt: Receipt) -> dict[str, Any]:
    return to_columns(receipt, _TABLE, instances=orjson.dumps(receipt.instances).decode())


def _receipt(row: Row[Any]) -> Receipt:
    instances = tuple(InstanceRecord(**one) for one in orjson.loads(row.instances))
    return from_row(Receipt, row, kind=ReceiptKind(row.kind), instances=instances)
