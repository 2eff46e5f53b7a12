"""The keys of the PostgreSQL advisory locks."""

import re
from pathlib import Path

import federation
import mosaic_cli
from federation.store import advisory_keys
from federation.store.advisory_keys import AdvisoryKey

SOURCE = [Path(federation.__file__).parent, Path(mosaic_cli.__file__).parent]
LITERAL = re.compile(r"advisory\w*lock\w*\([^{)]*\d|\b20_?746_?\d{3}\b")
USE = re.compile(r"\bAdvisoryKey\.(\w+)")


def test_the_keys_of_all_advisory_locks_differ() -> None:
    """No two locks share a number; an alias of an enumeration would hide that they do."""
    numbers = [int(key) for key in AdvisoryKey.__members__.values()]
    assert len(set(numbers)) == len(numbers) >= 4


def test_the_keys_that_versions_share_keep_their_numbers() -> None:
    """Processes of an older and of this version exclude each other for migration, writes of rows and serving."""
    assert (AdvisoryKey.MIGRATION, AdvisoryKey.WRITE_ROWS, AdvisoryKey.SERVING) == (20_746_023, 20_746_024, 20_746_100)


def test_the_key_of_audit_appends_keeps_its_number() -> None:
    """Processes of this and of a later version exclude each other when they append audit events."""
    assert AdvisoryKey.APPEND_AUDIT == 20_746_025


def test_each_advisory_key_is_used_by_one_module() -> None:
    """Each lock is taken under its own key, and never under that of another lock."""
    used = {
        (path.relative_to(root).as_posix(), name)
        for root in SOURCE
        for path in root.rglob("*.py")
        for name in USE.findall(path.read_text(encoding="utf-8"))
    }

    assert used == {
        ("store/database.py", "MIGRATION"),
        ("resources/sql/writes.py", "WRITE_ROWS"),
        ("store/audit/table.py", "APPEND_AUDIT"),
        ("store/locks.py", "SERVING"),
    }


def test_no_other_file_holds_an_advisory_key() -> None:
    """The source names every advisory lock by its member of `AdvisoryKey`, never by a number."""
    files = [path for folder in SOURCE for path in folder.rglob("*.py") if path != Path(advisory_keys.__file__)]
    assert len(files) > 100
    assert [str(path) for path in files if LITERAL.search(path.read_text(encoding="utf-8"))] == []
