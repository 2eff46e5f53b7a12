from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from sqlalchemy import select

from federation.errors import EnrollmentError
from federation.store import schema
from federation.store.database import Database
from federation.store.identity import save_identity
from tests.support.enrollments import SEALER, EnrollingGateway, IssuingGateway


async def test_a_reader_of_the_raw_database_finds_no_key_and_no_token(
    database: Database, work: IssuingGateway, home: EnrollingGateway
) -> None:
    """After a whole enrollment, a lost one and an unused token, neither rows nor files hold a secret of either side."""
    authority = work.issuer.authority
    await save_identity(database, SEALER, authority)
    used, lost, unused = await work.token(), await work.token(), await work.token()
    async with work.serving() as address:
        record = (await home.enroll(used, address)).record
    with pytest.raises(EnrollmentError):  # nobody serves: the key stays behind
        await home.enroll(replace(lost, endpoint=address), user="cy")

    raw = await everything_stored(database)
    keys = [record.key_pem, authority.ca_key_pem, authority.server_key_pem]
    for secret in [token.secret for token in (used, lost, unused)] + [token.encode()[:40] for token in (used, lost)]:
        assert secret.encode() not in raw
    assert b"PRIVATE KEY" not in raw
    for pem in keys:
        key = serialization.load_pem_private_key(pem.encode(), None)
        assert key.private_numbers().private_value.to_bytes(32) not in raw
        assert pem.splitlines()[1].encode() not in raw
    assert record.certificate_pem.splitlines()[1].encode() in raw  # the search does see what is stored


async def everything_stored(database: Database) -> bytes:
    """Every row of every table, and on SQLite the bytes of its files."""
    found = bytearray()
    async with database.read() as connection:
        for table in schema.METADATA.sorted_tables:
            for row in await connection.execute(select(table)):
                for value in row:
                    found += value if isinstance(value, bytes) else str(value).encode()
    if database.dialect == "sqlite":
        path = Path(database.engine.url.database)
        for file in path.parent.glob(path.name + "*"):
            found += file.read_bytes()
    return bytes(found)
