"""Words as the full-text search sees them: folding, the text that is indexed, and snippets. Pure.

Words are folded and coded here, into plain ASCII tokens, so that the databases' own tokenizers have nothing left to
interpret: what matches does not depend on the database, its version or its locale.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final

__all__ = ["MAX_SNIPPET", "fold", "index_text", "snippet", "tokens"]

MAX_WORD: Final = 64
"""Characters of a folded word that count."""
MAX_INDEX: Final = 256 * 1024
"""Characters of index text a row; words behind them are not found. PostgreSQL's `tsvector` ends at 1 MiB."""
MAX_SNIPPET: Final = 240
"""Characters of a snippet, brackets and dots included."""
_LEAD: Final = 60
"""Characters of a snippet in front of the first match."""
# Vowel signs of Indic and South-East Asian scripts are no letters to `re`, but parts of words all the same.
_SIGNS: Final = "\u0900-\u109f\u1700-\u18af\u1900-\u1aff\u1b00-\u1cff"
_WORD: Final = re.compile(rf"(?:[^\W_]|[{_SIGNS}])+")
# Before folding, combining marks also belong to the word that they stand in.
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
    # Words are found before they are folded: a folded trade mark sign would grow onto the word in front of it.
    for written in _WRITTEN_WORD.findall(text):
        yield from (_coded(word[:MAX_WORD]) for word in _WORD.findall(fold(written)))


def _coded(word: str) -> str:
    # The leading letter keeps coded words apart from plain ones, and numbers from a tokenizer that knows numbers.
    return f"w{word}" if word.isascii() else f"x{word.encode('utf-8', 'replace').hex()}"


def index_text(strings: Iterable[str]) -> str:
    """Return the tokens of all strings, in order, parted by spaces, at most `MAX_INDEX` characters."""
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
    """Return about one line of text round the first word whose token is `wanted`, such words in brackets.

    Without any such word it is the beginning of the text. White space is single spaces, dots mark what was cut.
    """
    first = ""
    for string in strings:
        line = " ".join(string.split())
        first = first or line
        for match in _WRITTEN_WORD.finditer(line):
            if not wanted.isdisjoint(tokens(match.group())):
                return _cut(line, match.start(), wanted)
    return _cut(first, 0, frozenset())


def _cut(line: str, at: int, wanted: frozenset[str]) -> str:
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
    kept = text[: MAX_SNIPPET - 2]
    blank = kept.rfind(" ")
    if blank > MAX_SNIPPET // 2:
        kept = kept[:blank]
    if kept.rfind("[") > kept.rfind("]"):
        kept += "]"  # a matched word that is itself longer than the room
    return kept + "…"
