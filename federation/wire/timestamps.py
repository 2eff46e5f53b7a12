"""Conversions between protobuf timestamps and Unix microseconds, in which this package keeps instants."""

from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from federation.clock import MICROSECONDS

_NANOSECONDS: Final = 1_000
"""Nanoseconds in a microsecond."""


def timestamp(micros: int) -> Timestamp:
    """Return an instant as a message."""
    seconds, rest = divmod(micros, MICROSECONDS)
    return Timestamp(seconds=seconds, nanos=rest * _NANOSECONDS)


def optional_timestamp(micros: int | None) -> Timestamp | None:
    """Return an instant as a message; `None` leaves a field absent."""
    return None if micros is None else timestamp(micros)


def fill_timestamp(message: Timestamp, micros: int) -> None:
    """Set a message that is part of another message; quicker than a copy."""
    message.seconds, rest = divmod(micros, MICROSECONDS)
    message.nanos = rest * _NANOSECONDS


def micros_of(message: Timestamp) -> int:
    """Return the microseconds of a message, with nanoseconds rounded down."""
    return message.seconds * MICROSECONDS + message.nanos // _NANOSECONDS
