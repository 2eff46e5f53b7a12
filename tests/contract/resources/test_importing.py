"""Import of JSON lines: strict, all or nothing."""

import json
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from federation.clock import from_micros
from federation.errors import ImportFailedError, LineFault
from federation.resources.importing import importer as importing
from federation.resources.importing.importer import MAX_FAULTS, MAX_LINE, Importer, ImportSummary
from federation.resources.sql.provider import SqlProvider
from federation.store.database import Database
from tests.support.clock import ManualClock
from tests.support.rows import EVERYTHING, list_ids, parse

USER = '{"kind":"user","id":"ada"}'
TEAM = '{"kind":"team","id":"T1"}'
MEMBER = '{"kind":"member","user":"ada","team":"T1"}'
ROW = '{"kind":"row","resource":"tasks","id":"1","owner":"ada","team":"T1","data":{"title":"x"}}'


@pytest_asyncio.fixture
async def provider(database: Database) -> SqlProvider:
    """An empty provider whose clock stands still."""
    return SqlProvider(database, ManualClock().clock)


def row(**changes: Any) -> str:
    """The line of a good row with some fields changed; `...` leaves one out."""
    fields = {**json.loads(ROW), **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not ...})


async def load(provider: SqlProvider, *lines: str | bytes) -> ImportSummary:
    """Import these lines as one file."""
    importer = Importer()
    importer.feed(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return await importer.commit(provider)


def faults_of(*lines: str | bytes) -> tuple[LineFault, ...]:
    """The faults of lines that cannot be imported."""
    encoded = [line if isinstance(line, bytes) else line.encode() for line in lines]
    with pytest.raises(ImportFailedError) as caught:
        parse(line + b"\n" for line in encoded)
    return caught.value.faults


async def test_references_may_stand_in_any_order(provider: SqlProvider) -> None:
    """Rows before their owners, memberships before their teams; blank lines, a byte order mark, CR LF."""
    summary = await load(provider, b"\xef\xbb\xbf" + ROW.encode(), "", MEMBER + "\r", "  \t", TEAM, USER, USER, MEMBER)

    assert summary == ImportSummary(users=1, teams=1, members=1, rows=1)
    assert await list_ids(provider, "ada") == ["1"]


async def test_references_may_stand_in_the_database(provider: SqlProvider) -> None:
    """A second file may name what the first one brought."""
    await load(provider, USER, TEAM)

    assert await load(provider, MEMBER, ROW) == ImportSummary(0, 0, 1, 1)


@pytest.mark.smoke
async def test_the_same_file_again_is_harmless(provider: SqlProvider) -> None:
    """Nothing is duplicated, no instant changes, no change is published."""
    lines = (USER, TEAM, MEMBER, ROW, row(id="2", created_at="2026-10-01T08:00:00Z"))
    first = await load(provider, *lines)
    before = [await provider.get("ada", "tasks", row_id, EVERYTHING) for row_id in ("1", "2")]
    provider._clock = ManualClock(1_900_000_000.0).clock

    assert await load(provider, *lines) == first
    assert [await provider.get("ada", "tasks", row_id, EVERYTHING) for row_id in ("1", "2")] == before


async def test_data_and_instants_arrive_as_they_were_given(provider: SqlProvider) -> None:
    """Data become compact text with numbers and characters intact; instants keep their zone's meaning."""
    line = (
        '{"kind":"row","resource":"notes","id":"n","owner":"ada","created_at":"2026-10-05T09:30:00.123456789+02:00",'
        '"updated_at":"2026-10-05T07:30:01Z","data":{ "n" : 123456789012345678901, "f": 1.10, "s":"é\\u00e9😀\\/" }}'
    )
    await load(provider, USER, line)

    stored = await provider.get("ada", "notes", "n", EVERYTHING)

    assert stored is not None
    assert stored.data == '{"n":123456789012345678901,"f":1.10,"s":"éé😀/"}'
    assert stored.team == ""
    assert from_micros(stored.created_at_us).isoformat() == "2026-10-05T07:30:00.123456+00:00"
    assert from_micros(stored.updated_at_us).isoformat() == "2026-10-05T07:30:01+00:00"


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("nonsense", "json: not JSON"),
        ("{", "json: not JSON"),
        ("[]", "json: must be a JSON object"),
        ('"row"', "json: must be a JSON object"),
        (b'{"kind":"user","id":"\xff"}', "json: is not UTF-8 at byte 22"),
        (USER.encode("utf-16"), "json: is not UTF-8 at byte 1"),
        ('{"kind":"user","id":"ada","id":"eve"}', "json: the key 'id' appears twice"),
        ("{}", "kind: is missing"),
        ('{"kind":7}', "kind: must be a string"),
        ('{"kind":"rwo"}', "kind: unknown kind 'rwo'; did you mean row?"),
        ('{"kind":"\\u001b[2J"}', "kind: unknown kind '\\x1b[2J'; known are user, team, member, row"),
        ('{"kind":"user"}', "id: is missing"),
        ('{"kind":"user","id":7}', "id: must be a string"),
        ('{"kind":"user","id":""}', "id: must be 1 to 127 printable"),
        ('{"kind":"user","id":"adä"}', "id: must be 1 to 127 printable"),
        ('{"kind":"user","id":"ada","nme":"x"}', "nme: unknown field of a user; known are id"),
        ('{"kind":"team","id":"' + "x" * 128 + '"}', "id: must be 1 to 127 printable"),
        ('{"kind":"member","user":"ada"}', "team: is missing"),
        ('{"kind":"member","user":"ada","team":""}', "team: must be 1 to 127 printable"),
        (row(resource="task"), "resource: unknown resource 'task'; did you mean tasks?"),
        (row(resource=...), "resource: is missing"),
        (row(id=...), "id: is missing"),
        (row(id=""), "id: must be 1 to 256"),
        (row(id="a\nb"), "id: must be 1 to 256"),
        (row(id="\ud800"), "id: must be 1 to 256"),
        (row(owner=...), "owner: is missing"),
        (row(owner=None), "owner: must be a string"),
        (row(team=None), "team: must be a string"),
        (row(data=...), "data: is missing"),
        (row(data="{}"), "data: must be a JSON object"),
        (row(data=None), "data: must be a JSON object"),
        (row(data={"a": "\x00"}), "data.a: contains a NUL"),
        (row(data={"a": ["\udfff"]}), "data.a: contains a NUL character or half a surrogate"),
        (row(data={"a": float("nan")}), "json: not JSON: NaN"),
        (row(data={"a": float("-inf")}), "json: not JSON: -Infinity"),
        (ROW.replace('"x"', '"x","title":"y"'), "json: the key 'title' appears twice"),
        (ROW.replace('"x"', "[" * 100_000), "json: nests deeper than 64"),
        (ROW.replace('"x"', "[" * 100 + "]" * 100), "data: nests deeper than 64"),
        (row(dta={}), "dta: unknown field of a row; did you mean data?"),
        (row(**{"\ud800\x00": 1}), "\\ud800\\x00: unknown field"),
        (row(created_at="2026-10-05"), "created_at: must be a timestamp with a time zone"),
        (row(created_at="2026-10-05T09:30:00"), "created_at: must be a timestamp with a time zone"),
        (row(created_at="2026-02-30T09:30:00Z"), "created_at: must be a timestamp with a time zone"),
        (row(created_at="2026-10-05 09:30:00Z"), "created_at: must be a timestamp with a time zone"),
        (row(created_at="٢٠٢٦-10-05T09:30:00Z"), "created_at: must be a timestamp with a time zone"),
        (row(updated_at="0001-01-01T00:00:00+23:59"), "updated_at: must be in the years"),
        (row(updated_at=1_790_000_000), "updated_at: must be a string"),
        (b" " * (MAX_LINE + 1), "line: is longer than 1 MiB"),
    ],
)
def test_a_bad_line_is_named_by_number_and_field(line: str | bytes, fault: str) -> None:
    """Each kind of fault, between good lines."""
    (found,) = faults_of(USER, "", line, ROW)

    assert str(found).startswith(f"line 3, {fault}")
    assert str(found).isprintable()
    assert len(str(found)) < 300


def test_a_doubled_row_names_both_lines() -> None:
    """The same resource and id in one file; the same id in another resource is fine."""
    (fault,) = faults_of(ROW, row(resource="notes"), USER, ROW)

    assert str(fault) == "line 4, id: tasks '1' is already in line 1"


def test_the_first_faults_are_kept_and_all_are_counted() -> None:
    """A file of faults makes a short error that tells how many there are."""
    with pytest.raises(ImportFailedError, match=r"line 1, kind: .* \(and 80 more\); nothing was imported") as caught:
        parse([b"{}\n"] * (MAX_FAULTS + 80))

    assert (len(caught.value.faults), caught.value.total) == (MAX_FAULTS, MAX_FAULTS + 80)


async def test_one_bad_line_keeps_everything_out(provider: SqlProvider) -> None:
    """Nothing of a file is loaded unless all of it is good."""
    with pytest.raises(ImportFailedError):
        await load(provider, USER, TEAM, MEMBER, ROW, "{}")

    assert not await provider.has_user("ada")


async def test_unknown_references_are_named_by_line(provider: SqlProvider) -> None:
    """Unknown owners, users and teams are reported once, with similar names; nothing is imported."""
    await load(provider, '{"kind":"user","id":"grace"}', '{"kind":"team","id":"growth"}')
    stranger = MEMBER.replace("ada", "x")
    lines = (USER, row(id="2", owner="grase", team="T1"), row(owner="ada", team="grwth"), stranger, stranger)

    with pytest.raises(ImportFailedError) as caught:
        await load(provider, *lines)

    assert [str(fault) for fault in caught.value.faults] == [
        "line 2, owner: no user 'grase'; did you mean grace?",
        "line 2, team: no team 'T1'; neither this file nor the gateway has such a team",
        "line 3, team: no team 'grwth'; did you mean growth?",
        "line 4, team: no team 'T1'; neither this file nor the gateway has such a team",
        "line 4, user: no user 'x'; neither this file nor the gateway has such a user",
    ]
    assert caught.value.total == 5
    assert not await provider.has_user("ada")


@given(st.data())
def test_chunks_may_be_split_anywhere(data: st.DataObject) -> None:
    """However a file is split, the batch, the line numbers and the progress are the same."""
    file = "\n".join([USER, "", TEAM, MEMBER, ROW, row(id="é😀")]).encode() + data.draw(st.sampled_from([b"", b"\n"]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(file)), max_size=6)))
    seen: list[int] = []
    importer = Importer(seen.append)
    for start, end in zip([0, *cuts], [*cuts, len(file)], strict=True):
        importer.feed(file[start:end])

    assert importer.finish() == parse([file])
    assert seen == sorted(seen)
    assert importer.lines_read == 6


def test_a_line_without_end_is_not_held_in_memory() -> None:
    """Bytes beyond the limit are dropped at once, and later lines keep their numbers."""
    importer = Importer()
    importer.feed(b"\n")
    for _ in range(40):
        importer.feed(b"x" * 100_000)
        assert len(importer._partial_line) <= MAX_LINE + 100_000
    importer.feed(b"x\n{}\n" + b"y" * (MAX_LINE + 1))

    with pytest.raises(ImportFailedError) as caught:
        importer.finish()

    assert [(fault.line, fault.field) for fault in caught.value.faults] == [(2, "line"), (3, "kind"), (4, "line")]
    assert importer.lines_read == 4


def test_a_file_beyond_all_bounds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An input that would not fit into memory is refused while it is read."""
    monkeypatch.setattr(importing, "MAX_BYTES", 1_000)
    importer = Importer()

    with pytest.raises(ImportFailedError, match="import it in parts"):
        for _ in range(1_000):
            importer.feed(USER.encode() + b"\n")
    assert importer.lines_read < 50
