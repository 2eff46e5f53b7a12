"""The grant and its certificates as values, and their mapping to database rows."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Row, func, or_, select

from federation.clock import MICROSECONDS
from federation.config import is_gateway_name
from federation.errors import ConflictError, InputError, StoreError
from federation.pki.authority import IssuedCertificate
from federation.pki.identity_extensions import is_subject
from federation.scope.model import Scope
from federation.store import schema
from federation.store.records import from_row

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


SUPERSEDED_US: Final = 600 * MICROSECONDS
"""Microseconds that a certificate stays accepted after the first call with a newer one."""
LAST_INSTANT_US: Final = 253_402_300_799 * MICROSECONDS
"""The end of the year 9999, the latest instant that a certificate can express (RFC 5280)."""
REVOKED_TEXT: Final = "the serving gateway's operator revoked this grant; that is final"
_NONE: Final[Mapping[str, "CertificateRecord"]] = MappingProxyType({})


class GrantStatus(StrEnum):
    """Status of a grant. `EXPIRED` follows from the clock and is never stored."""

    PENDING = "pending"
    """No certificate was issued yet, or it awaits confirmation."""
    ACTIVE = "active"
    REVOKED = "revoked"
    """Permanent."""
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class CertificateRecord:
    """A client certificate issued under a grant.

    Calls with it are accepted before `accepted_until_us`: its expiry, or earlier once a successor is in use. `number`
    counts the grant's certificates in the order of issue; `after_expiry` tells that its predecessor had expired.
    """

    serial: str
    fingerprint: str
    pem: str
    csr_hash: str
    not_before_us: int
    not_after_us: int
    accepted_until_us: int
    number: int = 0
    after_expiry: bool = False

    @classmethod
    def of(cls, issued: IssuedCertificate, *, number: int = 0, after_expiry: bool = False) -> "CertificateRecord":
        """Return the record of a newly issued certificate."""
        until_us = issued.not_after_us
        return cls(**asdict(issued), accepted_until_us=until_us, number=number, after_expiry=after_expiry)

    def is_accepted(self, now_us: int) -> bool:
        """Tell whether calls with this certificate are accepted at an instant."""
        return now_us < self.accepted_until_us


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A grant: the gateway `peer` may read, as the user `subject`, what `scope` opens. Instants are Unix microseconds.

    `certificates` maps serials to the accepted certificates and the newest one, in the order of issue.
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

    @property
    def revoked_text(self) -> str:
        """The message to the peer of a revoked grant, with the operator's reason."""
        return f"{REVOKED_TEXT}: {self.revoked_reason}" if self.revoked_reason else REVOKED_TEXT

    def status_at(self, now_us: int) -> GrantStatus:
        """Return the status at an instant, considering expiry; a revoked grant stays revoked."""
        expired = self.expires_at_us is not None and now_us >= self.expires_at_us
        return GrantStatus.EXPIRED if expired and self.status is not GrantStatus.REVOKED else self.status

    def is_enrolled(self, now_us: int) -> bool:
        """Tell whether any certificate of the grant is accepted at an instant."""
        return any(certificate.is_accepted(now_us) for certificate in self.certificates.values())

    def with_certificate(self, certificate: CertificateRecord, now_us: int) -> "Grant":
        """Return the grant with one more certificate, and without those no longer accepted."""
        accepted = {serial: old for serial, old in self.certificates.items() if old.is_accepted(now_us)}
        return replace(self, certificates=MappingProxyType({**accepted, certificate.serial: certificate}))

    def after_use(self, serial: str, now_us: int) -> "Grant":
        """Return the grant after a call with a certificate, with older ones ending soon; `self` if unchanged."""
        used = self.certificates.get(serial)
        if used is None or len(self.certificates) == 1:
            return self
        until = now_us + SUPERSEDED_US
        ending = {
            old.serial: replace(old, accepted_until_us=until)
            for old in self.certificates.values()
            if old.number < used.number and old.accepted_until_us > until
        }
        if not ending:
            return self
        return replace(self, certificates=MappingProxyType({**self.certificates, **ending}))


async def read_grants(connection: "AsyncConnection", now_us: int) -> tuple[Grant, ...]:
    """Read all grants with their certificates. Raises `StoreError` that names an invalid grant."""
    table = schema.certificates
    last = select(table.c.grant_id, func.max(table.c.number).label("number")).group_by(table.c.grant_id).subquery()
    found = await connection.execute(
        select(table)
        .join(last, last.c.grant_id == table.c.grant_id)
        .where(or_(table.c.accepted_until > now_us, table.c.number == last.c.number))
        .order_by(table.c.grant_id, table.c.number)
    )
    certificates = {
        grant_id: MappingProxyType({row.serial: from_row(CertificateRecord, row) for row in rows})
        for grant_id, rows in groupby(found, key=lambda row: str(row.grant_id))
    }
    rows = await connection.execute(select(schema.grants))
    return tuple(_grant(row, certificates.get(row.id, _NONE)) for row in rows)


def _grant(row: Row[Any], certificates: Mapping[str, CertificateRecord]) -> Grant:
    try:
        scope, status = Scope.parse(row.scope), GrantStatus(row.status)
    except (InputError, ValueError) as e:
        raise StoreError(f"grant {row.id} in the database cannot be read: {e}") from e
    return from_row(Grant, row, scope=scope, status=status, certificates=certificates)


def check_new(peer: str, subject: str, expires_at_us: int | None, now_us: int) -> None:
    """Raise `InputError` for invalid values of a new grant."""
    if not is_gateway_name(peer):
        raise InputError("peer", f"{peer[:64]!r} is not a gateway's name: a DNS name in lower case, like home.example")
    if not is_subject(subject):
        raise InputError("subject", "must be 1 to 127 printable ASCII characters")
    if expires_at_us is not None and not now_us < expires_at_us <= LAST_INSTANT_US:
        raise InputError("expires_at", "must be in the future, and before the year 10000")


def check_fingerprint(grant: Grant, fingerprint: str) -> None:
    """Raise `ConflictError` or `InputError` unless this is the fingerprint of the certificate to confirm."""
    if grant.newest is None:
        raise ConflictError(f"no gateway has enrolled under grant {grant.id} yet, so there is nothing to confirm")
    if fingerprint != grant.newest.fingerprint:
        raise InputError(
            "fingerprint",
            f"is not that of the certificate issued under grant {grant.id}; if the enrolling gateway printed this one, "
            "another gateway has used the token: revoke the grant",
        )
