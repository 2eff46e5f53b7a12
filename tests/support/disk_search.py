"""Searches everything that a program left on disk for a word, through encodings and compression."""

import base64
import binascii
import re
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

DEPTH: Final = 3
"""How many nested encodings are searched."""
_RUN: Final = re.compile(rb"[A-Za-z0-9+/_-]{24,}")
_PACKED: Final = re.compile(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]")
_SWAPPED: Final = bytes.maketrans(b"-_", b"+/")


def encodings_of(data: bytes, word: str, depth: int = DEPTH) -> set[str]:
    """The encodings in which bytes contain a word: plain, UTF-16, hex, base64, gzip, zlib, also nested."""
    low = data.lower()
    forms = {
        "plain": word.encode(),
        "utf-16": word.encode("utf-16-le"),
        "utf-16-be": word.encode("utf-16-be"),
        "hex": word.encode().hex().encode(),
    }
    found = {form for form, spelt in forms.items() if spelt in low}
    if depth:
        for kind, unwrapped in _unwrapped(data):
            found |= {f"{form} in {kind}" for form in encodings_of(unwrapped, word, depth - 1)}
    return found


def _unwrapped(data: bytes) -> Iterator[tuple[str, bytes]]:
    for match in _PACKED.finditer(data):
        unpacking = zlib.decompressobj(47)  # gzip or zlib, detected by the header
        try:
            unpacked = unpacking.decompress(data[match.start() :], 1 << 26)
        except zlib.error:
            continue
        yield "compressed", unpacked
    for match in _RUN.finditer(data):
        run = match.group().translate(_SWAPPED)
        for start in range(4):  # leading characters may not belong to the encoded text
            whole = run[start : start + (len(run) - start) // 4 * 4]
            with_rest = run[start:] + b"=" * (-(len(run) - start) % 4)
            try:
                yield "base64", base64.b64decode(with_rest)
            except binascii.Error:
                yield "base64", base64.b64decode(whole)


def files_with(directory: Path, word: str) -> dict[str, set[str]]:
    """Files below a directory whose content or name contains a word, with the encodings; databases are also dumped."""
    found: dict[str, set[str]] = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        forms = {f"{form} in the name" for form in encodings_of(name.encode(), word, 1)}
        if path.is_file():
            data = path.read_bytes()
            forms |= encodings_of(data, word)
            if data.startswith(b"SQLite format 3\0"):
                forms |= {f"{form} in a table" for form in encodings_of(_dump_tables(path), word)}
        if forms:
            found[name] = forms
    return found


def _dump_tables(path: Path) -> bytes:
    """All tables as text, so that a value that spans two pages is found. Writers may continue meanwhile."""
    with closing(sqlite3.connect(path, timeout=10)) as database:
        database.text_factory = lambda raw: raw.decode(errors="replace")
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        parts = (repr(row) for name in tables for row in database.execute(f'SELECT * FROM "{name}"'))
        return "\n".join(parts).encode(errors="replace")


def open_files(process: int) -> Iterator[tuple[str, bytes]]:
    """Each regular file that a process holds open, also deleted ones, with its content."""
    for entry in Path(f"/proc/{process}/fd").iterdir():
        try:
            target = str(entry.readlink())
            if target.startswith("/") and not target.startswith(("/dev/", "/proc/")) and entry.is_file():
                yield target, entry.read_bytes()
        except OSError:  # closed meanwhile
            continue
