"""Stored revocations and scope reductions, from their beginning to the finished receipt."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import orjson
from sqlalchemy import Row, delete, insert, select, update

from federation.store import schema
from federation.store.database import Database, translate_db_errors

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

_TABLE: Final = schema.revocations
_BOUND: Final = schema.lease_bound


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
            await connection.execute(insert(_TABLE).values(_values(receipt)))

        return within

    async def finish(self, receipt: Receipt) -> None:
        """Store the finished receipt. Idempotent."""
        values = _values(receipt)
        with translate_db_errors(f"the receipt of grant {receipt.grant_id} cannot be stored"):
            async with self._database.write() as connection:
                await connection.execute(update(_TABLE).where(_TABLE.c.id == receipt.id).values(values))

    async def last(self, grant_id: str, kind: ReceiptKind) -> Receipt | None:
        """Return the newest receipt of a grant, finished or not."""
        newest = select(_TABLE).where(_TABLE.c.grant_id == grant_id, _TABLE.c.kind == kind)
        with translate_db_errors("the receipts cannot be read"):
            async with self._database.read() as connection:
                row = (await connection.execute(newest.order_by(_TABLE.c.begun_at.desc()).limit(1))).one_or_none()
        return None if row is None else _receipt(row)

    async def unfinished(self) -> tuple[Receipt, ...]:
        """Return the unfinished receipts, oldest first."""
        with translate_db_errors("the receipts cannot be read"):
            async with self._database.read() as connection:
                rows = await connection.execute(
                    select(_TABLE).where(_TABLE.c.effective_at.is_(None)).order_by(_TABLE.c.begun_at)
                )
                return tuple(map(_receipt, rows))

    async def lease_bound(self) -> LeaseBound | None:
        """Return the stored bound of leases granted by earlier processes, `None` if none is stored."""
        with translate_db_errors("the bound of leases cannot be read"):
            async with self._database.read() as connection:
                row = (await connection.execute(select(_BOUND))).one_or_none()
        return None if row is None else LeaseBound(row.max_lease_ms, row.served_from)

    async def set_lease_bound(self, bound: LeaseBound) -> None:
        """Store the bound of leases from now on."""
        values = {"max_lease_ms": bound.max_lease_ms, "served_from": bound.served_from}
        with translate_db_errors("the bound of leases cannot be stored"):
            async with self._database.write() as connection:
                await connection.execute(delete(_BOUND))
                await connection.execute(insert(_BOUND).values(id=1, **values))


def _values(receipt: Receipt) -> dict[str, Any]:
    return {
        "id": receipt.id,
        "grant_id": receipt.grant_id,
        "kind": receipt.kind.value,
        "begun_at": receipt.begun_at_us,
        "reason": receipt.reason,
        "effective_at": receipt.effective_at_us,
        "instances": orjson.dumps([asdict(one) for one in receipt.instances]).decode(),
    }


def _receipt(row: Row[Any]) -> Receipt:
    return Receipt(
        id=row.id,
        grant_id=row.grant_id,
        kind=ReceiptKind(row.kind),
        begun_at_us=row.begun_at,
        reason=row.reason,
        effective_at_us=row.effective_at,
        instances=tuple(InstanceRecord(**one) for one in orjson.loads(row.instances)),
    )
