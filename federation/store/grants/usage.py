"""Uses of grants, recorded in memory and written in batches: last use, and certificates superseded by it."""

from dataclasses import replace
from typing import Final

from sqlalchemy import Update, or_, update

from federation.clock import MICROSECONDS
from federation.store import schema
from federation.store.database import Database
from federation.store.grants.model import Grant

USE_RESOLUTION_US: Final = MICROSECONDS
"""Precision of the stored last use."""


class GrantUsage:
    """Uses of grants that are not written to the database yet."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._uses: dict[str, int] = {}
        self._superseded: dict[str, int] = {}

    def record_use(self, grant: Grant, serial: str, now_us: int) -> Grant:
        """Record a call with a certificate. Returns the grant after it.

        Certificates older than the used one end 10 minutes after its first call. The last use is precise to a second.
        """
        if (used := grant.after_use(serial, now_us)) is not grant:
            self._superseded.update((old.serial, old.accepted_until_us) for old in used.certificates.values())
        if used.last_used_at_us and 0 <= now_us - used.last_used_at_us < USE_RESOLUTION_US:
            return used
        self._uses[grant.id] = now_us
        return replace(used, last_used_at_us=now_us)

    async def flush(self) -> None:
        """Write the uses recorded since the last flush. They stay recorded if it fails."""
        if not (self._uses or self._superseded):
            return
        uses, self._uses = self._uses, {}
        superseded, self._superseded = self._superseded, {}
        statements = [_last_use(grant_id, at) for grant_id, at in uses.items()]
        statements += [_earlier_end(serial, until) for serial, until in superseded.items()]
        try:
            await self._database.execute(*statements, failing="the last uses of grants cannot be stored")
        except BaseException:
            self._uses = uses | self._uses
            self._superseded = superseded | self._superseded
            raise


def _last_use(grant_id: str, at_us: int) -> Update:
    table = schema.grants
    known = table.c.last_used_at
    return update(table).where(table.c.id == grant_id, or_(known.is_(None), known < at_us)).values(last_used_at=at_us)


def _earlier_end(serial: str, until_us: int) -> Update:
    table = schema.certificates
    later = (table.c.serial == serial, table.c.accepted_until > until_us)
    return update(table).where(*later).values(accepted_until=until_us)
