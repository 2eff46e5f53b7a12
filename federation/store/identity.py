"""Storage of the gateway's certificate authority and server certificate; keys are sealed."""

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from federation.clock import SYSTEM_CLOCK, Clock
from federation.errors import ConflictError
from federation.pki.authority import Authority
from federation.pki.sealing import Sealer
from federation.store.database import Database, translate_db_errors
from federation.store.schema import gateway_identity

_CA_KEY = "authority key"
_SERVER_KEY = "server key"
_ONLY_ROW = 1


async def load_identity(database: Database, sealer: Sealer, clock: Clock = SYSTEM_CLOCK) -> Authority | None:
    """Return the gateway's authority, or `None` if none is stored. Raises `SealError` or `StoreError`."""
    row = await database.fetch_one(select(gateway_identity), "the gateway's identity cannot be read")
    if row is None:
        return None
    return Authority(
        name=row.name,
        ca_certificate_pem=row.ca_certificate,
        ca_key_pem=sealer.open(row.ca_key_sealed, _CA_KEY).decode("ascii"),
        server_certificate_pem=row.server_certificate,
        server_key_pem=sealer.open(row.server_key_sealed, _SERVER_KEY).decode("ascii"),
        clock=clock,
    )


async def save_identity(database: Database, sealer: Sealer, authority: Authority) -> None:
    """Store the authority of a new gateway. Raises `ConflictError` if the database already has one."""
    values = {
        "id": _ONLY_ROW,
        "name": authority.name,
        "ca_certificate": authority.ca_certificate_pem,
        "ca_key_sealed": sealer.seal(authority.ca_key_pem.encode(), _CA_KEY),
        "server_certificate": authority.server_certificate_pem,
        "server_key_sealed": sealer.seal(authority.server_key_pem.encode(), _SERVER_KEY),
        "created_at": authority.clock.now_us(),
    }
    with translate_db_errors("the gateway's identity cannot be stored"):
        try:
            async with database.write() as connection:
                await connection.execute(insert(gateway_identity).values(values))
        except IntegrityError:
            raise ConflictError("the database already holds the identity of a gateway; set another store.url") from None


async def save_server_certificate(database: Database, sealer: Sealer, authority: Authority) -> None:
    """Replace the stored server certificate and key. Raises `StoreError`."""
    values = {
        "server_certificate": authority.server_certificate_pem,
        "server_key_sealed": sealer.seal(authority.server_key_pem.encode(), _SERVER_KEY),
    }
    statement = update(gateway_identity).values(values)
    await database.execute(statement, failing="the gateway's server certificate cannot be stored")
