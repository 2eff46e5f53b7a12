"""The data of a row: one JSON object, checked so that both databases and all readers can process it. Pure."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

from federation.errors import InputError
from federation.resources.fulltext import index_text
from federation.sanitize import escaped

MAX_DEPTH: Final = 64
"""Maximum nesting levels of data, the outer object included."""
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Document:
    """Checked data: `text` is the JSON object as stored and returned, `terms` the text for the full-text index.

    Create it with `parse` or `of`.
    """

    text: str
    terms: str

    @classmethod
    def parse(cls, text: str) -> "Document":
        """Check the JSON text of one object and store it unchanged. Raises `InputError` that names the field."""
        return cls(text, index_text(_validate(decode(text, "data"))))

    @classmethod
    def of(cls, value: object) -> "Document":
        """Check a value returned by `decode` and serialize it compactly, with numbers as they were written.

        Raises `InputError` that names the field.
        """
        terms = index_text(_validate(value))
        return cls(orjson.dumps(value).decode(), terms)


def decode(text: str, name: str) -> Any:
    """Decode JSON strictly, with numbers as their original text.

    Raises `InputError` that names the field: invalid JSON, a duplicate key, NaN or Infinity, nesting too deep.
    """
    try:
        return _DECODER.decode(text)
    except _DuplicateKeyError as e:
        raise InputError(name, f"the key '{escaped(e.key)}' appears twice in one object") from None
    except json.JSONDecodeError as e:
        raise InputError(name, f"not JSON: {e.msg} at column {e.colno}") from None
    except RecursionError:
        raise InputError(name, f"nests deeper than {MAX_DEPTH} levels") from None


def strings(value: object) -> Iterator[str]:
    """Yield every string value of a decoded document in document order, nested values included, keys excluded."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def is_storable(text: str) -> bool:
    """Tell whether both databases can store `text`: PostgreSQL allows no NUL, UTF-8 no lone surrogate."""
    return _UNSTORABLE.search(text) is None


class _DuplicateKeyError(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateKeyError(key)
            seen.add(key)
    return result


def _constant(name: str) -> Any:
    raise json.JSONDecodeError(f"{name} is no JSON number", name, 0)


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique,
    parse_int=orjson.Fragment,
    parse_float=orjson.Fragment,
    parse_constant=_constant,
)


def _validate(value: object) -> list[str]:
    if not isinstance(value, dict):
        raise InputError("data", "must be a JSON object")
    found: list[str] = []
    _check(value, "data", 1, found)
    return found


def _check(value: object, name: str, depth: int, found: list[str]) -> None:
    if isinstance(value, str):
        if not is_storable(value):
            raise InputError(name, "contains a NUL character or half a surrogate pair, which cannot be stored")
        found.append(value)
        return
    if not isinstance(value, dict | list):
        return
    if depth > MAX_DEPTH:
        raise InputError("data", f"nests deeper than {MAX_DEPTH} levels")
    if isinstance(value, list):
        for item in value:
            _check(item, name, depth + 1, found)
        return
    for key, item in value.items():
        if not is_storable(key):
            raise InputError(name, "has a key with a NUL character or half a surrogate pair, which cannot be stored")
        _check(item, f"{name}.{escaped(key)}" if depth == 1 else name, depth + 1, found)
