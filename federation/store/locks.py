"""Locks that admit one serving process per gateway: a file lock, and on PostgreSQL also an advisory lock."""

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from federation.aio import cancel_and_wait
from federation.errors import LockedError, StoreError
from federation.store.advisory_keys import AdvisoryKey
from federation.store.database import Database, cause_of

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

LOCK_FILE: Final = "gateway.lock"
RETRY_S: Final = 0.5
PING_S: Final = 5.0
_FAULTS: Final = (SQLAlchemyError, OSError)


class FileLock:
    """An exclusive lock on a file by `flock`, which the system releases when the process ends."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self._fd: int | None = None
        _LOCKS.add(self)

    def acquire(self) -> None:
        """Take the lock without waiting. Raises `LockedError` with the holder's pid, `StoreError` on file errors."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise StoreError(f"cannot write the lock file {self.path}: {e.strerror}") from e
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 32).decode("ascii", "replace").strip()
            os.close(fd)
            raise LockedError(f"{self.what} by process {holder or 'unknown'}; stop that process first") from None
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        self._fd = fd

    def release(self) -> None:
        """Release the lock. Idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


_LOCKS: Final["WeakSet[FileLock]"] = WeakSet()


def _close_in_child() -> None:
    """Close the descriptors inherited by a forked child, which would hold the locks after the parent has ended."""
    for lock in list(_LOCKS):
        lock.release()


os.register_at_fork(after_in_child=_close_in_child)


class ServingLock:
    """The lock of the serving process: first on the directory, then on the database once it is open.

    `lost` is set when the database closes the connection that holds its lock. The process must stop then, because
    another process may already serve. With `standby`, the methods wait, and call `waiting` once, instead of raising
    `LockedError`.
    """

    def __init__(
        self, directory: Path, name: str, *, standby: bool = False, waiting: Callable[[], None] | None = None
    ) -> None:
        self.lost = asyncio.Event()
        self._name, self._standby, self._waiting = name, standby, waiting
        self._file = FileLock(directory / LOCK_FILE, f"the gateway {name} is already served")
        self._connection: AsyncConnection | None = None
        self._watch: asyncio.Task[None] | None = None

    async def acquire(self) -> None:
        """Take the lock of the directory, before any file in it is opened."""
        await self._take(self._take_file)

    async def acquire_database(self, database: Database) -> None:
        """Take the lock of a PostgreSQL database, which processes on other hosts can reach."""
        if database.dialect == "postgresql":
            await self._take(lambda: self._take_advisory(database))

    async def release(self) -> None:
        """Release both locks. Idempotent."""
        if self._watch is not None:
            await cancel_and_wait(self._watch)
            self._watch = None
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await _discard(connection)
        self._file.release()

    async def _take(self, attempt: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await attempt()
            except LockedError:
                if not self._standby:
                    raise
            if self._waiting is not None:
                self._waiting()
                self._waiting = None
            await asyncio.sleep(RETRY_S)

    async def _take_file(self) -> None:
        self._file.acquire()

    async def _take_advisory(self, database: Database) -> None:
        try:
            connection = await database.engine.connect()
            connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
            locked = await connection.scalar(text(f"SELECT pg_try_advisory_lock({AdvisoryKey.SERVING:d})"))
        except _FAULTS as e:
            raise StoreError(f"cannot lock the database: {cause_of(e)}") from e
        if not locked:
            await connection.close()
            raise LockedError(
                f"the database of {self._name} is already served by another process; stop that process first"
            )
        self._connection = connection
        raw: Any = await connection.get_raw_connection()
        raw.driver_connection.add_termination_listener(lambda _: self.lost.set())
        self._watch = asyncio.create_task(self._ping(connection))

    async def _ping(self, connection: "AsyncConnection") -> None:
        """Detect a connection that is lost without notice, as when the network drops all packets."""
        while not self.lost.is_set():
            await asyncio.sleep(PING_S)
            try:
                async with asyncio.timeout(PING_S):
                    await connection.scalar(text("SELECT 1"))
            except _FAULTS:
                self.lost.set()


async def _discard(connection: "AsyncConnection") -> None:
    """Close the connection itself: back in the pool it would still hold the lock."""
    try:
        await connection.invalidate()
        await connection.close()
    except _FAULTS:
        return  # the connection is already closed, and with it the lock is released
