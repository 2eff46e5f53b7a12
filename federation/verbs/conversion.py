"""Conversion of rows and instants between the provider's values and wire messages."""

from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from federation.clock import MICROSECONDS
from federation.resources.provider import Position, Row, SearchHit
from federation.v1 import federation_pb2 as pb
from federation.wire.timestamps import fill_timestamp, micros_of

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


def fill_hit(message: pb.SearchHit, hit: SearchHit) -> None:
    """Write a hit into a message."""
    message.score, message.snippet = hit.score, hit.snippet
    fill_row(message.row, hit.row)


def size_bound(item: Row | SearchHit) -> int:
    """Return an upper bound of the item's message in bytes, without encoding: UTF-8 takes at most 4 per character."""
    row, extra = (item.row, len(item.snippet)) if isinstance(item, SearchHit) else (item, 0)
    text = len(row.data) + len(row.id) + len(row.resource) + len(row.owner) + len(row.team) + extra
    return 4 * text + MESSAGE_OVERHEAD


def position_of(created_at: Timestamp, row_id: str) -> Position:
    """Return the position of a row; raise `ValueError` for an instant that no row can have."""
    if not (MIN_SECONDS <= created_at.seconds <= MAX_SECONDS and 0 <= created_at.nanos < NANOSECONDS * MICROSECONDS):
        raise ValueError("is not an instant")
    if created_at.nanos % NANOSECONDS:
        raise ValueError("is finer than a microsecond")
    return Position(micros_of(created_at), row_id)
