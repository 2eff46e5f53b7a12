"""The audit archive: one gzip file of JSON lines per day, newest event first, each replaced atomically.

`2026-05-03.jsonl.gz` holds the events of that day in UTC. If it was unreadable when events had to be added, they are in
`2026-05-03.2.jsonl.gz`. Unreadable files are reported and left unchanged.
"""

import gzip
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from pathlib import Path
from types import UnionType
from typing import Any, Final, get_args, get_type_hints

import orjson

from federation.clock import MICROSECONDS, from_micros, to_micros
from federation.errors import StoreError
from federation.store.audit.model import AuditEvent, AuditFilter, Position

DAY_US: Final = 86_400 * MICROSECONDS
MAX_LINE: Final = 64 * 1024
"""Maximum bytes of a line; the gateway writes at most a few thousand."""
_EPOCH: Final = date(1970, 1, 1)
_NAME: Final = re.compile(r"(\d{4}-\d\d-\d\d)(?:\.([2-9]|[1-9]\d{1,5}))?\.jsonl\.gz\Z", re.ASCII)
_KINDS: Final[dict[str, tuple[type, ...]]] = {
    name: get_args(hint) if isinstance(hint, UnionType) else (hint, int) if hint is float else (hint,)
    for name, hint in get_type_hints(AuditEvent).items()
}
_LARGEST: Final = {"id": 2**63 - 1, "bytes_out": 2**63 - 1, "count": 2**32 - 1}


@dataclass(frozen=True, slots=True)
class DayFile:
    """One file of the archive. `day` counts from 1970-01-01; `part` is 1 for the first file of a day."""

    day: int
    part: int
    path: Path


class DayReader:
    """Reads one file, newest event first. `fault` describes the first problem afterwards, empty if there was none.

    Skips invalid lines and lines out of order, which would break paging. Stops where a file is truncated.
    """

    def __init__(self, file: DayFile) -> None:
        self.file, self.fault = file, ""

    def __iter__(self) -> Iterator[AuditEvent]:
        """Yield the valid events."""
        if not self.file.path.is_file():
            return self._log_problem("is not a file")
        try:
            with gzip.open(self.file.path, "rb") as lines:
                yield from self._events(lines)
        except (OSError, EOFError, zlib.error) as e:
            self._log_problem(f"cannot be read to its end: {getattr(e, 'strerror', None) or e}")

    def _events(self, lines: Any) -> Iterator[AuditEvent]:
        last: Position | None = None
        number = 0
        while line := lines.readline(MAX_LINE):
            number += 1
            try:
                event = decode_event(line)
            except ValueError as e:
                self._log_problem(f"line {number}: {e}")
                if not line.endswith(b"\n"):
                    return
                continue
            if day_of(event.at_us) != self.file.day or (last is not None and event.position >= last):
                self._log_problem(f"line {number}: is out of order")
                continue
            last = event.position
            yield event

    def _log_problem(self, fault: str) -> None:
        self.fault = self.fault or fault


class AuditFiles:
    """The archive directory, which only the gateway's user may enter. The methods block; call them in a thread."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def prepare(self) -> None:
        """Create the directory and remove drafts that a crash left. Raises `StoreError`."""
        try:
            self.directory.mkdir(mode=0o700, exist_ok=True)
            self.directory.chmod(0o700)
            for path in self.directory.glob(".*.jsonl.gz.part"):
                path.unlink()
        except OSError as e:
            raise StoreError(f"cannot prepare the audit directory {self.directory}: {e.strerror}") from e

    def days(self) -> tuple[list[DayFile], list[str]]:
        """Return the archive files, latest day first, and the names of other files except hidden ones."""
        found, unrecognized = [], []
        try:
            names = sorted(path.name for path in self.directory.iterdir())
        except FileNotFoundError:
            return [], []
        except OSError as e:
            raise StoreError(f"cannot read the audit files in {self.directory}: {e.strerror}") from e
        for name in names:
            file = _day_file(self.directory, name)
            if file is not None:
                found.append(file)
            elif not name.startswith("."):
                unrecognized.append(name)
        return sorted(found, key=lambda file: (-file.day, file.part)), unrecognized

    def target(self, day: int) -> tuple[DayFile, bool]:
        """Return the file for new events of a day, and whether it exists.

        Skips files that are not fully readable and leaves them unchanged for the operator.
        """
        parts = {file.part: file for file in self.days()[0] if file.day == day}
        part = 1
        while (file := parts.get(part)) is not None:
            reading = DayReader(file)
            for _ in reading:
                pass
            if not reading.fault:
                return file, True
            part += 1
        return DayFile(day, part, self.directory / _name(day, part)), False


class DayWriter:
    """Rewrites one file: merges the given events, newest first, with those in the file, without duplicates."""

    def __init__(self, file: DayFile, *, exists: bool) -> None:
        self._file = file
        self._draft = file.path.with_name(f".{file.path.name}.part")
        self._reading = DayReader(file)
        self._old = iter(self._reading) if exists else iter(())
        self._held = next(self._old, None)
        self._lines = 0
        try:
            fd = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as e:
            raise self._failed(e) from e
        self._raw = os.fdopen(fd, "wb")
        self._out = gzip.GzipFile("", "wb", 6, self._raw, mtime=0)

    def add(self, events: Iterable[AuditEvent]) -> None:
        """Write events older than those added before. Raises `StoreError`."""
        try:
            for event in events:
                while self._held is not None and self._held.position >= event.position:
                    if self._held != event:
                        self._write(self._held)
                    self._held = next(self._old, None)
                self._write(event)
        except OSError as e:
            raise self._failed(e) from e

    def finish(self) -> None:
        """Replace the file, after syncing and verifying the draft. Raises `StoreError`."""
        try:
            while self._held is not None:
                self._write(self._held)
                self._held = next(self._old, None)
            self._out.close()
            self._raw.flush()
            os.fsync(self._raw.fileno())
            self._raw.close()
            self._check()
            self._draft.replace(self._file.path)
            _sync(self._file.path.parent)
        except OSError as e:
            raise self._failed(e) from e

    def cancel(self) -> None:
        """Remove the draft and leave the file unchanged. Does nothing after `finish`."""
        with suppress(OSError):
            self._out.close()
        with suppress(OSError):
            self._raw.close()
        self._draft.unlink(missing_ok=True)

    def _write(self, event: AuditEvent) -> None:
        self._out.write(encode_event(event))
        self._lines += 1

    def _check(self) -> None:
        """Verify the draft, because the events are deleted from the database next."""
        found = 0
        with gzip.open(self._draft, "rb") as lines:
            while piece := lines.read(1 << 20):
                found += piece.count(b"\n")
        if found != self._lines or self._reading.fault:
            raise OSError(None, self._reading.fault or "the written file does not contain every event")

    def _failed(self, error: OSError) -> StoreError:
        return StoreError(f"cannot write {self._file.path}: {error.strerror or error}")


def day_of(at_us: int) -> int:
    """Return the day of an instant, counted from 1970-01-01 in UTC."""
    return at_us // DAY_US


def day_window(day: int) -> AuditFilter:
    """Return the filter of the events of one day."""
    return AuditFilter(since_us=day * DAY_US, until_us=(day + 1) * DAY_US)


def encode_event(event: AuditEvent) -> bytes:
    """Return an event as a line of JSON."""
    values: dict[str, Any] = {"at": "", **{f.name: getattr(event, f.name) for f in fields(AuditEvent)}}
    values["at"] = from_micros(values.pop("at_us")).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE)


def decode_event(line: bytes) -> AuditEvent:
    """Return the event of a line. Raises `ValueError` with a message for the operator."""
    try:
        values = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise ValueError("is not JSON") from None
    if not isinstance(values, dict):
        raise ValueError("is not an object")  # noqa: TRY004 - the line is invalid, not the type of an argument
    try:
        values["at_us"] = to_micros(datetime.fromisoformat(values.pop("at")))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError("at: is not an instant") from None
    for name, value in values.items():
        if type(value) not in _KINDS.get(name, ()) or (name in _LARGEST and not 0 <= value <= _LARGEST[name]):
            raise ValueError(f"{name[:40]}: is not a valid audit event field")
    if not {"id", "verb", "outcome"} <= values.keys():
        raise ValueError("is not an audit event")
    return AuditEvent(**values)


def _day_file(directory: Path, name: str) -> DayFile | None:
    match = _NAME.match(name)
    if match is None:
        return None
    try:
        day = (date.fromisoformat(match[1]) - _EPOCH).days
    except ValueError:
        return None
    return DayFile(day, int(match[2] or 1), directory / name)


def _name(day: int, part: int) -> str:
    stem = (_EPOCH + timedelta(days=day)).isoformat()
    return f"{stem}.jsonl.gz" if part == 1 else f"{stem}.{part}.jsonl.gz"


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
