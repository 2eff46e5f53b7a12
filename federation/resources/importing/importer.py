"""Import of JSON lines: parses and checks the whole file, then writes it in one transaction."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from federation.errors import ImportFailedError, InputError, LineFault, UnknownReferencesError
from federation.resources.batch import Batch, Member, NewRow
from federation.resources.importing.lines import Entry, Name, read_line
from federation.resources.sql.provider import SqlProvider
from federation.suggest import hint

MAX_LINE: Final = 1024 * 1024
"""Maximum bytes of one line."""
MAX_BYTES: Final = 512 * 1024 * 1024
"""Maximum bytes of one import, which is held in memory until all of it is checked."""
MAX_FAULTS: Final = 20
"""Maximum number of faults reported in full; further ones are only counted."""
_TOO_LONG: Final = f"is longer than {MAX_LINE >> 20} MiB"
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """Numbers of distinct users, teams, memberships and rows of an import, new or not."""

    users: int
    teams: int
    members: int
    rows: int


class _Faults:
    """The first faults, and the number of all."""

    def __init__(self) -> None:
        self.first: list[LineFault] = []
        self.total = 0

    def add(self, line: int, field: str, problem: str) -> None:
        self.total += 1
        if len(self.first) < MAX_FAULTS:
            self.first.append(LineFault(line, field, problem))

    def raise_any(self) -> None:
        if self.total:
            raise ImportFailedError(self.first, self.total)


class _Collection:
    """The entries read so far."""

    def __init__(self) -> None:
        self.users: dict[str, None] = {}
        self.teams: dict[str, None] = {}
        self.members: dict[Member, int] = {}
        self.rows: dict[tuple[str, str], tuple[NewRow, int]] = {}

    def add(self, entry: Entry, line: int) -> None:
        """Add an entry. Raises `InputError` for a duplicate row."""
        match entry:
            case Name("user", name):
                self.users[name] = None
            case Name(_, name):
                self.teams[name] = None
            case Member():
                self.members.setdefault(entry, line)
            case NewRow():
                _, before = self.rows.setdefault((entry.resource, entry.id), (entry, line))
                if before != line:
                    raise InputError("id", f"{entry.resource} {entry.id!r} is already in line {before}")

    def batch(self) -> Batch:
        return Batch(tuple(self.users), tuple(self.teams), tuple(self.members), [row for row, _ in self.rows.values()])

    def references(self) -> Iterator[tuple[int, str, str, str]]:
        """Yield line, field, kind and name of every reference to a user or team."""
        for member, line in self.members.items():
            yield line, "user", "user", member.user
            yield line, "team", "team", member.team
        for row, line in self.rows.values():
            yield line, "owner", "user", row.owner
            if row.team:
                yield line, "team", "team", row.team


class Importer:
    """Reads a file in chunks of bytes, then imports all of it.

    Chunks may be split anywhere; use about 64 KiB to keep the event loop responsive. `progress` is called after each
    chunk with the number of lines read. Faults are collected (the first `MAX_FAULTS` in full) and raised by `commit`.
    """

    def __init__(self, progress: Callable[[int], None] | None = None) -> None:
        self.lines_read = 0
        self._progress = progress
        self._found = _Collection()
        self._faults = _Faults()
        self._partial_line = bytearray()
        self._skipping_line = False
        self._bytes = 0

    def feed(self, chunk: bytes) -> None:
        """Read a chunk. Faults are collected for `commit`; raises `ImportFailedError` beyond `MAX_BYTES`."""
        self._bytes += len(chunk)
        if self._bytes > MAX_BYTES:
            self._faults.add(self.lines_read + 1, "file", f"is longer than {MAX_BYTES >> 20} MiB; import it in parts")
            self._faults.raise_any()
        self._partial_line += chunk
        if b"\n" in chunk:
            *whole, partial = bytes(self._partial_line).split(b"\n")
            for line in whole:
                self._line(line)
            self._partial_line = bytearray(partial)
        self._bound_partial_line()
        if self._progress:
            self._progress(self.lines_read)

    def finish(self) -> Batch:
        """Return the batch of all lines. Raises `ImportFailedError`. References are checked when it is written."""
        if self._partial_line or self._skipping_line:
            self._line(bytes(self._partial_line))
            self._partial_line.clear()
        self._faults.raise_any()
        return self._found.batch()

    async def commit(self, provider: SqlProvider) -> ImportSummary:
        """Write all lines in one transaction.

        Raises `ImportFailedError` with the invalid lines, or, if all lines are valid, with those that name a user or
        team that neither the file nor the provider has. Nothing is written then.
        """
        batch = self.finish()
        try:
            await provider.apply(batch)
        except UnknownReferencesError as e:
            users, teams = await provider.names()
            self._add_unknown(e, {"user": {*users, *batch.users}, "team": {*teams, *batch.teams}})
            self._faults.raise_any()
            raise
        return ImportSummary(len(batch.users), len(batch.teams), len(batch.members), len(batch.rows))

    def _bound_partial_line(self) -> None:
        if len(self._partial_line) > MAX_LINE and not self._skipping_line:
            self._faults.add(self.lines_read + 1, "line", _TOO_LONG)
            self._skipping_line = True
        if self._skipping_line:
            self._partial_line.clear()

    def _line(self, line: bytes) -> None:
        self.lines_read += 1
        if self._skipping_line:
            self._skipping_line = False
            return
        if self.lines_read == 1:
            line = line.removeprefix(_BOM)
        if len(line) > MAX_LINE:
            self._faults.add(self.lines_read, "line", _TOO_LONG)
            return
        try:
            if line.strip():
                self._found.add(read_line(line.decode()), self.lines_read)
        except UnicodeDecodeError as e:
            self._faults.add(self.lines_read, "json", f"is not UTF-8 at byte {e.start + 1}")
        except InputError as e:
            self._faults.add(self.lines_read, e.field, e.problem)

    def _add_unknown(self, unknown: UnknownReferencesError, known: dict[str, set[str]]) -> None:
        missing = {"user": unknown.users, "team": unknown.teams}
        for line, field, kind, name in sorted(self._found.references()):
            if name in missing[kind]:
                shown = known[kind] if self._faults.total < MAX_FAULTS else ()
                meant = hint(name, shown, f"neither this file nor the gateway has such a {kind}")
                self._faults.add(line, field, f"no {kind} {name!r}; {meant}")
