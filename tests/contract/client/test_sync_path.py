"""The sync path against a servicer of pytest-grpc: an insecure channel of the plugin below the chain.

The plugin makes server, stub and channel; the chain is put on its channel by the standard interceptors, so the whole
sync path runs without certificates, at the contract of the generated servicer.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.client.runtime import ClientRuntime
from federation.client.sync.interceptors import sync_interceptors
from federation.errors import Reason, Refusal
from federation.store.peers import PeerRecord
from federation.v1 import federation_pb2 as pb
from federation.v1.federation_pb2_grpc import (
    FederationServiceServicer,
    FederationServiceStub,
    add_FederationServiceServicer_to_server,
)
from federation.wire.metadata import CACHED, LEASE_MS, SOURCE
from federation.wire.status import error_detail_of, refusal_status
from tests.support.federations import shared_runtime
from tests.support.network_faults import closed_port

LIST = pb.ListRequest(resource="tasks")


class Servicer(FederationServiceServicer):
    """A small gateway: one task, a lease, and a resource out of scope."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def List(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append(request.resource)
        if request.resource != "tasks":
            code, details, trailing = refusal_status(Refusal(Reason.SCOPE_VIOLATION, "not in the scope"))
            context.set_trailing_metadata(trailing)
            context.abort(code, details)
        context.set_trailing_metadata(((LEASE_MS, "30000"),))
        return pb.ListResponse(rows=[pb.Row(id="t1", resource="tasks")])

    def Get(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise ValueError("a bug of the servicer")

    def Search(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append(request.query)
        return pb.SearchResponse()

    def Capabilities(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.CapabilitiesResponse(gateway="work.example")

    def Watch(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802
        yield pb.WatchResponse(event_id=1, armed=pb.WatchArmed())


@pytest.fixture(scope="module")
def grpc_addr() -> str:
    """The address of the plugin's server; its own way to find a port leaves a socket open."""
    return f"127.0.0.1:{closed_port()}"


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Any:
    """The function that the plugin calls to register the servicer."""
    return add_FederationServiceServicer_to_server


@pytest.fixture(scope="module")
def grpc_servicer() -> Servicer:
    """The servicer that the plugin serves."""
    return Servicer()


@pytest.fixture(scope="module")
def grpc_stub_cls() -> Any:
    """The stub that the plugin makes over its bare channel."""
    return FederationServiceStub


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[ClientRuntime]:
    """A gateway with one peer, which is dialled by nobody."""
    words = dict.fromkeys(("gateway", "endpoint", "grant_id", "subject"), "work.example")
    pems = dict.fromkeys(("certificate_pem", "key_pem", "trust_bundle"), "")
    record = PeerRecord(id="p", name="work.example", user="ada", created_at_us=0, **words, **pems)
    with shared_runtime(tmp_path, record) as runtime:
        yield runtime


@pytest.fixture
def stub(runtime: ClientRuntime, grpc_channel: Any, grpc_servicer: Servicer) -> Any:
    """The generated stub over the plugin's channel with the chain on it."""
    grpc_servicer.asked.clear()
    peer = runtime.peers.get("work.example")
    interceptors = sync_interceptors(peer, clock=runtime.clock, deadline_s=2.0, owner=runtime)
    return FederationServiceStub(grpc.intercept_channel(grpc_channel, *interceptors))


def test_bare_stub_and_chain_give_the_same_message(stub: Any, grpc_stub: Any) -> None:
    """The chain changes no answer."""
    assert stub.List(LIST) == grpc_stub.List(LIST)
    assert stub.Capabilities(pb.CapabilitiesRequest()).gateway == "work.example"


def test_second_list_is_a_hit(stub: Any, grpc_servicer: Servicer) -> None:
    """The servicer receives one of two lists, and both of two searches."""
    first, second = stub.List.with_call(LIST)[1], stub.List.with_call(LIST)[1]
    stub.Search(pb.SearchRequest(query="x"))
    stub.Search(pb.SearchRequest(query="x"))

    assert [dict(call.trailing_metadata())[CACHED] for call in (first, second)] == ["false", "true"]
    assert dict(second.trailing_metadata())[SOURCE] == "federated:work.example"
    assert grpc_servicer.asked == ["tasks", "x", "x"]


def test_refusal_of_the_servicer_keeps_its_reason(stub: Any) -> None:
    """A rich error passes through the chain, by call and by future."""
    for call in (stub.List, lambda request: stub.List.future(request).result()):
        with pytest.raises(grpc.RpcError) as refused:
            call(pb.ListRequest(resource="secrets"))
        assert error_detail_of(refused.value).reason == Reason.SCOPE_VIOLATION


def test_bug_of_the_servicer_is_unknown(stub: Any) -> None:
    """A servicer that raises is UNKNOWN, tagged, and is not cached."""
    for _ in range(2):
        with pytest.raises(grpc.RpcError) as broken:
            stub.Get(pb.GetRequest(resource="tasks", id="t1"))
        assert broken.value.code() is grpc.StatusCode.UNKNOWN
        assert dict(broken.value.trailing_metadata())[SOURCE] == "federated:work.example"


def test_other_services_pass_untouched(runtime: ClientRuntime, grpc_channel: Any) -> None:
    """A method of another service on the same channel passes unchanged, and is not tagged."""
    peer = runtime.peers.get("work.example")
    channel = grpc.intercept_channel(
        grpc_channel, *sync_interceptors(peer, clock=runtime.clock, deadline_s=2.0, owner=runtime)
    )
    other: Any = channel.unary_unary("/other.Service/Method")
    with pytest.raises(grpc.RpcError) as unknown:
        other(b"")
    assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert SOURCE not in dict(unknown.value.trailing_metadata() or ())
    stream: Any = channel.stream_stream("/other.Service/Stream")
    with pytest.raises(grpc.RpcError) as unknown_stream:
        next(stream(iter(())))
    assert unknown_stream.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert SOURCE not in dict(unknown_stream.value.trailing_metadata() or ())


def test_fault_inside_the_given_channel_is_raised_as_it_is(runtime: ClientRuntime, grpc_channel: Any) -> None:
    """An exception of another interceptor of the channel passes through, and every permit is returned."""

    class Broken(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            raise ValueError("broken")

    peer = runtime.peers.get("work.example")
    ours = sync_interceptors(peer, clock=runtime.clock, deadline_s=2.0, owner=runtime)
    stub: Any = FederationServiceStub(grpc.intercept_channel(grpc_channel, *ours, Broken()))
    for call in (stub.List, stub.Search, lambda request: stub.Search.future(request).result()):
        with pytest.raises(ValueError, match="broken"):
            call(LIST if call == stub.List else pb.SearchRequest(query="x"))
    assert not peer.runners
    assert peer.cache.stats().flights == 0
