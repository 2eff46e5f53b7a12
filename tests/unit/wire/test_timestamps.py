"""Protobuf timestamps and Unix microseconds."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from federation.wire.timestamps import fill_timestamp, micros_of, optional_timestamp, timestamp


@pytest.mark.parametrize("micros", [0, 1, 1_700_000_000_123_456, -1, -1_000_001])
def test_microseconds_come_back(micros: int) -> None:
    """Also before 1970 the nanoseconds are those of a valid timestamp, from 0 up."""
    message, filled = timestamp(micros), Timestamp()
    fill_timestamp(filled, micros)

    assert micros_of(message) == micros
    assert 0 <= message.nanos < 1_000_000_000
    assert filled == message


def test_an_absent_instant_is_no_message() -> None:
    """`None` leaves a field absent; finer nanoseconds are rounded down."""
    assert optional_timestamp(None) is None
    assert optional_timestamp(5) == timestamp(5)
    assert micros_of(Timestamp(seconds=1, nanos=1_999)) == 1_000_001
