from urllib.parse import quote

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import CODE_OF, Reason, Refusal
from federation.v1 import federation_pb2 as pb
from federation.wire.channel_args import CHANNEL, SERVER, ChannelOptions
from federation.wire.metadata import first, is_sendable
from federation.wire.requests import query_hash, resource_of, serialize
from federation.wire.status import STATUS_KEY, ErrorDetail, error_detail, refusal_status


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_survives_the_wire(reason: Reason) -> None:
    """Each reason has a status code, and is read back with its origin and its delay."""
    code, details, trailing = refusal_status(Refusal(reason, "no", retry_after_s=1.25), local=True)

    assert code is grpc.StatusCode[CODE_OF[reason]]
    assert details == "no"
    assert error_detail(trailing) == ErrorDetail(reason.value, local=True, retry_after_s=1.25)


def test_a_rich_error_stays_small() -> None:
    """Whatever the message and its script, what travels stays far below gRPC's metadata limit."""
    _, details, trailing = refusal_status(Refusal(Reason.INVALID_REQUEST, "\u00e9" * 100_000))

    assert len(quote(details)) + len(trailing[0][1]) < 4_300
    assert len(trailing[0][1]) < 1_200


@given(st.binary(max_size=200))
def test_whatever_a_peer_puts_into_the_status_is_read_or_ignored(value: bytes) -> None:
    """Bytes that are not a status never raise."""
    assert isinstance(error_detail(((STATUS_KEY, value),)), ErrorDetail)


def test_a_reason_of_another_domain_is_not_ours() -> None:
    """`ErrorInfo` counts only in this domain."""
    status = Status(code=7)
    status.details.add().Pack(ErrorInfo(reason="GRANT_REVOKED", domain="elsewhere"))

    assert error_detail(((STATUS_KEY, status.SerializeToString()),)) == ErrorDetail()


def test_an_unset_page_size_is_the_default_one() -> None:
    """Asking for 0 rows and for the default is one query, and the caller's message stays as it is."""
    asked = pb.ListRequest(resource="tasks")

    assert serialize(asked) == serialize(pb.ListRequest(resource="tasks", page_size=50))
    assert asked.page_size == 0


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=6), st.randoms())
def test_the_order_of_a_map_does_not_change_the_hash(where: dict[str, str], random) -> None:
    """Equal queries have equal hashes, however their maps were filled."""
    shuffled = list(where.items())
    random.shuffle(shuffled)

    one, other = (pb.ListRequest(resource="t", where=dict(items)) for items in (where.items(), shuffled))
    assert query_hash(serialize(one)) == query_hash(serialize(other))


def test_every_field_of_a_query_changes_the_hash() -> None:
    """Resource, filter, size, token, position and id each make another query."""
    after = pb.ListPosition(id="x")
    requests = [
        pb.ListRequest(resource="a"),
        pb.ListRequest(resource="b"),
        pb.ListRequest(resource="a", where={"k": "v"}),
        pb.ListRequest(resource="a", where={"k": "w"}),
        pb.ListRequest(resource="a", page_size=7),
        pb.ListRequest(resource="a", page_token="t"),
        pb.ListRequest(resource="a", after=after),
    ]
    assert len({query_hash(serialize(request)) for request in requests}) == len(requests)


def test_the_resource_of_a_request_is_told_for_every_verb() -> None:
    """One resource, several sorted ones, or none."""
    assert resource_of(pb.ListRequest(resource="tasks")) == "tasks"
    assert resource_of(pb.GetRequest(resource="notes", id="1")) == "notes"
    assert resource_of(pb.SearchRequest(resources=["tasks", "notes"])) == "notes,tasks"
    assert resource_of(pb.CapabilitiesRequest()) == ""


def test_options_are_integers_under_grpcs_own_names() -> None:
    """Options with another prefix are spelled as gRPC reads them, and wrong types are refused."""
    assert ("grpc.http2.min_ping_interval_without_data_ms", 10_000) in SERVER.to_grpc()
    assert ("grpc.so_reuseport", 0) in SERVER.to_grpc()
    for options in (SERVER.to_grpc(), CHANNEL.to_grpc("work.example")):
        assert ("grpc.http2.ping_timeout_ms", 5_000) in options
        assert ("grpc.keepalive_time_ms", 20_000) in options
    assert ("grpc.http2.max_pings_without_data", 0) in CHANNEL.to_grpc("work.example")
    assert ("grpc.http.overload_protection", 0) in SERVER.to_grpc()
    assert ("grpc.ssl_target_name_override", "work.example") in CHANNEL.to_grpc("work.example")
    with pytest.raises(TypeError, match="keepalive_time_ms"):
        ChannelOptions(keepalive_time_ms="20000").to_grpc("work.example")  # type: ignore[arg-type]


def test_metadata_values_are_checked_before_they_are_sent() -> None:
    """Only printable ASCII may be sent; the first text value of a key counts."""
    assert [is_sendable(value) for value in ("work.example", "", "a b", "a\nb", "é", "\x7f")] == [True] * 3 + [
        False
    ] * 3
    assert first((("a", b"raw"), ("a", "1"), ("a", "2")), "a") == "1"
    assert first(None, "a") is None
