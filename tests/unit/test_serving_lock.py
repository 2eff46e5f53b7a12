"""One serving process a gateway, on both databases."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import make_url

from federation.errors import LockedError
from federation.store.database import Database
from federation.store.serving import ServingLock


@pytest_asyncio.fixture
async def lock(database: Database, tmp_path: Path) -> AsyncIterator[ServingLock]:
    """A lock that is held."""
    lock = ServingLock(tmp_path, database, "work.example")
    await lock.acquire()
    yield lock
    await lock.release()


@pytest.mark.asyncio
async def test_a_second_process_is_told_who_serves(lock: ServingLock, database: Database, tmp_path: Path) -> None:
    """The refusal names the gateway and the process that holds it."""
    with pytest.raises(LockedError, match=rf"work\.example is served already.*{os.getpid()}"):
        await ServingLock(tmp_path, database, "work.example").acquire()


@pytest.mark.asyncio
async def test_the_lock_can_be_taken_again_once_released(lock: ServingLock, database: Database, tmp_path: Path) -> None:
    """Stop and start, in one process or two."""
    await lock.release()

    again = ServingLock(tmp_path, database, "work.example")
    await again.acquire()
    await again.release()
    await again.release()


@pytest.mark.asyncio
async def test_a_standby_waits_and_takes_over(lock: ServingLock, database: Database, tmp_path: Path) -> None:
    """It says once that it waits, and has the lock when the first process ends."""
    told: list[str] = []
    standby = ServingLock(tmp_path, database, "work.example")
    task = asyncio.create_task(standby.acquire(standby=True, waiting=lambda: told.append("waiting")))
    await asyncio.sleep(0.7)
    assert not task.done()

    await lock.release()
    await asyncio.wait_for(task, 5)

    assert told == ["waiting"]
    await standby.release()


@pytest.mark.asyncio
@pytest.mark.postgres
async def test_another_machine_is_kept_out_by_the_database(postgres_url: str, tmp_path: Path) -> None:
    """Two directories with one PostgreSQL database are one gateway."""
    first, second = await Database.open(postgres_url), await Database.open(postgres_url)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    here, there = ServingLock(tmp_path / "a", first, "w.example"), ServingLock(tmp_path / "b", second, "w.example")
    await here.acquire()

    with pytest.raises(LockedError, match="by another process"):
        await there.acquire()
    await here.release()
    await there.acquire()

    await there.release()
    await first.close()
    await second.close()


@pytest.mark.asyncio
@pytest.mark.postgres
async def test_a_refused_process_leaves_no_lock_behind(postgres_url: str, tmp_path: Path) -> None:
    """The file lock is given back where the database refuses."""
    first, second = await Database.open(postgres_url), await Database.open(postgres_url)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    here, there = ServingLock(tmp_path / "a", first, "w.example"), ServingLock(tmp_path / "b", second, "w.example")
    await here.acquire()
    with pytest.raises(LockedError):
        await there.acquire()
    await here.release()

    again = ServingLock(tmp_path / "b", second, "w.example")
    await again.acquire()

    await again.release()
    await first.close()
    await second.close()


@pytest.mark.asyncio
@pytest.mark.postgres
async def test_a_lost_connection_is_noticed_at_once(postgres_url: str, tmp_path: Path) -> None:
    """When the server ends the connection that holds the lock, somebody else may serve: `lost` says so."""
    database = await Database.open(postgres_url)
    lock = ServingLock(tmp_path, database, "w.example")
    await lock.acquire()
    url = make_url(postgres_url)
    killer = await asyncpg.connect(host=str(url.query["host"]), user=url.username, database=url.database)

    await killer.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
    )

    await asyncio.wait_for(lock.lost.wait(), 5)
    await killer.close()
    await lock.release()
    await database.close()
