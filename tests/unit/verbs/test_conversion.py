import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from federation.clock import from_micros
from federation.resources.provider import Position, Row, SearchHit
from federation.v1 import federation_pb2 as pb
from federation.verbs.conversion import fill_hit, fill_row, position_of, size_bound

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
INSTANTS = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999)


@given(TEXT, TEXT, TEXT, TEXT, INSTANTS, INSTANTS)
def test_a_row_arrives_as_it_left(row_id: str, owner: str, team: str, data: str, created: int, updated: int) -> None:
    """Every field and both instants survive, before 1970 as well, and the size bound holds."""
    row = Row("tasks", row_id, owner, team, created, updated, data)

    message = pb.Row()
    fill_row(message, row)

    assert (message.id, message.resource, message.owner, message.team, message.data) == (
        row_id,
        "tasks",
        owner,
        team,
        data,
    )
    assert position_of(message.created_at, message.id) == row.position
    assert position_of(message.updated_at, "") == Position(updated, "")
    assert message.ByteSize() <= size_bound(row)


def test_an_instant_is_the_one_that_protobuf_reads() -> None:
    """Microseconds become the same instant that protobuf's own conversion gives."""
    row = Row("tasks", "t", "ada", "", 1_750_000_000_123_456, -1, "{}")

    message = pb.Row()
    fill_row(message, row)

    assert message.created_at.ToMicroseconds() == 1_750_000_000_123_456
    assert message.updated_at.ToDatetime(from_micros(0).tzinfo) == from_micros(-1)


def test_a_hit_carries_score_and_snippet() -> None:
    """Row, score and snippet arrive, and the size bound holds."""
    hit = SearchHit(Row("tasks", "t", "ada", "", 0, 0, "{}"), 0.5, "the [report]")

    message = pb.SearchHit()
    fill_hit(message, hit)

    assert (message.row.id, message.score, message.snippet) == ("t", 0.5, "the [report]")
    assert message.ByteSize() <= size_bound(hit)


@pytest.mark.parametrize(
    "instant",
    [
        Timestamp(seconds=253_402_300_800),
        Timestamp(seconds=-62_135_596_801),
        Timestamp(nanos=-1_000),
        Timestamp(nanos=1_000_000_000),
        Timestamp(nanos=1),
    ],
)
def test_an_instant_that_no_row_can_have_is_a_fault(instant: Timestamp) -> None:
    """Out of range, denormalised, and finer than a microsecond are errors of the caller."""
    with pytest.raises(ValueError, match="is"):
        position_of(instant, "t")
