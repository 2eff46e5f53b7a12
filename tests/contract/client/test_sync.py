"""Sync calls through the chain, over real mutual TLS: through our channel and through the standard interceptors."""

import gc
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.client.runtime import ClientRuntime
from federation.config import ClientConfig
from federation.errors import Reason, Refusal
from federation.v1 import federation_pb2 as pb
from federation.wire.metadata import CACHED, SOURCE
from federation.wire.status import error_detail_of
from tests.support.federations import client_threads, in_threads, shared_runtime, sync_channel_of, sync_stub
from tests.support.scripted import Reply, ScriptedPeer

SEARCH = pb.SearchRequest(query="report")
LIST = pb.ListRequest(resource="tasks")
CALLER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from federation.store.peers import PeerRecord
    from tests.support.federations import shared_runtime, sync_channel_of
    from federation.v1 import federation_pb2 as pb
    from federation.v1.federation_pb2_grpc import FederationServiceStub

    record = PeerRecord(**eval(sys.stdin.read()))
    with shared_runtime(Path(sys.argv[1]), record) as runtime:
        stub = FederationServiceStub(sync_channel_of(runtime))
        request = pb.ListRequest(resource="tasks")
        print("calling", flush=True)
        try:
            if sys.argv[2] == "future":
                stub.List.future(request, timeout=60).result()
            else:
                stub.List(request, timeout=60)
        except KeyboardInterrupt:
            peer = runtime.peers.get("work.example")
            print("interrupted flights", peer.cache.stats().flights, "runs", len(peer.runners))
    """
)


@pytest.fixture
def runtime(tmp_path: Path, scripted: ScriptedPeer) -> Iterator[ClientRuntime]:
    """The runtime of a gateway that knows the scripted peer."""
    with shared_runtime(tmp_path, scripted.record()) as runtime:
        yield runtime


def test_plain_call_with_call_and_future(form: str, runtime: ClientRuntime, scripted: ScriptedPeer) -> None:
    """The three ways to call return the same message; the first is live and the later ones are tagged hits."""
    with sync_stub(form, runtime, scripted) as stub:
        plain = stub.List(LIST)
        message, call = stub.List.with_call(LIST)
        future = stub.List.future(LIST)

        assert plain == message == future.result()
        for hit in (call, future):
            assert dict(hit.trailing_metadata()) == {CACHED: "true", SOURCE: "federated:work.example"}
            assert hit.code() is grpc.StatusCode.OK
        assert scripted.service.calls() == 1


def test_live_answer_is_tagged(form: str, runtime: ClientRuntime, scripted: ScriptedPeer) -> None:
    """A live answer has `_cached: false`, and the peer's forged tags are stripped."""
    scripted.service.script("search", Reply(trailing=((CACHED, "true"), ("kept", "yes")), initial=((SOURCE, "local"),)))
    with sync_stub(form, runtime, scripted) as stub:
        _, call = stub.Search.with_call(SEARCH)

        trailing = [pair for pair in call.trailing_metadata() if pair[0] in {CACHED, SOURCE, "kept"}]
        assert trailing == [("kept", "yes"), (SOURCE, "federated:work.example"), (CACHED, "false")]
        assert SOURCE not in dict(call.initial_metadata())


def test_future_lives_and_ends(form: str, runtime: ClientRuntime, scripted: ScriptedPeer) -> None:
    """A future runs, calls back once with itself, and returns its result."""
    gate = threading.Event()
    scripted.service.script("search", Reply(gate=gate))
    called: list[object] = []
    with sync_stub(form, runtime, scripted) as stub:
        future = stub.Search.future(SEARCH)
        future.add_done_callback(called.append)
        assert future.running()
        assert not future.done()
        assert future.is_active()
        assert 0 < future.time_remaining() <= 2
        with pytest.raises(grpc.FutureTimeoutError):
            future.result(timeout=0.02)
        gate.set()

        assert future.result().hits[0].row.id == "t1"
        assert future.exception() is None
        assert future.traceback() is None
        assert not future.running()
        assert called == [future]
        future.add_done_callback(called.append)
        assert called == [future, future]


def test_future_cancel(form: str, runtime: ClientRuntime, scripted: ScriptedPeer) -> None:
    """A cancelled future reports it, and the peer sees the cancellation."""
    scripted.service.script("search", Reply(gate=threading.Event()))
    with sync_stub(form, runtime, scripted) as stub:
        future = stub.Search.future(SEARCH, timeout=30)
        scripted.service.wait(lambda service: service.active == 1)

        assert future.cancel()
        assert not future.cancel()
        assert future.cancelled()
        assert future.code() is grpc.StatusCode.CANCELLED
        with pytest.raises(grpc.FutureCancelledError):
            future.result()
        scripted.service.wait(lambda service: service.cancelled == 1)


def test_dropped_future_is_cancelled(form: str, runtime: ClientRuntime, scripted: ScriptedPeer) -> None:
    """A future that is garbage-collected is cancelled at the peer."""
    scripted.service.script("search", Reply(gate=threading.Event()))
    with sync_stub(form, runtime, scripted) as stub:
        future = stub.Search.future(SEARCH, timeout=30)
        scripted.service.wait(lambda service: service.active == 1)
        del future
        gc.collect()
        scripted.service.wait(lambda service: service.cancelled == 1)


@pytest.mark.parametrize("way", ["plain", "with_call", "future"])
def test_error_is_rpc_error_call_and_future(
    way: str, form: str, runtime: ClientRuntime, scripted: ScriptedPeer
) -> None:
    """A failed call raises an RpcError that is also the call, with rich detail and our tags."""
    scripted.service.script("search", Reply(refusal=Refusal(Reason.SCOPE_VIOLATION, "not in the scope")))
    with sync_stub(form, runtime, scripted) as stub, pytest.raises(grpc.RpcError) as failed:
        _called(stub, way)
    error = failed.value
    assert isinstance(error, grpc.Call)
    assert (error.code(), error.details()) == (grpc.StatusCode.PERMISSION_DENIED, "not in the scope")
    assert error_detail_of(error).reason == Reason.SCOPE_VIOLATION
    assert dict(error.trailing_metadata())[SOURCE] == "federated:work.example"
    assert "not in the scope" in str(error)


@pytest.mark.parametrize("way", ["plain", "with_call", "future"])
def test_deadline(way: str, form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A timeout ends the call in time, reaches the peer, and is PEER_TIMEOUT of this gateway."""
    scripted.service.script("search", Reply(gate=threading.Event()))
    client = ClientConfig(deadline_s=60.0, watch=False)
    with (
        shared_runtime(tmp_path, scripted.record(), client=client) as runtime,
        sync_stub(form, runtime, scripted) as stub,
    ):
        stub.List(LIST)  # so that the search needs no handshake, and arrives within its deadline
        begun = time.monotonic()
        with pytest.raises(grpc.RpcError) as failed:
            _called(stub, way, timeout=0.5)

        assert 0.45 < time.monotonic() - begun < 1.0
        detail = error_detail_of(failed.value)
        assert (detail.reason, detail.local) == (Reason.PEER_TIMEOUT, True)
        _, seen = scripted.service.seen
        assert seen.remaining_s is not None
        assert seen.remaining_s < 0.6  # gRPC rounds it up for the wire
        with pytest.raises(grpc.RpcError):
            _called(stub, way, timeout=0)
        assert scripted.service.calls() == 2


@pytest.mark.parametrize("way", ["plain", "with_call", "future"])
def test_metadata_that_cannot_be_sent(way: str, form: str, runtime: ClientRuntime, scripted: ScriptedPeer) -> None:
    """Bad metadata is INVALID_REQUEST at once."""
    with sync_stub(form, runtime, scripted) as stub, pytest.raises(grpc.RpcError) as failed:
        _called(stub, way, metadata=(("a", "two\nlines"),))
    assert error_detail_of(failed.value).reason == Reason.INVALID_REQUEST
    assert scripted.service.calls() == 0


def test_unreachable_peer(form: str, runtime: ClientRuntime, scripted: ScriptedPeer) -> None:
    """A peer that is down is PEER_UNREACHABLE, made here, for plain calls and futures."""
    with sync_stub(form, runtime, scripted) as stub:
        scripted.stop()
        for way in ("plain", "future"):
            with pytest.raises(grpc.RpcError) as failed:
                _called(stub, way)
            detail = error_detail_of(failed.value)
            assert (failed.value.code(), detail.reason, detail.local) == (
                grpc.StatusCode.UNAVAILABLE,
                Reason.PEER_UNREACHABLE,
                True,
            )


def test_eight_threads_make_one_call(form: str, runtime: ClientRuntime, scripted: ScriptedPeer) -> None:
    """The same call from eight threads at once reaches the peer once, and each gets a message of its own."""
    scripted.service.script("list", Reply(delay_s=0.2))
    with sync_stub(form, runtime, scripted) as stub:
        replies = in_threads(8, lambda _: stub.List(LIST))

        assert len({id(reply) for reply in replies}) == 8
        assert all(reply.rows[0].id == "t1" for reply in replies)
        assert scripted.service.calls() == 1


def test_follower_and_leader_keep_their_own_deadlines(
    form: str, runtime: ClientRuntime, scripted: ScriptedPeer
) -> None:
    """A follower with less time than its leader fails at its own deadline, and the leader gets the answer."""
    gate = threading.Event()
    scripted.service.script("list", Reply(gate=gate))
    with sync_stub(form, runtime, scripted) as stub:

        def call(index: int) -> Any:
            if not index:
                return stub.List(LIST, timeout=60)
            scripted.service.wait(lambda service: service.active == 1)
            with pytest.raises(grpc.RpcError) as late:
                stub.List(LIST, timeout=0.15)
            gate.set()  # the leader has waited until now
            return late.value

        leader, follower = in_threads(2, call)
        assert leader.rows
        assert error_detail_of(follower).reason == Reason.PEER_TIMEOUT
        assert scripted.service.calls() == 1


def test_follower_outlives_its_leader(form: str, runtime: ClientRuntime, scripted: ScriptedPeer) -> None:
    """When the leader's budget ends the shared call, a follower with time left calls again and is answered."""
    scripted.service.script("list", Reply(gate=threading.Event()), Reply())
    with sync_stub(form, runtime, scripted) as stub:
        stub.Search(SEARCH)  # so that the leader's call needs no handshake, and arrives within its deadline

        def call(index: int) -> Any:
            if index:
                scripted.service.wait(lambda service: service.active >= 1)
            return stub.List(LIST, timeout=(0.5, 60)[index])

        leader, follower = in_threads(2, call)
        assert error_detail_of(leader).reason == Reason.PEER_TIMEOUT
        assert follower.rows
        assert scripted.service.calls("list") == 2


def test_close_ends_futures_and_refuses_calls(runtime: ClientRuntime, scripted: ScriptedPeer) -> None:
    """Closing a channel ends its futures with UNAVAILABLE; later calls are refused the same way."""
    scripted.service.script("search", Reply(gate=threading.Event()))
    with sync_stub("channel", runtime, scripted) as stub:
        future = stub.Search.future(SEARCH, timeout=30)
        scripted.service.wait(lambda service: service.active == 1)
    assert future.code() is grpc.StatusCode.UNAVAILABLE
    scripted.service.wait(lambda service: service.cancelled == 1)
    with pytest.raises(grpc.RpcError) as late:
        stub.Search(SEARCH)
    assert late.value.code() is grpc.StatusCode.UNAVAILABLE


def test_closing_the_runtime_ends_blocked_calls(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A thread that is blocked on the wire when everything is closed gets UNAVAILABLE, not a hang."""
    scripted.service.script("search", Reply(gate=threading.Event()))
    with shared_runtime(tmp_path, scripted.record()) as runtime, sync_stub("channel", runtime, scripted) as stub:
        results: list[Any] = []
        thread = threading.Thread(
            target=lambda: results.extend(in_threads(1, lambda _: stub.Search(SEARCH, timeout=30)))
        )
        thread.start()
        scripted.service.wait(lambda service: service.active == 1)
    thread.join(5)
    assert not thread.is_alive()
    assert results[0].code() is grpc.StatusCode.UNAVAILABLE


def test_options_and_other_methods_are_refused(runtime: ClientRuntime) -> None:
    """An option that the chain does not support is a ValueError, by name and by position."""
    with sync_channel_of(runtime) as channel:
        call: Any = channel.unary_unary("/federation.v1.FederationService/List")
        with pytest.raises(ValueError, match="wait_for_ready"):
            call(LIST, wait_for_ready=True)
        with pytest.raises(ValueError, match="wait_for_ready"):
            call.with_call(LIST, None, None, None, True)
        with pytest.raises(ValueError, match="credentials"):
            call.future(LIST, credentials=object())
        with pytest.raises(ValueError, match="Health"):
            channel.unary_unary("/grpc.health.v1.Health/Check")
        for make in (channel.unary_stream, channel.stream_unary):
            with pytest.raises(ValueError, match="List"):
                make("/federation.v1.FederationService/List")


def test_connectivity_is_reported(runtime: ClientRuntime) -> None:
    """`grpc.channel_ready_future` works on our channel."""
    with sync_channel_of(runtime) as channel:
        ready = grpc.channel_ready_future(channel)
        ready.result(timeout=5)
        ready.cancel()


def test_thousand_calls_leave_nothing(runtime: ClientRuntime, scripted: ScriptedPeer) -> None:
    """A thousand calls in a row leave no runner and no thread."""
    with sync_stub("channel", runtime, scripted) as stub:
        stub.Search(SEARCH)
        stub.Search.future(SEARCH).result()
        threads = client_threads()
        for index in range(1_000):
            stub.Search(SEARCH) if index % 2 else stub.Search.future(SEARCH).result()
        assert not runtime.peers.get("work.example").runners
        assert client_threads() <= threads + 1  # gRPC's own spinning thread comes and goes


def test_interrupted_follower_leaves_the_others(runtime: ClientRuntime, scripted: ScriptedPeer) -> None:
    """An interrupt in a thread that waits for a shared call ends that wait alone, and leaks nothing."""
    gate = threading.Event()
    scripted.service.script("list", Reply(gate=gate))
    peer = runtime.peers.get("work.example")
    with sync_stub("channel", runtime, scripted) as stub:
        leader = stub.List.future(LIST, timeout=30)
        scripted.service.wait(lambda service: service.active == 1)
        before = set(peer.runners)
        main = threading.main_thread().ident
        assert main is not None
        with pytest.raises(KeyboardInterrupt):
            threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT)).start()
            stub.List(LIST, timeout=30)
        assert peer.runners == before
        gate.set()
        assert leader.result().rows


@pytest.mark.parametrize("way", ["plain", "future"])
def test_ctrl_c(way: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A real SIGINT ends a blocked call at once with KeyboardInterrupt; the peer sees it, nothing leaks."""
    scripted.service.script("list", Reply(gate=threading.Event()))
    process = subprocess.Popen(
        [sys.executable, "-c", CALLER, str(tmp_path), way],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdin is not None
    process.stdin.write(repr(asdict(scripted.record())))
    process.stdin.close()
    process.stdin = None
    try:
        scripted.service.wait(lambda service: service.active == 1, timeout=20)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=10)[0]
        assert time.monotonic() - begun < 5
    finally:
        process.kill()
        process.wait()
    assert "interrupted" in output
    scripted.service.wait(lambda service: service.cancelled == 1)
    if way == "plain":
        assert "flights 0 runs 0" in output


def _called(stub: Any, way: str, **options: Any) -> Any:
    if way == "plain":
        return stub.Search(SEARCH, **options)
    if way == "with_call":
        return stub.Search.with_call(SEARCH, **options)
    return stub.Search.future(SEARCH, **options).result()
