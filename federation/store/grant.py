"""One grant as a value, and its rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import groupby
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import Row, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from federation.errors import InputError, StoreError
from federation.scope import Scope
from federation.store import schema
from federation.trust.authority import IssuedCertificate

__all__ = ["CertificateRecord", "Grant", "GrantStatus", "read_grants"]

_NONE: Final[Mapping[str, "CertificateRecord"]] = MappingProxyType({})


class GrantStatus(StrEnum):
    """Where a grant stands. `EXPIRED` follows from the clock and is never stored."""

    PENDING = "pending"
    """No certificate yet, or one that awaits confirmation."""
    ACTIVE = "active"
    REVOKED = "revoked"
    """Final."""
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class CertificateRecord:
    """A client certificate issued under a grant.

    It is accepted before `accepted_until_us`: its own end, or sooner once a successor is in use.
    """

    serial: str
    fingerprint: str
    pem: str
    csr_hash: str
    not_before_us: int
    not_after_us: int
    accepted_until_us: int

    @classmethod
    def of(cls, issued: IssuedCertificate) -> "CertificateRecord":
        """Return the record of a certificate just issued."""
        return cls(
            serial=issued.serial,
            fingerprint=issued.fingerprint,
            pem=issued.pem,
            csr_hash=issued.csr_hash,
            not_before_us=issued.not_before_us,
            not_after_us=issued.not_after_us,
            accepted_until_us=issued.not_after_us,
        )

    def is_accepted(self, now_us: int) -> bool:
        """Tell whether calls with this certificate are answered at this instant."""
        return now_us < self.accepted_until_us

    def to_row(self, grant_id: str) -> dict[str, Any]:
        """Return the values of the table's columns."""
        return {
            "serial": self.serial,
            "grant_id": grant_id,
            "fingerprint": self.fingerprint,
            "pem": self.pem,
            "csr_hash": self.csr_hash,
            "not_before": self.not_before_us,
            "not_after": self.not_after_us,
            "accepted_until": self.accepted_until_us,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The gateway `peer` may read as the user `subject` what `scope` opens. Instants are Unix microseconds.

    `certificates` holds, by serial and in the order of issue, those that are still accepted and the newest one.
    """

    id: str
    peer: str
    subject: str
    scope: Scope
    status: GrantStatus
    created_at_us: int
    expires_at_us: int | None = None
    revoked_at_us: int | None = None
    revoked_reason: str = ""
    last_used_at_us: int | None = None
    certificates: Mapping[str, CertificateRecord] = field(default_factory=lambda: _NONE)

    @property
    def newest(self) -> CertificateRecord | None:
        """The certificate issued last."""
        return next(reversed(tuple(self.certificates.values())), None)

    def status_at(self, now_us: int) -> GrantStatus:
        """Return the status at an instant, expiry included; a revoked grant stays revoked."""
        expired = self.expires_at_us is not None and now_us >= self.expires_at_us
        return GrantStatus.EXPIRED if expired and self.status is not GrantStatus.REVOKED else self.status

    def is_enrolled(self, now_us: int) -> bool:
        """Tell whether a certificate of the grant is accepted at this instant."""
        return any(certificate.is_accepted(now_us) for certificate in self.certificates.values())

    def with_certificate(self, certificate: CertificateRecord, now_us: int) -> "Grant":
        """Return the grant with one certificate more, and without those that are accepted no longer."""
        kept = {serial: old for serial, old in self.certificates.items() if old.is_accepted(now_us)}
        return replace(self, certificates=MappingProxyType({**kept, certificate.serial: certificate}))

    def to_row(self) -> dict[str, Any]:
        """Return the values of the table's columns."""
        return {
            "id": self.id,
            "peer": self.peer,
            "subject": self.subject,
            "scope": self.scope.to_json(),
            "status": self.status.value,
            "created_at": self.created_at_us,
            "expires_at": self.expires_at_us,
            "revoked_at": self.revoked_at_us,
            "revoked_reason": self.revoked_reason,
            "last_used_at": self.last_used_at_us,
        }


async def read_grants(connection: AsyncConnection, now_us: int) -> tuple[Grant, ...]:
    """Read every grant with its certificates; raise `StoreError` that names a grant which cannot be read."""
    table = schema.certificates
    last = select(table.c.grant_id, func.max(table.c.not_before).label("begin")).group_by(table.c.grant_id).subquery()
    found = await connection.execute(
        select(table)
        .join(last, last.c.grant_id == table.c.grant_id)
        .where(or_(table.c.accepted_until > now_us, table.c.not_before == last.c.begin))
        .order_by(table.c.grant_id, table.c.not_before, table.c.not_after)
    )
    certificates = {
        grant_id: MappingProxyType({row.serial: _certificate(row) for row in rows})
        for grant_id, rows in groupby(found, key=lambda row: str(row.grant_id))
    }
    rows = await connection.execute(select(schema.grants))
    return tuple(_grant(row, certificates.get(row.id, _NONE)) for row in rows)


def _certificate(row: Row[Any]) -> CertificateRecord:
    return CertificateRecord(
        serial=row.serial,
        fingerprint=row.fingerprint,
        pem=row.pem,
        csr_hash=row.csr_hash,
        not_before_us=row.not_before,
        not_after_us=row.not_after,
        accepted_until_us=row.accepted_until,
    )


def _grant(row: Row[Any], certificates: Mapping[str, CertificateRecord]) -> Grant:
    try:
        scope, status = Scope.parse(row.scope), GrantStatus(row.status)
    except (InputError, ValueError) as e:
        raise StoreError(f"grant {row.id} in the database cannot be read: {e}") from e
    return Grant(
        id=row.id,
        peer=row.peer,
        subject=row.subject,
        scope=scope,
        status=status,
        created_at_us=row.created_at,
        expires_at_us=row.expires_at,
        revoked_at_us=row.revoked_at,
        revoked_reason=row.revoked_reason,
        last_used_at_us=row.last_used_at,
        certificates=certificates,
    )
