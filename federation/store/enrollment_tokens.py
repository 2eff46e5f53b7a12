"""Enrollment tokens of the issuing gateway: only the hash of a secret is stored, and only one key can claim it."""

import hashlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, delete, insert, select, update

from federation.clock import MICROSECONDS, SYSTEM_CLOCK, Clock
from federation.store import schema
from federation.store.database import Database, translate_db_errors
from federation.store.records import from_row, to_columns

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

SECRET_BYTES = 32
_TABLE = schema.enrollment_tokens


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A stored token. Only the key of `claimed_key_hash` may use it; `serial` is the certificate issued to it."""

    secret_hash: str
    grant_id: str
    confirm: bool
    created_at_us: int
    expires_at_us: int
    claimed_at_us: int | None = None
    claimed_key_hash: str | None = None
    serial: str | None = None


def hash_secret(secret: str) -> str:
    """Return the stored hash of a secret: SHA-256 in lower-case hexadecimal. 256 random bits need no salt."""
    return hashlib.sha256(secret.encode()).hexdigest()


class TokenStore:
    """The tokens that this gateway created. Every method raises `StoreError` if the database fails."""

    def __init__(self, database: Database, clock: Clock = SYSTEM_CLOCK) -> None:
        self._database, self._clock = database, clock

    async def create(self, grant_id: str, *, confirm: bool, lifetime_s: float) -> tuple[str, TokenRecord]:
        """Create a token. Returns its secret, which is not stored, and its record.

        Removes earlier unused tokens of the grant.
        """
        secret, now = secrets.token_urlsafe(SECRET_BYTES), self._clock.now_us()
        record = TokenRecord(hash_secret(secret), grant_id, confirm, now, now + round(lifetime_s * MICROSECONDS))
        await self._database.execute(
            delete(_TABLE).where(_TABLE.c.grant_id == grant_id, _TABLE.c.serial.is_(None)),
            insert(_TABLE).values(to_columns(record, _TABLE)),
            failing="the enrollment token cannot be stored",
        )
        return secret, record

    async def find(self, secret_hash: str) -> TokenRecord | None:
        """Return the token with this hash of its secret."""
        wanted = select(_TABLE).where(_TABLE.c.secret_hash == secret_hash)
        return _record(await self._database.fetch_one(wanted, "the enrollment token cannot be read"))

    async def claim(self, secret_hash: str, key_hash: str) -> TokenRecord | None:
        """Assign an unclaimed, unexpired token to a key, durably. Returns the token after that.

        The caller must compare `claimed_key_hash`: of several keys that claim concurrently, one wins.
        """
        now = self._clock.now_us()
        free = (_TABLE.c.secret_hash == secret_hash, _TABLE.c.claimed_key_hash.is_(None), _TABLE.c.expires_at > now)
        claim = update(_TABLE).where(*free).values(claimed_at=now, claimed_key_hash=key_hash)
        with translate_db_errors("the claim of the enrollment token cannot be stored"):
            async with self._database.write() as connection:
                await connection.execute(claim)
                claimed = await connection.execute(select(_TABLE).where(_TABLE.c.secret_hash == secret_hash))
                return _record(claimed.one_or_none())


def _record(row: Row[Any] | None) -> TokenRecord | None:
    return None if row is None else from_row(TokenRecord, row)


async def mark_redeemed(connection: "AsyncConnection", token: TokenRecord, serial: str) -> bool:
    """Record the certificate issued for a claimed token. Returns false if the token was redeemed or replaced."""
    mine = (
        _TABLE.c.secret_hash == token.secret_hash,
        _TABLE.c.claimed_key_hash == token.claimed_key_hash,
        _TABLE.c.serial.is_(None),
    )
    result = await connection.execute(update(_TABLE).where(*mine).values(serial=serial))
    return result.rowcount == 1
