"""The gateway's database: connections, transactions, migration and error translation."""

import asyncio
import errno
import logging
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import URL, Row, Select, UpdateBase, event, make_url
from sqlalchemy.engine import Connection
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from federation.errors import ConfigError, StoreError
from federation.store.advisory_keys import AdvisoryKey

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine


@contextmanager
def translate_db_errors(what: str) -> Iterator[None]:
    """Turn errors of the database and its driver into `StoreError`; the message begins with `what`, a clause.

    The message contains neither SQL nor values.
    """
    try:
        yield
    except (SQLAlchemyError, OSError) as e:
        raise StoreError(f"{what}: the database says: {cause_of(e)}") from e


OLDEST_SQLITE: Final = (3, 38, 0)
"""The first version with the `->` operators, needed to compare fields of a row."""
MIGRATIONS: Final = Path(__file__).parent / "migrations"


class Database:
    """One gateway's database, SQLite or PostgreSQL."""

    def __init__(self, engine: "AsyncEngine") -> None:
        self.engine = engine
        self._writer = engine.execution_options(mosaic_write=True)

    @classmethod
    async def open(cls, url: str, *, new: bool = True) -> "Database":
        """Connect, and migrate to the newest schema.

        With `new`, a missing SQLite file is created. Raises `ConfigError` for an invalid URL, `StoreError` if the
        database cannot be opened.
        """
        engine = _engine(url, new=new)
        try:
            async with engine.execution_options(mosaic_write=True).begin() as connection:
                if engine.dialect.name == "postgresql":
                    await _check_encoding(connection)
                    await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({AdvisoryKey.MIGRATION:d})")
                await connection.run_sync(_migrate)
        except BaseException as e:
            await _dispose(engine)
            if isinstance(e, SQLAlchemyError | OSError):
                raise StoreError(f"cannot open the database {_masked(url)}: {cause_of(e)}") from e
            raise
        return cls(engine)

    @classmethod
    def attach(cls, url: str) -> "Database":
        """Connect without migrating, to a database that this process has already opened."""
        return cls(_engine(url, new=False))

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self.engine.dialect.name

    @asynccontextmanager
    async def read(self) -> AsyncIterator["AsyncConnection"]:
        """Yield a connection for reading."""
        async with self.engine.connect() as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator["AsyncConnection"]:
        """Yield a connection in a transaction that commits at the end, or rolls back on an exception."""
        async with self._writer.begin() as connection:
            yield connection

    async def fetch(self, query: Select[Any], failing: str) -> Sequence[Row[Any]]:
        """Return the rows of a query. The message of a `StoreError` begins with `failing`, a clause."""
        with translate_db_errors(failing):
            async with self.read() as connection:
                found: Sequence[Row[Any]] = (await connection.execute(query)).all()
        return found

    async def fetch_one(self, query: Select[Any], failing: str) -> Row[Any] | None:
        """Return the only row of a query, or `None` if there is none."""
        return next(iter(await self.fetch(query, failing)), None)

    async def execute(self, *statements: UpdateBase, failing: str) -> int:
        """Execute statements in one transaction. Returns the number of rows that the last one changed."""
        changed = 0
        with translate_db_errors(failing):
            async with self.write() as connection:
                for statement in statements:
                    changed = (await connection.execute(statement)).rowcount
        return changed

    async def close(self) -> None:
        """Close every connection, also if the caller is cancelled meanwhile."""
        await _dispose(self.engine)


async def _dispose(engine: "AsyncEngine") -> None:
    """Close every connection in the pool, even if the caller is cancelled repeatedly."""
    cancelled: asyncio.CancelledError | None = None
    while True:
        try:
            await engine.dispose()
            break
        except asyncio.CancelledError as e:  # the pool still has the connections that were not reached
            cancelled = e
    if cancelled is not None:
        raise cancelled


def _engine(url: str, *, new: bool) -> "AsyncEngine":
    from sqlalchemy.ext.asyncio import create_async_engine

    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigError("store.url", "is not a database URL, such as postgresql+asyncpg://host/name") from None
    if parsed.drivername not in {"sqlite+aiosqlite", "postgresql+asyncpg"}:
        raise ConfigError("store.url", "must begin with sqlite+aiosqlite:// or postgresql+asyncpg://")
    try:
        if parsed.drivername == "sqlite+aiosqlite":
            if parsed.database:
                _prepare_file(parsed.database, new=new)
            if sqlite3.sqlite_version_info < OLDEST_SQLITE:
                oldest = ".".join(map(str, OLDEST_SQLITE))
                raise StoreError(
                    f"this Python has SQLite {sqlite3.sqlite_version}; {oldest} or later is needed: "
                    "use a newer Python, or set store.url to a PostgreSQL database"
                )
            _keep_values_out_of_logs()
            engine = create_async_engine(parsed, hide_parameters=True)
            event.listen(engine.sync_engine, "connect", _sqlite_connect)
            event.listen(engine.sync_engine, "begin", _sqlite_begin)
            event.listen(engine.sync_engine, "invalidate", _sqlite_invalidate)
            return engine
        return create_async_engine(parsed, pool_pre_ping=True, hide_parameters=True)
    except ModuleNotFoundError as e:
        raise ConfigError("store.url", f"needs the {e.name} package: pip install 'mosaic-federation[postgres]'") from e
    except OSError as e:
        lost = isinstance(e, FileNotFoundError) and not new
        cure = "; restore it from a backup, or create the gateway again" if lost else ""
        raise StoreError(f"cannot open the database {_masked(url)}: {e.strerror}{cure}") from e


def _prepare_file(path: str, *, new: bool) -> None:
    """Create the file of a database with mode 0600 if there is none (SQLite would apply the umask), or check access.

    An existing file is not opened: closing it would release every POSIX lock that SQLite holds on it in this process.
    Another process would then take itself for the last user of the database and delete its write-ahead log.
    See https://www.sqlite.org/howtocorrupt.html, section 2.2.
    """
    if new:
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            return
    mode = os.stat(path).st_mode  # noqa: PTH116 - as given, for the error of a missing file
    error = errno.EISDIR if stat.S_ISDIR(mode) else 0 if os.access(path, os.R_OK | os.W_OK) else errno.EACCES
    if error:
        raise OSError(error, os.strerror(error), path)


def _keep_values_out_of_logs() -> None:
    """Stop the driver from logging statements with their values at DEBUG, unless the program has set its log level."""
    logger = logging.getLogger("aiosqlite")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


async def _check_encoding(connection: "AsyncConnection") -> None:
    """Refuse an encoding that cannot store all text or compares bytes instead of characters."""
    encoding = (await connection.exec_driver_sql("SHOW server_encoding")).scalar_one()
    if encoding != "UTF8":
        cure = "create it with `createdb --encoding UTF8 --template template0`"
        raise ConfigError("store.url", f"the database uses the encoding {encoding}, and must use UTF8; {cure}")


def _sqlite_connect(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # disables the driver's own transactions, which begin too late
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _sqlite_begin(connection: Connection) -> None:
    # A deferred transaction that reads and then writes fails if another one has written in between.
    write = connection.get_execution_options().get("mosaic_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _sqlite_invalidate(connection: Any, _record: object, _error: object) -> None:
    # A cancelled statement may be partly read. SQLite closes the connection only once that statement is collected as
    # garbage, and holds the transaction with its write lock until then.
    with suppress(sqlite3.Error, SQLAlchemyError):
        connection.rollback()


def _migrate(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as e:
        raise StoreError(
            f"cannot open the database {_masked(connection.engine.url)}: a newer version of this software has "
            f"migrated it ({cause_of(e)}); install that version, or restore the backup from before the upgrade"
        ) from e


def _masked(url: str | URL) -> str:
    return make_url(url).render_as_string(hide_password=True)


def cause_of(error: BaseException) -> str:
    """Return the first line of the driver's error, or its type if it has no text."""
    lines = str(getattr(error, "orig", None) or error).splitlines()
    return lines[0] if lines else type(error).__name__
