"""One serving process a gateway, on both databases."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import AsyncMock

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from federation.errors import LockedError, StoreError
from federation.store import locks as serving
from federation.store.database import Database
from federation.store.locks import ServingLock


async def take(lock: ServingLock, database: Database) -> None:
    """Acquire both locks, or neither."""
    await lock.acquire()
    try:
        await lock.acquire_database(database)
    except BaseException:
        await lock.release()
        raise


@pytest_asyncio.fixture
async def lock(database: Database, tmp_path: Path) -> AsyncIterator[ServingLock]:
    """A lock that is held."""
    lock = ServingLock(tmp_path, "work.example")
    await take(lock, database)
    yield lock
    await lock.release()


async def test_a_second_process_is_told_who_serves(lock: ServingLock, database: Database, tmp_path: Path) -> None:
    """The refusal names the gateway and the process that holds it."""
    with pytest.raises(LockedError, match=rf"work\.example is already served.*{os.getpid()}"):
        await take(ServingLock(tmp_path, "work.example"), database)


async def test_a_released_lock_belongs_to_the_next_holder(
    lock: ServingLock, database: Database, tmp_path: Path
) -> None:
    """The next holder keeps others out, also after the previous one has released the lock a second time."""
    await lock.release()
    following = ServingLock(tmp_path, "work.example")
    await take(following, database)
    await lock.release()

    with pytest.raises(LockedError, match=r"work\.example is already served"):
        await take(ServingLock(tmp_path, "work.example"), database)
    await following.release()


async def test_a_database_that_does_not_answer_in_time_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A time-out of the driver, which has no text, becomes a `StoreError` that names it."""
    database = Database.attach("postgresql+asyncpg://127.0.0.1:1/none")
    monkeypatch.setattr(AsyncEngine, "connect", AsyncMock(side_effect=TimeoutError()))

    with pytest.raises(StoreError, match="cannot lock the database: TimeoutError"):
        await ServingLock(tmp_path, "work.example").acquire_database(database)


async def test_a_standby_waits_and_takes_over(lock: ServingLock, database: Database, tmp_path: Path) -> None:
    """It reports once that it waits, and gets the lock when the first process ends."""
    told: list[str] = []
    standby = ServingLock(tmp_path, "work.example", standby=True, waiting=lambda: told.append("waiting"))
    task = asyncio.create_task(take(standby, database))
    await asyncio.sleep(0.7)
    assert not task.done()

    await lock.release()
    await asyncio.wait_for(task, 5)

    assert told == ["waiting"]
    await standby.release()


@pytest.mark.postgres
@pytest.mark.smoke
async def test_another_machine_is_kept_out_by_the_database(postgres_url: str, tmp_path: Path) -> None:
    """Two directories with one PostgreSQL database are one gateway."""
    first, second = await Database.open(postgres_url), await Database.open(postgres_url)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    here, there = ServingLock(tmp_path / "a", "w.example"), ServingLock(tmp_path / "b", "w.example")
    await take(here, first)

    with pytest.raises(LockedError, match="by another process"):
        await take(there, second)
    await here.release()
    await take(there, second)

    await there.release()
    await first.close()
    await second.close()


@pytest.mark.postgres
async def test_a_refused_process_leaves_no_lock_behind(postgres_url: str, tmp_path: Path) -> None:
    """The file lock is released if the database lock is taken."""
    first, second = await Database.open(postgres_url), await Database.open(postgres_url)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    here, there = ServingLock(tmp_path / "a", "w.example"), ServingLock(tmp_path / "b", "w.example")
    await take(here, first)
    with pytest.raises(LockedError):
        await take(there, second)
    await here.release()

    again = ServingLock(tmp_path / "b", "w.example")
    await take(again, second)

    await again.release()
    await first.close()
    await second.close()


async def end_lock_connection(postgres_url: str) -> None:
    """End the connection that holds the advisory lock, at the server; other tests use other databases of the server."""
    url = make_url(postgres_url)
    killer = await asyncpg.connect(host=str(url.query["host"]), user=url.username, database=url.database)
    await killer.execute(
        "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
        " WHERE l.locktype = 'advisory' AND d.datname = current_database() AND l.pid <> pg_backend_pid()"
    )
    await killer.close()


@pytest.mark.postgres
async def test_a_lost_connection_is_noticed_at_once(postgres_url: str, tmp_path: Path) -> None:
    """`lost` is set when the server closes the connection that holds the lock, since another process may serve then."""
    database = await Database.open(postgres_url)
    lock = ServingLock(tmp_path, "w.example")
    await take(lock, database)

    await end_lock_connection(postgres_url)

    await asyncio.wait_for(lock.lost.wait(), serving.PING_S / 2)
    await lock.release()
    await database.close()


@pytest.mark.postgres
@pytest.mark.smoke
async def test_a_connection_lost_without_notice_is_detected(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is lost without notice is detected by the next ping."""
    monkeypatch.setattr(serving, "PING_S", 0.1)
    monkeypatch.setattr(asyncpg.Connection, "add_termination_listener", lambda *_: None)
    database = await Database.open(postgres_url)
    lock = ServingLock(tmp_path, "w.example")
    await take(lock, database)
    await asyncio.sleep(0.3)
    assert not lock.lost.is_set()

    await end_lock_connection(postgres_url)

    await asyncio.wait_for(lock.lost.wait(), 5)
    await lock.release()
    await database.close()
