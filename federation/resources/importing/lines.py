"""Strict parsing of one import line, a JSON object with a `kind`. Pure."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from federation.clock import to_micros
from federation.errors import InputError
from federation.resources.batch import Member, NewRow, check_name
from federation.resources.documents import Document, decode
from federation.sanitize import escaped
from federation.suggest import hint_or_known

_FIELDS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "user": (("id",), ()),
    "team": (("id",), ()),
    "member": (("user", "team"), ()),
    "row": (("resource", "id", "owner", "data"), ("team", "created_at", "updated_at")),
}
"""The required and the optional fields of each kind."""
_INSTANT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)\Z", re.ASCII)


class Name(NamedTuple):
    """A user or team; `kind` says which."""

    kind: str
    id: str


Entry = Name | Member | NewRow


def read_line(text: str) -> Entry:
    """Return the entry of a line. Raises `InputError` that names the field."""
    document = decode(text, "json")
    if not isinstance(document, dict):
        raise InputError("json", 'must be a JSON object, such as {"kind":"user","id":"ada"}')
    kind = document.pop("kind", None)
    if not isinstance(kind, str):
        raise InputError("kind", "is missing" if kind is None else "must be a string")
    if kind not in _FIELDS:
        raise InputError("kind", f"unknown kind {kind[:64]!r}; {hint_or_known(kind, tuple(_FIELDS))}")
    required, optional = _FIELDS[kind]
    for name in document:
        if name not in required and name not in optional:
            raise InputError(escaped(name), f"unknown field of a {kind}; {hint_or_known(name, (*required, *optional))}")
    for name in required:
        if name not in document:
            raise InputError(name, "is missing")
    return _entry(kind, document)


def _entry(kind: str, document: dict[str, Any]) -> Entry:
    data = document.pop("data", None)
    for name, value in document.items():
        if not isinstance(value, str):
            raise InputError(name, "must be a string")
    match kind:
        case "user" | "team":
            return Name(kind, check_name(document["id"], "id"))
        case "member":
            return Member(document["user"], document["team"])
    return NewRow(
        resource=document["resource"],
        id=document["id"],
        owner=document["owner"],
        team=document.get("team", ""),
        created_at_us=_instant(document, "created_at"),
        updated_at_us=_instant(document, "updated_at"),
        data=Document.of(data),
    )


def _instant(document: dict[str, Any], name: str) -> int | None:
    text = document.get(name)
    if text is None:
        return None
    try:
        return to_micros(datetime.fromisoformat(text if _INSTANT.match(text) else ""))
    except (ValueError, OverflowError):
        raise InputError(name, "must be a timestamp with a time zone, such as 2026-10-05T09:30:00Z") from None
