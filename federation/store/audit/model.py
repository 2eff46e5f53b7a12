"""Audit events, filters, pages and page tokens as values. Pure."""

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from federation import base64url
from federation.errors import InputError
from federation.wire.signed_tokens import context_of

EQUAL: Final = ("grant_id", "peer", "verb", "outcome")
_POSITION: Final = struct.Struct(">c8sqq")
_TAIL: Final = struct.Struct(">c8sq")
_POSITION_MARK, _TAIL_MARK = b"p", b"f"


class Position(NamedTuple):
    """Position of an event in time order; events of one instant are ordered by id."""

    at_us: int
    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One call or operator action, or `count` similar ones. Never contains a request or answer body.

    `at_us` is in Unix microseconds. `grant_id` is `None` for a call refused before its grant was known; `source` (an
    address without port) and `reason` describe such a call. `query_hash` is SHA-256 in hexadecimal. `resource`, `peer`
    and `subject` are `*` if the `count` calls differ in them.
    """

    at_us: int
    verb: str
    outcome: str
    grant_id: str | None = None
    peer: str = ""
    subject: str = ""
    resource: str = ""
    query_hash: str = ""
    reason: str = ""
    bytes_out: int = 0
    latency_ms: float = 0.0
    trace_id: str = ""
    source: str = ""
    count: int = 1
    id: int = 0
    """The row id, rising in the order of writing and never reused; 0 before the event is written."""

    @property
    def position(self) -> Position:
        """The position in time order."""
        return Position(self.at_us, self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """A filter of events: equality on each non-empty field, and `since_us <= at_us < until_us`."""

    grant_id: str = ""
    peer: str = ""
    verb: str = ""
    outcome: str = ""
    since_us: int | None = None
    until_us: int | None = None

    @property
    def equal(self) -> dict[str, str]:
        """The non-empty fields with their required values."""
        return {name: value for name in EQUAL if (value := getattr(self, name))}

    def admits(self, event: AuditEvent) -> bool:
        """Tell whether an event passes the filter."""
        if self.since_us is not None and event.at_us < self.since_us:
            return False
        if self.until_us is not None and event.at_us >= self.until_us:
            return False
        return all(getattr(event, name) == value for name, value in self.equal.items())


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Events, newest first. `next_page_token` is empty on the last page.

    A page of the history may be shorter than requested, or empty, and still have a token. `warnings` names the archive
    files that could not be read.
    """

    events: tuple[AuditEvent, ...]
    next_page_token: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TailPage:
    """Events in the order of writing, and the id of the last row examined, whether it passed the filter or not."""

    events: tuple[AuditEvent, ...]
    last_id: int


def position_token(wanted: AuditFilter, position: Position) -> str:
    """Return the token of the page after a position, bound to the fields of `wanted` except its times."""
    return base64url.encode(_POSITION.pack(_POSITION_MARK, _bound(wanted), *position))


def position_of(wanted: AuditFilter, token: str) -> Position:
    """Return the position of a token. Raises `InputError` for a token of another filter."""
    at_us, number = _read(_POSITION, _POSITION_MARK, wanted, token)
    return Position(at_us, number)


def tail_token(wanted: AuditFilter, last_id: int) -> str:
    """Return the token to continue a tail after a row."""
    return base64url.encode(_TAIL.pack(_TAIL_MARK, _bound(wanted), last_id))


def tail_position(wanted: AuditFilter, token: str) -> int | None:
    """Return the id of the last row of a tail token, or `None` for another kind of token."""
    if len(token) != len(base64url.encode(bytes(_TAIL.size))):
        return None
    return _read(_TAIL, _TAIL_MARK, wanted, token)[0]


def _bound(wanted: AuditFilter) -> bytes:
    return context_of(*(getattr(wanted, name) for name in EQUAL))[:8]


def _read(shape: struct.Struct, kind: bytes, wanted: AuditFilter, token: str) -> tuple[int, ...]:
    try:
        read_kind, bound, *numbers = shape.unpack(base64url.decode(token))
    except (ValueError, struct.error):
        raise _foreign() from None
    if (read_kind, bound) != (kind, _bound(wanted)):
        raise _foreign()
    return tuple(numbers)


def _foreign() -> InputError:
    return InputError("page_token", "is not a token of an earlier page with these filters; ask again without it")
