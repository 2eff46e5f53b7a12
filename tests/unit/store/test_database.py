import asyncio
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, column, insert, select, table, update
from sqlalchemy.exc import IntegrityError

from federation.errors import ConfigError, LockedError, StoreError
from federation.store.database import Database
from federation.store.locks import FileLock
from federation.store.schema import METADATA, users
from tests.support.databases import new_postgres_url
from tests.support.scripted import eventually

SEARCH_OBJECTS = {"rows_fts", "rows_fts_data", "rows_fts_docsize", "rows_fts_config", "rows_fts_idx", "ix_rows_words"}


def differences(connection: Connection) -> list[str]:
    """Return the differences between the migrated schema and the declared tables."""
    found = compare_metadata(MigrationContext.configure(connection), METADATA)
    names = [getattr(part, "name", part) for kind, *rest in found for part in rest[-1:]]
    return [str(name) for name in names if name not in {*SEARCH_OBJECTS, "words"}]


async def test_migrations_build_the_tables_that_the_code_uses(database: Database) -> None:
    """The migrated schema equals the declared tables, full-text objects aside."""
    async with database.read() as connection:
        assert await connection.run_sync(differences) == []


async def test_opening_again_keeps_what_was_written(database_url: str) -> None:
    """A second start finds the data of the first."""
    first = await Database.open(database_url)
    async with first.write() as connection:
        await connection.execute(insert(users).values(id="ada"))
    await first.close()

    second = await Database.open(database_url)
    async with second.read() as connection:
        assert (await connection.scalars(select(users.c.id))).all() == ["ada"]
    await second.close()


async def test_a_database_of_a_newer_version_is_refused(database_url: str) -> None:
    """An unknown revision of the schema is reported with what to do about it."""
    database = await Database.open(database_url)
    await database.execute(
        update(table("alembic_version", column("version_num"))).values(version_num="9999"), failing=""
    )
    await database.close()

    with pytest.raises(StoreError, match=r"^cannot open the database .*9999.*; install that version, or restore"):
        await Database.open(database_url)


@pytest.mark.parametrize("cancellations", range(1, 5))
async def test_a_close_that_is_cancelled_closes_every_connection(sqlite_url: str, cancellations: int) -> None:
    """A connection that stays open would keep its thread and its locks."""
    database = await Database.open(sqlite_url)
    await asyncio.gather(*(database.fetch(select(users), "cannot read") for _ in range(4)))
    before = threading.active_count()

    closing = asyncio.create_task(database.close())
    for _ in range(cancellations):
        await asyncio.sleep(0)
        closing.cancel()
    with suppress(asyncio.CancelledError):
        await closing

    await eventually(lambda: threading.active_count() == before - 4)


async def test_an_open_that_fails_unexpectedly_closes_its_connection(
    monkeypatch: pytest.MonkeyPatch, sqlite_url: str
) -> None:
    """Whatever ends the migration, neither a connection nor its thread is left."""
    before = threading.active_count()
    monkeypatch.setattr("federation.store.database._migrate", lambda connection: 1 // 0)

    with pytest.raises(ZeroDivisionError):
        await Database.open(sqlite_url)

    await eventually(lambda: threading.active_count() == before)


async def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    """An exception inside `write` rolls everything back."""
    with pytest.raises(ZeroDivisionError):
        async with database.write() as connection:
            await connection.execute(insert(users).values(id="ada"))
            raise ZeroDivisionError

    async with database.read() as connection:
        assert (await connection.scalars(select(users.c.id))).all() == []


async def test_statements_that_are_executed_together_are_one_transaction(database: Database) -> None:
    """If the second statement fails, the first one is undone, and the error says in plain words what failed."""
    again = insert(users).values([{"id": "ben"}, {"id": "ben"}])
    with pytest.raises(StoreError, match=r"^the users cannot be stored: the database says: "):
        await database.execute(insert(users).values(id="ada"), again, failing="the users cannot be stored")

    assert await database.fetch(select(users.c.id), "the users cannot be read") == []


async def test_a_failed_query_says_what_cannot_be_read(database: Database) -> None:
    """The error of a query is no error of the driver."""
    nowhere = select(column("id")).select_from(table("nowhere"))
    with pytest.raises(StoreError, match=r"^the users cannot be read: the database says: .*nowhere"):
        await database.fetch(nowhere, "the users cannot be read")


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/db", "sqlite:///x.db"])
async def test_a_url_that_cannot_work_names_the_setting(url: str) -> None:
    """A wrong database URL is a configuration error, not a driver's trace."""
    with pytest.raises(ConfigError, match=r"^store\.url"):
        await Database.open(url)


@pytest.mark.postgres
@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
async def test_a_database_with_another_encoding_is_refused(postgres_directory: str, encoding: str) -> None:
    """A PostgreSQL database in another encoding than UTF-8 is refused at the start, with the fix."""
    url = await new_postgres_url(postgres_directory, f"ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")

    with pytest.raises(
        ConfigError, match=rf"^store\.url: the database uses the encoding {encoding}, .*createdb --encoding UTF8"
    ):
        await Database.open(url)


async def test_an_unreachable_database_hides_the_password() -> None:
    """The error of a database that does not answer shows the URL without its password."""
    with pytest.raises(StoreError) as caught:
        await Database.open("postgresql+asyncpg://u:hunter2@127.0.0.1:1/x")

    assert "127.0.0.1:1" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_file_lock_names_its_holder_and_can_be_taken_again(tmp_path) -> None:
    """The error of a second acquire names the holder's process; after release the lock is free."""
    first, second = FileLock(tmp_path / "l", "served"), FileLock(tmp_path / "l", "served")
    first.acquire()

    with pytest.raises(LockedError, match=r"served by process \d+"):
        second.acquire()

    first.release()
    second.acquire()
    second.release()


def test_a_lock_file_that_cannot_be_written_is_reported(tmp_path) -> None:
    """A directory in place of the lock file, or a read-only disk, gives a one-line error without a traceback."""
    (tmp_path / "l").mkdir()

    with pytest.raises(StoreError, match=r"cannot write the lock file .*Is a directory"):
        FileLock(tmp_path / "l", "served").acquire()


async def test_an_sqlite_that_is_too_old_is_reported(monkeypatch: pytest.MonkeyPatch, sqlite_url: str) -> None:
    """With an old SQLite, opening fails with the required version and the alternatives."""
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 37, 2))

    with pytest.raises(StoreError, match=r"3\.38\.0 or later is needed: .*PostgreSQL"):
        await Database.open(sqlite_url)


async def test_an_error_of_the_database_does_not_hold_what_was_written(database: Database) -> None:
    """The text of a database error may reach a log, so it contains no values."""
    with pytest.raises(IntegrityError) as caught:
        async with database.write() as connection:
            await connection.execute(insert(users).values([{"id": "ada"}, {"id": "ada"}]))

    assert "parameters" in str(caught.value)
    assert "'ada'" not in str(caught.value)


async def test_opening_a_database_twice_in_a_process_keeps_its_locks(sqlite_url: str, tmp_path: Path) -> None:
    """Another process that closes the database does not take itself for its last user and delete the log."""
    program = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.execute('SELECT 1 FROM grants'); d.close()"
    path = tmp_path / "gateway.db"
    first = await Database.open(sqlite_url)
    second = await Database.open(sqlite_url, new=False)
    try:
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program, path], check=True)
        assert path.with_name("gateway.db-wal").exists()
    finally:
        await second.close()
        await first.close()
