import asyncio
import gzip
import threading
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from federation.errors import InputError, StoreError
from federation.store.audit import history as audit_history
from federation.store.audit.archive import AuditFiles, DayReader, DayWriter, encode_event
from federation.store.audit.history import AuditHistory
from federation.store.audit.model import AuditEvent, AuditFilter, Position, position_token
from federation.store.audit.table import AuditStore
from federation.store.database import Database
from tests.support.audit_events import TODAY, event

OLD = TODAY - 100


class History:
    """A database and files that a test writes by hand."""

    def __init__(self, database: Database, directory: Path) -> None:
        self.store, self.files = AuditStore(database), AuditFiles(directory / "audit")
        self.files.prepare()
        self.history = AuditHistory(self.store, self.files)

    def keep(self, *events: AuditEvent) -> Path:
        """Put events of one day into its file."""
        file, exists = self.files.target(events[0].at_us // 86_400_000_000)
        writer = DayWriter(file, exists=exists)
        writer.add(sorted(events, key=lambda one: one.position, reverse=True))
        writer.finish()
        return file.path

    def put(self, name: str, content: bytes) -> Path:
        """Put a compressed file there as it is."""
        path = self.files.directory / name
        path.write_bytes(gzip.compress(content))
        return path

    async def ids(self, page_size: int = 100, **wanted: Any) -> list[int]:
        """The numbers that all pages show."""
        found: list[int] = []
        token = ""
        while True:
            page = await self.history.page(AuditFilter(**wanted), page_size, token)
            assert len(page.events) <= page_size
            found += [one.id for one in page.events]
            if not (token := page.next_page_token):
                return found


@pytest_asyncio.fixture
async def history(sqlite_url: str, tmp_path: Path) -> Any:
    """Files and a database without anything."""
    database = await Database.open(sqlite_url)
    yield History(database, tmp_path)
    await database.close()


@pytest.mark.parametrize("page_size", [1, 2, 3, 100])
async def test_files_and_database_are_one_list(history: History, page_size: int) -> None:
    """Newest first over all days, each once, also where a file and the database hold the same event."""
    await history.store.insert_many([event(TODAY), event(OLD, 7), event(TODAY - 95, 5)])
    both = (await history.store.newest(AuditFilter(peer="home.example"), 10))[-1]
    assert (both.id, both.at_us // 86_400_000_000) == (2, OLD)
    history.keep(both, event(OLD, 3, id=60), event(OLD, 9, id=50))
    history.keep(event(TODAY - 97, id=70), event(TODAY - 97, 1, id=71))

    assert await history.ids(page_size) == [1, 3, 71, 70, 50, 2, 60]


async def test_every_filter_holds_in_files_too(history: History) -> None:
    """Equality, since and until decide as they do in the database, and at the same microsecond."""
    events = [
        event(OLD, 1, id=1),
        event(OLD, 2, id=2, grant_id="h"),
        event(OLD, 3, id=3, peer="other.example"),
        event(OLD, 4, id=4, verb="get"),
        event(OLD, 5, id=5, outcome="denied", grant_id=None),
    ]
    await history.store.insert_many(events)
    filters: list[dict[str, Any]] = [
        {"grant_id": "h"},
        {"peer": "other.example"},
        {"verb": "get"},
        {"outcome": "denied"},
        {"since_us": events[2].at_us},
        {"until_us": events[2].at_us},
        {"since_us": events[1].at_us, "until_us": events[4].at_us, "verb": "list"},
        {"since_us": (OLD + 1) * 86_400_000_000},
        {"until_us": OLD * 86_400_000_000},
    ]
    expected = [await history.ids(**wanted) for wanted in filters]
    assert expected[:6] == [[2], [3], [4], [5], [5, 4, 3], [2, 1]]
    history.keep(*events)
    await history.store.remove(99, AuditFilter(), 99)

    assert [await history.ids(**wanted) for wanted in filters] == expected


async def test_a_move_between_two_pages_neither_hides_nor_repeats(history: History) -> None:
    """A token continues at its position, wherever the following events are stored by then."""
    await history.store.insert_many([event(OLD, second) for second in range(6)])
    first = await history.history.page(AuditFilter(), 2)
    history.keep(*await history.store.newest(AuditFilter(), 10))
    await history.store.remove(99, AuditFilter(), 99)
    second = await history.history.page(AuditFilter(), 100, first.next_page_token)

    assert [one.id for one in (*first.events, *second.events)] == [6, 5, 4, 3, 2, 1]


async def test_a_move_between_database_and_files_of_one_page_hides_nothing(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event archived while a page is read appears once."""
    await history.store.insert_many([event(OLD, second) for second in range(6)])
    real = history.store.newest

    async def newest(*arguments: Any) -> tuple[AuditEvent, ...]:
        found = await real(*arguments)
        history.keep(*found)
        await history.store.remove(99, AuditFilter(), 99)
        return found

    monkeypatch.setattr(history.store, "newest", newest)
    page = await history.history.page(AuditFilter(), 100)

    assert [one.id for one in page.events] == [6, 5, 4, 3, 2, 1]


async def test_a_rare_event_is_found_in_bounded_steps(history: History) -> None:
    """A page reads so many lines and no more; short or empty pages with tokens lead to all that match."""
    history.keep(*(event(OLD, n, id=n + 1, verb="get" if n in {2, 17} else "list") for n in range(20)))
    await history.store.insert_many([event(OLD - 1, verb="get")])
    stepping = AuditHistory(history.store, history.files, max_lines=4)
    wanted, found, sizes, token = AuditFilter(verb="get"), [], [], ""

    while True:
        page = await stepping.page(wanted, 10, token)
        found += [one.id for one in page.events]
        sizes.append(len(page.events))
        if not (token := page.next_page_token):
            break

    assert found == [18, 3, 1]
    assert sizes == [1, 0, 0, 0, 1, 1]


async def test_a_full_page_of_young_events_opens_no_file(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Days that lie behind the page are not read for it, nor are those outside the times asked for."""
    await history.store.insert_many([event(TODAY, second) for second in range(3)])
    history.keep(event(OLD, id=50))
    history.keep(event(OLD - 5, id=40))
    read: list[int] = []
    real = DayReader.__init__

    def reading(self: DayReader, file: Any) -> None:
        read.append(file.day)
        real(self, file)

    monkeypatch.setattr(DayReader, "__init__", reading)
    await history.history.page(AuditFilter(), 2)
    assert read == []
    await history.history.page(AuditFilter(since_us=(OLD - 4) * 86_400_000_000), 50)
    assert read == [OLD]
    await history.history.page(AuditFilter(until_us=OLD * 86_400_000_000), 50)
    assert read == [OLD, OLD - 5]
    await history.history.page(
        AuditFilter(), 50, position_token(AuditFilter(), Position((OLD - 4) * 86_400_000_000, 1))
    )
    assert read == [OLD, OLD - 5, OLD - 5]


CUT = "Compressed file ended before the end-of-stream marker was reached"
GOOD = encode_event(event(OLD, 5, id=5))


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{nonsense\n", "line 2: is not JSON"),
        (b"[1]\n", "line 2: is not an object"),
        (GOOD.replace(b'"at":"2024', b'"at":"abcd'), "line 2: at: is not an instant"),
        (GOOD.replace(b"00:05.000001Z", b"00:04.000001"), "line 2: at: is not an instant"),
        (GOOD.replace(b'"count":1', b'"count":"1"'), "line 2: count: is not a valid audit event field"),
        (GOOD.replace(b'"count":1', b'"count":-1'), "line 2: count: is not a valid audit event field"),
        (GOOD.replace(b'"id":5', b'"id":18446744073709551615'), "line 2: id: is not a valid audit event field"),
        (GOOD.replace(b'"source"', b'"sauce"'), "line 2: sauce: is not a valid audit event field"),
        (GOOD.replace(b'"verb":"list",', b""), "line 2: is not an audit event"),
        (GOOD, "line 2: is out of order"),
        (encode_event(event(OLD, 7, id=4)), "line 2: is out of order"),
        (encode_event(event(OLD - 1, id=4)), "line 2: is out of order"),
        (b'{"at":"' + b"x" * 70_000 + b'"}\n', "line 2: is not JSON"),
    ],
)
async def test_an_invalid_line_is_named_and_skipped(history: History, line: bytes, fault: str) -> None:
    """The warning names file, line and problem; the other lines are read."""
    path = history.put("2024-06-26.jsonl.gz", GOOD + line + encode_event(event(OLD, 1, id=1)))

    page = await history.history.page(AuditFilter(), 10)

    assert page.warnings == (f"{path}: {fault}",)
    assert [one.id for one in page.events] == ([5, 1] if len(line) < 60_000 else [5])


async def test_files_that_are_not_archives_are_named_and_skipped(history: History) -> None:
    """Other names, truncated files, garbage and directories are reported once; readable events count."""
    day = history.keep(event(OLD, 1, id=1), event(OLD, 2, id=2))
    directory = history.files.directory
    (directory / "notes.txt").write_text("mine")
    (directory / "2024-13-01.jsonl.gz").write_bytes(b"")
    (directory / ".hidden").write_text("not told")
    (directory / "2024-06-20.jsonl.gz").write_bytes(b"garbage")
    (directory / "2024-06-21.jsonl.gz").mkdir()
    (directory / "2024-06-22.jsonl.gz").write_bytes(gzip.compress(encode_event(event(OLD - 4, id=9)))[:-4])

    page = await history.history.page(AuditFilter(), 10)

    assert [one.id for one in page.events] == [2, 1, 9]
    assert page.warnings == (
        f"{directory}/2024-13-01.jsonl.gz: is not an audit file; skipped",
        f"{directory}/notes.txt: is not an audit file; skipped",
        f"{directory}/2024-06-22.jsonl.gz: cannot be read to its end: {CUT}",
        f"{directory}/2024-06-21.jsonl.gz: is not a file",
        f"{directory}/2024-06-20.jsonl.gz: cannot be read to its end: Not a gzipped file (b'ga')",
    )
    assert day.exists()


async def test_a_gateway_without_files_has_an_empty_history(history: History) -> None:
    """A missing directory is no error; a file in its place is a one-line error."""
    history.files.directory.rmdir()
    await history.store.insert_many([event(TODAY)])
    assert await history.ids() == [1]

    history.files.directory.write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot read the audit files in .*: Not a directory"):
        await history.ids()


@pytest.mark.parametrize("size", [0, 1_001])
async def test_a_page_size_out_of_range_is_named(history: History, size: int) -> None:
    """A page size out of range is an input error that names the field."""
    with pytest.raises(InputError, match=r"^page_size: "):
        await history.history.page(AuditFilter(), size)


async def test_a_cancelled_scan_ends(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled page stops reading in its thread, long before the end of the file."""
    history.keep(*(event(OLD, n, id=n + 1) for n in range(2_000)))
    begun, go, seen = threading.Event(), threading.Event(), []
    real = DayReader.__iter__

    def slowly(self: DayReader) -> Any:
        for one in real(self):
            seen.append(one.id)
            begun.set()
            go.wait(10)
            yield one

    monkeypatch.setattr(DayReader, "__iter__", slowly)
    page = asyncio.create_task(history.history.page(AuditFilter(verb="none"), 10))
    await asyncio.to_thread(begun.wait, 10)
    page.cancel()
    with pytest.raises(asyncio.CancelledError):
        await page
    go.set()
    async with history.history._slots, history.history._slots:
        await asyncio.to_thread(lambda: None)

    assert len(seen) <= 3
    assert audit_history.MAX_SCANS == 2
