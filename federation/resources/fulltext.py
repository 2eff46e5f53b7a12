"""Full-text search: folding of words, index tokens and snippets. Pure.

Words are folded and encoded as plain ASCII tokens, so that matching does not depend on the tokenizer, version or locale
of the database.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final

MAX_WORD: Final = 64
"""Significant characters of a folded word."""
MAX_INDEX: Final = 256 * 1024
"""Maximum characters of index text per row; later words are not found. A `tsvector` is limited to 1 MiB."""
MAX_SNIPPET: Final = 240
"""Maximum characters of a snippet, brackets and ellipses included."""
_LEAD: Final = 60
"""Maximum characters of a snippet before the first match."""
# `re` does not count vowel signs of Indic and South-East Asian scripts as letters, but they are parts of words.
_SIGNS: Final = "\u0900-\u109f\u1700-\u18af\u1900-\u1aff\u1b00-\u1cff"
_WORD: Final = re.compile(rf"(?:[^\W_]|[{_SIGNS}])+")
# Before folding, combining marks are also parts of words.
_WRITTEN_WORD: Final = re.compile(rf"(?:[^\W_]|[{_SIGNS}\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f])+")


def fold(text: str) -> str:
    """Return `text` without differences of case, width, ligature or accent."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(c for c in folded if not unicodedata.combining(c))


def tokens(text: str) -> Iterator[str]:
    """Yield the index tokens of the words of `text`, each of `a-z` and digits alone."""
    if text.isascii():
        yield from (f"w{word[:MAX_WORD]}" for word in _WORD.findall(text.lower()))
        return
    # Split into words before folding: a folded trade mark sign would be joined to the word before it.
    for written in _WRITTEN_WORD.findall(text):
        yield from (_coded(word[:MAX_WORD]) for word in _WORD.findall(fold(written)))


def _coded(word: str) -> str:
    # The first letter distinguishes encoded from plain words, and hides numbers from tokenizers that parse them.
    return f"w{word}" if word.isascii() else f"x{word.encode('utf-8', 'replace').hex()}"


def index_text(strings: Iterable[str]) -> str:
    """Return the tokens of all strings in order, separated by spaces, at most `MAX_INDEX` characters."""
    found: list[str] = []
    length = 0
    for string in strings:
        for token in tokens(string):
            length += len(token) + 1
            if length > MAX_INDEX:
                return " ".join(found)
            found.append(token)
    return " ".join(found)


def snippet(strings: Iterable[str], wanted: frozenset[str]) -> str:
    """Return a line of text around the first word whose token is in `wanted`, with such words in brackets.

    Without such a word, it is the beginning of the text. White space is collapsed; an ellipsis marks omitted text.
    """
    first = ""
    for string in strings:
        line = " ".join(string.split())
        first = first or line
        for match in _WRITTEN_WORD.finditer(line):
            if not wanted.isdisjoint(tokens(match.group())):
                return _truncate(line, match.start(), wanted)
    return _truncate(first, 0, frozenset())


def _truncate(line: str, at: int, wanted: frozenset[str]) -> str:
    start = max(0, at - _LEAD)
    if start:
        blank = line.find(" ", start, at)
        start = blank + 1 if blank >= 0 else start
    head = "…" if start else ""
    body = _marked(line[start : start + MAX_SNIPPET], wanted)
    whole = start + MAX_SNIPPET >= len(line)
    if whole and len(head) + len(body) <= MAX_SNIPPET:
        return head + body
    return _shortened(head + body)


def _marked(text: str, wanted: frozenset[str]) -> str:
    if not wanted:
        return text
    return _WRITTEN_WORD.sub(lambda m: m.group() if wanted.isdisjoint(tokens(m.group())) else f"[{m.group()}]", text)


def _shortened(text: str) -> str:
    shown = text[: MAX_SNIPPET - 2]
    blank = shown.rfind(" ")
    if blank > MAX_SNIPPET // 2:
        shown = shown[:blank]
    if shown.rfind("[") > shown.rfind("]"):
        shown += "]"  # the matched word is longer than the snippet
    return shown + "…"
