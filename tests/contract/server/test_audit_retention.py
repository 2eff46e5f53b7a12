import asyncio
import gzip
import logging
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from federation.errors import StoreError
from federation.server.audit import retention as audit_retention
from federation.server.audit.retention import AuditRetention
from federation.store.audit.archive import DAY_US, AuditFiles, DayWriter
from federation.store.audit.history import AuditHistory
from federation.store.audit.model import AuditEvent, AuditFilter
from federation.store.audit.table import AuditStore
from federation.store.database import Database
from tests.support.audit_events import TODAY, archived_events, archived_ids, event
from tests.support.clock import ManualClock

RETENTION_DAYS = 10


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of three, without a pause."""
    monkeypatch.setattr(audit_retention, "BATCH", 3)
    monkeypatch.setattr(audit_retention, "PAUSE_S", 0.0)


class Trail:
    """An audit with ten days in the database, its files, and a clock at noon."""

    def __init__(self, database: Database, directory: Path) -> None:
        self.store, self.files = AuditStore(database), AuditFiles(directory / "audit")
        self.hands = ManualClock(TODAY * DAY_US / 1_000_000 + 43_200)
        self.retention = AuditRetention(self.store, self.files, self.hands.clock, retention_days=RETENTION_DAYS)
        self.history = AuditHistory(self.store, self.files)

    async def write(self, *events: AuditEvent) -> None:
        """Write events."""
        await self.store.insert_many(events)

    async def stored(self) -> list[int]:
        """The days in the database, newest first."""
        return [found.at_us // DAY_US for found in await self.store.newest(AuditFilter(), 1_000)]

    async def everything(self, page_size: int = 4) -> list[AuditEvent]:
        """Every event of files and database, by pages."""
        found: list[AuditEvent] = []
        token = ""
        while True:
            page = await self.history.page(AuditFilter(), page_size, token)
            assert page.warnings == ()
            found += page.events
            if not (token := page.next_page_token):
                return found

    def file(self, day: int, part: int = 1) -> Path:
        """The file of a day."""
        return {(one.day, one.part): one.path for one in self.files.days()[0]}[day, part]


@pytest_asyncio.fixture
async def trail(database: Database, tmp_path: Path) -> AsyncIterator[Trail]:
    """The trail, empty."""
    yield Trail(database, tmp_path)


async def test_days_that_ended_long_enough_ago_move_and_the_others_stay(trail: Trail) -> None:
    """The last whole day that is kept stays to its first microsecond; the day before moves to its last one."""
    last_kept = TODAY - RETENTION_DAYS
    edge = AuditEvent(at_us=last_kept * DAY_US - 1, verb="get", outcome="ok")
    await trail.write(event(TODAY), AuditEvent(at_us=last_kept * DAY_US, verb="get", outcome="ok"), edge)

    assert await trail.retention.step() == 1

    assert await trail.stored() == [TODAY, last_kept]
    assert [file.day for file in trail.files.days()[0]] == [last_kept - 1]


async def test_a_day_is_one_file_that_others_can_read(trail: Trail) -> None:
    """Every field is there under the name that `--json` gives it, newest first, in a file only for the gateway."""
    day = TODAY - 50
    await trail.write(*(event(day, second) for second in range(8)))
    await trail.write(event(day, 3, grant_id=None, outcome="denied", reason="GRANT_INVALID: “ünknown”", count=7))

    assert await trail.retention.step() == 9

    path = trail.file(day)
    assert path.name == "2024-08-15.jsonl.gz"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert archived_ids(path) == [8, 7, 6, 5, 9, 4, 3, 2, 1]
    assert archived_events(path)[4] == {
        "at": "2024-08-15T00:00:03.000001Z",
        "verb": "list",
        "outcome": "denied",
        "grant_id": None,
        "peer": "home.example",
        "subject": "ada",
        "resource": "tasks",
        "query_hash": "a" * 64,
        "reason": "GRANT_INVALID: “ünknown”",
        "bytes_out": 2**40,
        "latency_ms": 3.1,
        "trace_id": "b" * 32,
        "source": "127.0.0.1",
        "count": 7,
        "id": 9,
    }


async def test_what_moved_reads_as_it_was(trail: Trail) -> None:
    """The same events, each once and in the same order, before and after."""
    for day in (TODAY - 40, TODAY - 12, TODAY - 11, TODAY - 3, TODAY):
        await trail.write(*(event(day, second % 5, reason=f"r{second}") for second in range(7)))
    before = await trail.everything()
    assert len(before) == 35

    assert await trail.retention.step() == 21

    assert len(await trail.stored()) == 14
    assert await trail.everything() == before
    assert await trail.everything(page_size=1) == before
    assert await trail.retention.step() == 0


async def test_nothing_to_move_makes_no_directory(trail: Trail) -> None:
    """A young gateway has no `audit/`."""
    await trail.write(event(TODAY))

    assert await trail.retention.step() == 0
    assert not trail.files.directory.exists()


async def test_numbers_go_on_after_everything_was_moved(trail: Trail) -> None:
    """An event written after the newest one moved away has a number that no event had, so a follower sees it."""
    await trail.write(event(TODAY - 50), event(TODAY - 50, 1))
    await trail.retention.step()
    assert await trail.stored() == []

    await trail.write(event(TODAY))

    assert [found.id for found in (await trail.store.later(AuditFilter(), 2, 10)).events] == [3]


Crash = Callable[[Trail, pytest.MonkeyPatch], None]


class Crashed(BaseException):
    """The process ends here."""


def _leave_the_draft(writer: DayWriter) -> None:
    writer._out.close()
    writer._raw.close()


def _in_the_draft(trail: Trail, patch: pytest.MonkeyPatch) -> None:
    real, calls = DayWriter.add, []

    def add(self: DayWriter, events: list[AuditEvent]) -> None:
        real(self, events[:2])
        calls.append(1)
        if len(calls) == 2:
            raise Crashed

    patch.setattr(DayWriter, "add", add)
    patch.setattr(DayWriter, "cancel", _leave_the_draft)


def _before_the_rename(trail: Trail, patch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise Crashed

    patch.setattr(DayWriter, "_check", crash)
    patch.setattr(DayWriter, "cancel", _leave_the_draft)


def _after_the_rename(trail: Trail, patch: pytest.MonkeyPatch) -> None:
    async def crash(*_: object) -> int:
        raise Crashed

    patch.setattr(trail.store, "remove", crash)


def _amid_the_deletion(trail: Trail, patch: pytest.MonkeyPatch) -> None:
    real, calls = trail.store.remove, []

    async def remove(last_id: int, window: AuditFilter, most: int) -> int:
        calls.append(1)
        if len(calls) == 2:
            raise Crashed
        return await real(last_id, window, most)

    patch.setattr(trail.store, "remove", remove)


@pytest.mark.parametrize("crash", [_in_the_draft, _before_the_rename, _after_the_rename, _amid_the_deletion])
async def test_a_crash_loses_nothing_and_doubles_nothing(
    trail: Trail, crash: Crash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right after a crash at any step, and after the next start, every event is there once, also in the file itself."""
    day = TODAY - 50
    await trail.write(*(event(day, second) for second in range(10)), event(TODAY))
    before = await trail.everything()
    with monkeypatch.context() as patch:
        crash(trail, patch)
        with pytest.raises(Crashed):
            await trail.retention.step()

    assert await trail.everything() == before
    await trail.write(event(day, 5, reason="came late"))
    await trail.retention.step()

    after = await trail.everything()
    assert [found for found in after if not found.reason] == before
    assert archived_ids(trail.file(day)) == [10, 9, 8, 7, 12, 6, 5, 4, 3, 2, 1]
    assert [path.name for path in trail.files.directory.iterdir()] == [trail.file(day).name]
    assert await trail.stored() == [TODAY]


async def test_an_event_that_is_written_meanwhile_is_not_forgotten_unread(
    trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that is added to an old day between reading and deleting goes into the file as well."""
    day = TODAY - 50
    await trail.write(*(event(day, second) for second in range(5)))
    real, late = trail.store.remove, [event(day, 9, reason="late"), event(day, 0, reason="late")]

    async def remove(last_id: int, window: AuditFilter, most: int) -> int:
        if late:
            await trail.write(late.pop())
        return await real(last_id, window, most)

    monkeypatch.setattr(trail.store, "remove", remove)
    await trail.retention.step()

    assert sorted(archived_ids(trail.file(day))) == [1, 2, 3, 4, 5, 6, 7]
    assert await trail.stored() == []


async def test_cancelling_leaves_the_database_whole(trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop amid the writing waits for the thread, removes the draft and deletes nothing."""
    day, begun = TODAY - 50, asyncio.Event()
    await trail.write(*(event(day, second) for second in range(9)))
    loop, real = asyncio.get_running_loop(), DayWriter.add

    def add(self: DayWriter, events: list[AuditEvent]) -> None:
        loop.call_soon_threadsafe(begun.set)
        real(self, events)

    monkeypatch.setattr(DayWriter, "add", add)
    running = asyncio.create_task(trail.retention.step())
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert list(trail.files.directory.iterdir()) == []
    assert len(await trail.stored()) == 9


async def test_a_file_that_cannot_be_read_is_left_alone(trail: Trail) -> None:
    """Late events of its day go beside it; a look at the history shows both and names the broken one."""
    day = TODAY - 50
    await trail.write(*(event(day, second) for second in range(6)))
    await trail.retention.step()
    broken = trail.file(day)
    broken.write_bytes(broken.read_bytes()[:-12])
    left = broken.read_bytes()
    await trail.write(event(day, 3, reason="late"))

    await trail.retention.step()

    assert broken.read_bytes() == left
    assert trail.file(day, 2).name == "2024-08-15.2.jsonl.gz"
    assert archived_ids(trail.file(day, 2)) == [7]
    page = await trail.history.page(AuditFilter(), 100)
    assert [found.id for found in page.events][:3] == [6, 5, 7]
    assert len(page.warnings) == 1
    assert page.warnings[0].startswith(f"{broken}: cannot be read to its end")


async def test_a_directory_that_cannot_be_written_keeps_everything_and_is_logged_once(
    trail: Trail, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows stay; the log names the directory and the cause once, and the task retries."""
    monkeypatch.setattr(audit_retention, "EVERY_S", 0.0)
    caplog.set_level(logging.WARNING)
    await trail.write(event(TODAY - 50))
    trail.files.directory.write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot prepare the audit directory .*/audit: File exists"):
        await trail.retention.step()
    task = asyncio.create_task(trail.retention.run())

    async with asyncio.timeout(5):
        while not caplog.messages:  # noqa: ASYNC110 - the log is no event
            await asyncio.sleep(0)
        assert len(await trail.stored()) == 1
        trail.files.directory.unlink()
        while await trail.stored():  # noqa: ASYNC110 - a row is no event
            await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(
        "old audit events cannot be moved out of the database: cannot prepare the audit directory "
    )


async def test_days_move_as_time_passes(trail: Trail) -> None:
    """A day moves at the first midnight in UTC at which it is old enough, and not before."""
    await trail.write(event(TODAY - RETENTION_DAYS, 80_000))
    assert await trail.retention.step() == 0
    trail.hands.advance(43_199)
    assert await trail.retention.step() == 0
    trail.hands.advance(1)

    assert await trail.retention.step() == 1


async def test_zero_days_keep_everything(trail: Trail) -> None:
    """With 0 the task ends at once and moves nothing."""
    await trail.write(event(0))

    await AuditRetention(trail.store, trail.files, trail.hands.clock, retention_days=0).run()

    assert await trail.stored() == [0]


async def test_a_file_that_does_not_read_as_written_replaces_nothing(
    trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the database forgets, the file is read back; one with fewer lines than were written is no file."""
    await trail.write(*(event(TODAY - 50, second) for second in range(4)))
    real = gzip.GzipFile.write
    written: list[bytes] = []

    def write(self: gzip.GzipFile, data: bytes) -> int:
        written.append(data)
        return real(self, data) if len(written) != 2 else len(data)

    monkeypatch.setattr(gzip.GzipFile, "write", write)
    with pytest.raises(StoreError, match="does not contain every event"):
        await trail.retention.step()

    assert list(trail.files.directory.iterdir()) == []
    assert len(await trail.stored()) == 4
