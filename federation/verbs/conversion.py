"""Conversion of rows and instants between the provider's values and wire messages."""

from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from federation.clock import MICROSECONDS
from federation.resources.provider import Position, Row, SearchHit
from federation.v1 import federation_pb2 as pb
from federation.wire.timestamps import fill_timestamp

NANOSECONDS: Final = 1_000
"""Nanoseconds in a microsecond."""
MIN_SECONDS: Final = -62_135_596_800
MAX_SECONDS: Final = 253_402_300_799
"""The years 1 to 9999, the range of a `google.protobuf.Timestamp`."""
MESSAGE_OVERHEAD: Final = 128
"""An upper bound of the bytes of a row's or hit's tags, lengths and instants."""


def fill_row(message: pb.Row, row: Row) -> None:
    """Write a row into a message."""
    message.id = row.id
    message.resource = row.resource
    message.owner = row.owner
    message.team = row.team
    message.data = row.data
    fill_timestamp(message.created_at, row.created_at_us)
    fill_timestamp(message.updated_at, row.updated_at_us)


def add_row(response: pb.ListResponse, row: Row) -> pb.Row:
    """Append a row to an answer, and return its message."""
    message = response.rows.add()
    fill_row(message, row)
    return message


def add_hit(response: pb.SearchResponse, hit: SearchHit) -> pb.SearchHit:
    """Append a hit to an answer, and return its message."""
    message = response.hits.add(score=hit.score, snippet=hit.snippet)
    fill_row(message.row, hit.row)
    return message


def size_bound(item: Row | SearchHit) -> int:
    """Return an upper bound of the item's message in bytes, without encoding: UTF-8 takes at most 4 per character."""
    row, extra = (item.row, len(item.snippet)) if isinstance(item, SearchHit) else (item, 0)
    text = len(row.data) + len(row.id) + len(row.resource) + len(row.owner) + len(row.team) + extra
    return 4 * text + MESSAGE_OVERHEAD


def position_of(created_at: Timestamp, row_id: str) -> Position:
    """Return the position of a row; raise `ValueError` for an instant that no row can have."""
    seconds, nanos = created_at.seconds, created_at.nanos
    if not (MIN_SECONDS <= seconds <= MAX_SECONDS and 0 <= nanos < NANOSECONDS * MICROSECONDS):
        raise ValueError("is not an instant")
    micros, rest = divmod(nanos, NANOSECONDS)
    if rest:
        raise ValueError("is finer than a microsecond")
    return Position(seconds * MICROSECONDS + micros, row_id)
