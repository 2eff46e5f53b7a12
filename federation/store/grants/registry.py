"""The grants of this gateway and the client certificates issued under them.

`GrantRegistry` belongs to the serving process. Decisions read memory. A write changes the database first, then
memory; a revocation changes memory first.
"""

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Self

from sqlalchemy import Update, insert, select, update

from federation.aio import ShieldedTasks
from federation.clock import SYSTEM_CLOCK, Clock
from federation.errors import ConflictError, InputError, unknown_grant
from federation.pki.authority import IssuedCertificate
from federation.scope.model import Scope
from federation.store import schema
from federation.store.database import Database, translate_db_errors
from federation.store.grants.model import (
    CertificateRecord,
    Grant,
    GrantStatus,
    check_fingerprint,
    check_new,
    read_grants,
)
from federation.store.grants.usage import GrantUsage
from federation.store.records import from_row, to_columns
from federation.suggest import near_ids

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

InTransaction = Callable[["AsyncConnection"], Awaitable[None]]
"""Additional work in the same transaction; an exception rolls back both."""
MAX_REASON: Final = 500
_SEPARATORS: Final = re.compile(r"[\s:]")
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}\Z")
_GRANTS: Final = schema.grants
P = ParamSpec("P")
_Write = Callable[Concatenate["GrantRegistry", P], Coroutine[Any, Any, Grant]]


def _completing(write: _Write[P]) -> _Write[P]:
    """Let a write run to its end even if its caller is cancelled."""

    @wraps(write)
    async def run(self: "GrantRegistry", /, *args: P.args, **kwargs: P.kwargs) -> Grant:
        return await self._writes.run(write(self, *args, **kwargs))

    return run


class GrantRegistry:
    """Every grant, in memory and in the database. All methods belong to the serving event loop.

    Methods with a grant id raise `NotFoundError` for an unknown grant. Methods that write raise `StoreError` if the
    database fails; a write completes even if its caller is cancelled, so that memory and database agree.
    """

    def __init__(self, database: Database, clock: Clock, grants: Iterable[Grant]) -> None:
        self._database, self._clock = database, clock
        self._grants = {grant.id: grant for grant in grants}
        self._usage = GrantUsage(database)
        self._lock = asyncio.Lock()
        self._writes = ShieldedTasks()

    @classmethod
    async def load(cls, database: Database, clock: Clock = SYSTEM_CLOCK) -> Self:
        """Load all grants, with their accepted certificates and the newest certificate of each."""
        with translate_db_errors("the grants cannot be read"):
            async with database.read() as connection:
                grants = await read_grants(connection, clock.now_us())
        return cls(database, clock, grants)

    def get(self, grant_id: str) -> Grant | None:
        """Return the current grant from memory, or `None`."""
        return self._grants.get(grant_id)

    def all(self) -> tuple[Grant, ...]:
        """Return every grant, oldest first."""
        return tuple(sorted(self._grants.values(), key=lambda grant: (grant.created_at_us, grant.id)))

    def draft(self, *, peer: str, subject: str, scope: Scope, expires_at_us: int | None = None) -> Grant:
        """Return the grant that `create` would store. Raises the same `InputError`."""
        now = self._clock.now_us()
        check_new(peer, subject, expires_at_us, now)
        return Grant(
            id=str(uuid.uuid4()),
            peer=peer,
            subject=subject,
            scope=scope,
            status=GrantStatus.PENDING,
            created_at_us=now,
            expires_at_us=expires_at_us,
        )

    @_completing
    async def create(self, *, peer: str, subject: str, scope: Scope, expires_at_us: int | None = None) -> Grant:
        """Create a pending grant: the gateway `peer` may read as the local user `subject`.

        Raises `InputError` that names `peer`, `subject` or `expires_at`. The caller checks that the user exists.
        """
        grant = self.draft(peer=peer, subject=subject, scope=scope, expires_at_us=expires_at_us)
        values = to_columns(grant, _GRANTS, scope=grant.scope.to_json())
        async with self._lock:
            await self._database.execute(insert(_GRANTS).values(values), failing="the grant cannot be stored")
        self._grants[grant.id] = grant
        return grant

    @_completing
    async def add_certificate(
        self,
        grant_id: str,
        certificate: IssuedCertificate,
        *,
        activate: bool,
        after_expiry: bool = False,
        within: InTransaction | None = None,
    ) -> Grant:
        """Store a certificate, and with `activate` make a pending grant active.

        `after_expiry` marks a certificate whose predecessor had expired. `within` runs in the same transaction. Raises
        `ConflictError` for a revoked grant.
        """
        async with self._lock:
            last = self.require_unrevoked(grant_id).newest
            number = 0 if last is None else last.number + 1
            record = CertificateRecord.of(certificate, number=number, after_expiry=after_expiry)
            with translate_db_errors(f"the certificate of grant {grant_id} cannot be stored"):
                async with self._database.write() as connection:
                    values = to_columns(record, schema.certificates, grant_id=grant_id)
                    await connection.execute(insert(schema.certificates).values(values))
                    if activate:
                        await connection.execute(_activation(grant_id))
                    if within is not None:
                        await within(connection)
            # Read memory again: a concurrent revocation must not be undone.
            grant = self._grants[grant_id].with_certificate(record, self._clock.now_us())
            return self._publish(grant, active=activate)

    async def find_certificate(self, grant_id: str, serial: str) -> CertificateRecord | None:
        """Return a certificate of a grant from memory, or an older one from the database."""
        grant = self.require(grant_id)
        if (known := grant.certificates.get(serial)) is not None:
            return known
        table = schema.certificates
        wanted = select(table).where(table.c.grant_id == grant_id, table.c.serial == serial)
        row = await self._database.fetch_one(wanted, f"the certificates of grant {grant_id} cannot be read")
        return None if row is None else from_row(CertificateRecord, row)

    @_completing
    async def confirm(self, grant_id: str, fingerprint: str) -> Grant:
        """Activate a grant that awaits confirmation. Idempotent.

        Colons, spaces and case of the fingerprint are ignored. Raises `InputError` if the fingerprint differs from the
        enrolled certificate's, `ConflictError` if no gateway has enrolled yet or the grant was revoked.
        """
        self.require(grant_id)
        wanted = _SEPARATORS.sub("", fingerprint).lower().removeprefix("sha256")
        if not _FINGERPRINT.match(wanted):
            raise InputError("fingerprint", "must be the 64 hexadecimal digits that the enrolling gateway printed")
        async with self._lock:
            check_fingerprint(self.require_unrevoked(grant_id), wanted)
            failing = f"the confirmation of grant {grant_id} cannot be stored"
            await self._database.execute(_activation(grant_id), failing=failing)
            return self._publish(self._grants[grant_id], active=True)

    def refuse(self, grant_id: str, reason: str = "") -> Grant:
        """Revoke a grant permanently in memory, so that calls are refused from now on. `revoke` makes this durable.

        Repeated calls keep the first instant and reason.
        """
        if len(reason) > MAX_REASON or not reason.isprintable():
            raise InputError("reason", f"must be one line of at most {MAX_REASON} characters")
        grant = self.require(grant_id)
        if grant.status is not GrantStatus.REVOKED:
            now = self._clock.now_us()
            grant = replace(grant, status=GrantStatus.REVOKED, revoked_at_us=now, revoked_reason=reason)
            self._grants[grant_id] = grant
        return grant

    async def revoke(self, grant_id: str, reason: str = "", *, within: InTransaction | None = None) -> Grant:
        """Revoke a grant permanently, first in memory, then in the database.

        `within` runs in the same transaction. Raises `StoreError` if the write fails; this process refuses the grant
        nevertheless, and revoking again repeats the write.
        """
        return await self._writes.run(self._store_revocation(self.refuse(grant_id, reason), within))

    def narrow(self, grant_id: str, scope: Scope) -> Grant:
        """Apply a reduced scope in memory from now on. `store_scope` makes this durable."""
        self._grants[grant_id] = replace(self.require_unrevoked(grant_id), scope=scope)
        return self._grants[grant_id]

    async def store_scope(self, grant_id: str, *, within: InTransaction | None = None) -> Grant:
        """Store the current scope. It stays in force if this fails."""
        what = (
            f"the new scope of grant {grant_id} is in force in the running gateway, but is not stored and would be "
            "lost at a restart; edit it again"
        )
        return await self._writes.run(self._store_scope(self.require(grant_id), what, within))

    @_completing
    async def widen(self, grant_id: str, scope: Scope) -> Grant:
        """Store a scope, then apply it in memory. Raises `ConflictError` for a revoked grant."""
        what = f"the new scope of grant {grant_id} cannot be stored; the old one stays in force"
        await self._store_scope(replace(self.require_unrevoked(grant_id), scope=scope), what, None)
        # Read memory again: a concurrent revocation must not be undone.
        self._grants[grant_id] = replace(self._grants[grant_id], scope=scope)
        return self._grants[grant_id]

    def record_use(self, grant_id: str, serial: str = "") -> None:
        """Record a call under the grant with a certificate; `flush_uses` makes it durable.

        Certificates older than the used one end 10 minutes after its first call. The last use is precise to a second.
        """
        if (grant := self._grants.get(grant_id)) is not None:
            self._grants[grant_id] = self._usage.record_use(grant, serial, self._clock.now_us())

    async def flush_uses(self) -> None:
        """Write the uses recorded since the last flush. They stay recorded if it fails."""
        await self._usage.flush()

    async def close(self) -> None:
        """Wait for running writes and flush the uses."""
        await self._writes.join()
        await self.flush_uses()

    def require(self, grant_id: str) -> Grant:
        """Return the current grant. Raises `NotFoundError` with a similar id."""
        grant = self._grants.get(grant_id)
        if grant is None:
            near = near_ids(grant_id, self._grants)
            raise unknown_grant(grant_id, near)
        return grant

    def require_unrevoked(self, grant_id: str) -> Grant:
        """Return the current grant. Raises `ConflictError` for a revoked grant, `NotFoundError` for an unknown one."""
        grant = self.require(grant_id)
        if grant.status is GrantStatus.REVOKED:
            raise ConflictError(f"grant {grant_id} is revoked, which is final; make a new one")
        return grant

    async def _store_revocation(self, grant: Grant, within: InTransaction | None) -> Grant:
        what = (
            f"grant {grant.id} is refused by the running gateway, but its revocation is not stored and would be "
            "lost at a restart; revoke it again"
        )
        revocation = update(_GRANTS).where(_GRANTS.c.id == grant.id, _GRANTS.c.status != GrantStatus.REVOKED)
        values = {"status": grant.status, "revoked_at": grant.revoked_at_us, "revoked_reason": grant.revoked_reason}
        return await self._store(grant.id, revocation.values(values), what, within)

    async def _store_scope(self, grant: Grant, what: str, within: InTransaction | None) -> Grant:
        edit = update(_GRANTS).where(_GRANTS.c.id == grant.id).values(scope=grant.scope.to_json())
        return await self._store(grant.id, edit, what, within)

    async def _store(self, grant_id: str, change: Update, what: str, within: InTransaction | None) -> Grant:
        with translate_db_errors(what):
            async with self._lock, self._database.write() as connection:
                await connection.execute(change)
                if within is not None:
                    await within(connection)
        return self._grants[grant_id]

    def _publish(self, grant: Grant, *, active: bool) -> Grant:
        if active and grant.status is GrantStatus.PENDING:
            grant = replace(grant, status=GrantStatus.ACTIVE)
        self._grants[grant.id] = grant
        return grant


def _activation(grant_id: str) -> Update:
    pending = (_GRANTS.c.id == grant_id, _GRANTS.c.status == GrantStatus.PENDING)
    return update(_GRANTS).where(*pending).values(status=GrantStatus.ACTIVE)
