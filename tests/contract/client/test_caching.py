"""The cache behind generated stubs, over real mutual TLS: what the peer receives, and what callers get."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.cache.entries import InvalidationReason
from federation.client.interceptors.caching import fail_in_flight
from federation.client.runtime import ClientRuntime
from federation.errors import Reason, Refusal
from federation.federation import Federation
from federation.v1 import federation_pb2 as pb
from federation.wire.metadata import CACHED, SOURCE
from federation.wire.status import error_detail_of
from tests.support.clock import ManualClock
from tests.support.federations import aio_stub, federation_of, shared_runtime, sync_stub
from tests.support.scripted import Reply, ScriptedPeer, eventually

LIST = pb.ListRequest(resource="tasks")
READS: dict[str, Any] = {
    "List": LIST,
    "Get": pb.GetRequest(resource="tasks", id="t1"),
}
NEVER: dict[str, Any] = {
    "Search": pb.SearchRequest(query="report"),
    "Capabilities": pb.CapabilitiesRequest(),
}


@pytest.fixture
def clock() -> ManualClock:
    """A clock that the test advances, starting now: certificates are valid by it."""
    return ManualClock(wall=time.time())


async def tagged(call: Any) -> tuple[Any, list[str], list[str]]:
    """An answer with the values of both tags."""
    message = await call
    trailing = await call.trailing_metadata()
    return message, trailing.get_all(SOURCE), trailing.get_all(CACHED)


def asked(scripted: ScriptedPeer) -> int:
    """Return how many data calls the peer received, without watches."""
    return scripted.service.calls() - scripted.service.calls("watch")


def grant_of(fed: Federation, user: str = "ada") -> Any:
    """The peer of a user, with its cache."""
    return fed.peer("work.example", user)


# -- what is kept


@pytest.mark.parametrize("verb", READS)
async def test_the_second_of_two_identical_reads_is_a_hit(
    form: str, verb: str, tmp_path: Path, scripted: ScriptedPeer
) -> None:
    """The peer receives one; the first is tagged live, the second cached, both with the source; the rows are equal."""
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        first = await tagged(getattr(stub, verb)(READS[verb]))
        second = await tagged(getattr(stub, verb)(READS[verb]))

    assert first[1:] == (["federated:work.example"], ["false"])
    assert second[1:] == (["federated:work.example"], ["true"])
    assert first[0] == second[0]
    assert asked(scripted) == 1


@pytest.mark.parametrize("verb", NEVER)
async def test_search_and_capabilities_are_never_hits(
    form: str, verb: str, tmp_path: Path, scripted: ScriptedPeer
) -> None:
    """Two identical calls are two calls at the peer, whatever lease it offers; also at the same time."""
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        for _ in range(2):
            _, source, cached = await tagged(getattr(stub, verb)(NEVER[verb]))
            assert (source, cached) == (["federated:work.example"], ["false"])
        await asyncio.gather(*(getattr(stub, verb)(NEVER[verb]) for _ in range(2)))

    assert asked(scripted) == 4


@pytest.mark.parametrize("way", ["plain", "with_call", "future"])
@pytest.mark.parametrize("verb", READS)
def test_sync_reads_are_hits_as_well(form: str, verb: str, way: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Each way to call a sync stub is a hit the second time, tagged if it returns metadata."""
    with shared_runtime(tmp_path, scripted.record()) as runtime, sync_stub(form, runtime, scripted) as stub:
        ends = [called(getattr(stub, verb), READS[verb], way) for _ in range(2)]
        (first, live), (second, hit) = ends

    assert first == second
    if way != "plain":
        assert (live[CACHED], hit[CACHED]) == ("false", "true")
        assert live[SOURCE] == hit[SOURCE] == "federated:work.example"
    assert asked(scripted) == 1


def called(multicallable: Any, request: Any, way: str) -> tuple[Any, dict[str, Any]]:
    """Call in one of the three ways; return message and trailing metadata."""
    if way == "plain":
        return multicallable(request), {}
    if way == "future":
        future = multicallable.future(request)
        return future.result(), dict(future.trailing_metadata())
    message, call = multicallable.with_call(request)
    return message, dict(call.trailing_metadata())


@pytest.mark.parametrize("verb", READS)
async def test_after_thirty_seconds_the_peer_is_called_again(
    verb: str, tmp_path: Path, scripted: ScriptedPeer, clock: ManualClock
) -> None:
    """However often the entry is hit, it expires 30 s after its request was sent, and is then fetched again."""
    async with federation_of(tmp_path, scripted.record(), clock=clock.clock) as fed:
        read = getattr(fed.stub("work.example", "ada"), verb)
        for second in range(30):
            _, _, cached = await tagged(read(READS[verb]))
            assert cached == ["true" if second else "false"]
            clock.advance(0.999)
        assert asked(scripted) == 1
        clock.advance(0.03)
        assert (await tagged(read(READS[verb])))[2] == ["false"]
        assert (await tagged(read(READS[verb])))[2] == ["true"]

    assert asked(scripted) == 2


async def test_a_suspend_ends_every_entry(tmp_path: Path, scripted: ScriptedPeer, clock: ManualClock) -> None:
    """After a sleep of 30 s on either clock the peer is called again, though the monotonic clock stood still."""
    async with federation_of(tmp_path, scripted.record(), clock=clock.clock) as fed:
        stub = fed.stub("work.example", "ada")
        await stub.List(LIST)
        clock.elapsed_s += 30
        clock.wall_s += 30
        await stub.List(LIST)
        clock.wall_s += 30
        await stub.List(LIST)

    assert asked(scripted) == 3


async def test_a_caller_cannot_change_what_the_next_one_gets(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Every caller has a message of its own: live, shared and cached."""
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        replies = list(await asyncio.gather(*(stub.List(LIST) for _ in range(3))))
        replies.append(await stub.List(LIST))
        for reply in replies:
            assert reply.rows[0].id == "t1"
            reply.rows[0].id = "changed"
            del reply.rows[:]
        assert (await stub.List(LIST)).rows[0].id == "t1"

    assert asked(scripted) == 1


# -- what is not kept


@pytest.mark.parametrize(
    "reply",
    [
        Reply(lease_ms=0),
        Reply(lease_ms=None),
        Reply(lease_ms=None, trailing=(("mosaic-lease-ms", "forever"),)),
        Reply(lease_ms=None, trailing=(("mosaic-lease-ms", "-30000"),)),
    ],
    ids=["zero", "absent", "words", "negative"],
)
async def test_without_a_lease_every_read_is_live(
    form: str, reply: Reply, tmp_path: Path, scripted: ScriptedPeer
) -> None:
    """An answer without a readable lease above zero is delivered and not cached."""
    scripted.service.script("list", reply)
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        for _ in range(2):
            assert (await tagged(stub.List(LIST)))[2] == ["false"]

    assert asked(scripted) == 2


@pytest.mark.parametrize(
    "reason",
    [Reason.SCOPE_VIOLATION, Reason.ROW_NOT_FOUND, Reason.INVALID_REQUEST, Reason.RATE_LIMITED, Reason.GRANT_INVALID],
)
async def test_no_refusal_is_cached(form: str, reason: Reason, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """An error is never cached, even if it came with a lease; the good answer after it is."""
    lease = (("mosaic-lease-ms", "30000"),)
    scripted.service.script("list", Reply(refusal=Refusal(reason, "no"), trailing=lease), Reply())
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.List(LIST)
        assert error_detail_of(refused.value).reason == reason
        assert [(await tagged(stub.List(LIST)))[2] for _ in range(2)] == [["false"], ["true"]]

    assert asked(scripted) == 2


async def test_forged_tags_are_stripped_and_not_cached(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Tags from the peer are stripped, live and from the cache."""
    forged = ((CACHED, "true"), (CACHED, "maybe"), (SOURCE, "local"))
    scripted.service.script("list", Reply(initial=forged, trailing=forged))
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        ends = [(await tagged(stub.List(LIST)))[1:] for _ in range(2)]

    assert ends == [(["federated:work.example"], ["false"]), (["federated:work.example"], ["true"])]


# -- who never shares


async def test_different_queries_never_share(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Page, filter, size, position and resource are part of the key; an explicit default size is the default."""
    requests = [
        LIST,
        pb.ListRequest(resource="notes"),
        pb.ListRequest(resource="tasks", page_size=10),
        pb.ListRequest(resource="tasks", page_token="next"),
        pb.ListRequest(resource="tasks", where={"team": "T1"}),
        pb.ListRequest(resource="tasks", where={"team": "T2"}),
        pb.ListRequest(resource="tasks", after=pb.ListPosition(id="t1")),
        pb.GetRequest(resource="tasks", id="t1"),
        pb.GetRequest(resource="tasks", id="t2"),
    ]
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        for request in requests:
            verb = stub.Get if isinstance(request, pb.GetRequest) else stub.List
            assert (await tagged(verb(request)))[2] == ["false"]
        assert (await tagged(stub.List(pb.ListRequest(resource="tasks", page_size=50))))[2] == ["true"]
        many = {f"key{n}": str(n) for n in range(20)}
        await stub.List(pb.ListRequest(resource="tasks", where=many))
        backwards = dict(reversed(many.items()))
        assert (await tagged(stub.List(pb.ListRequest(resource="tasks", where=backwards))))[2] == ["true"]


async def test_local_users_and_gateways_never_share(
    tmp_path: Path, scripted: ScriptedPeer, other_scripted: ScriptedPeer
) -> None:
    """Two users of one peer, and two peers, each have answers of their own; flushing one leaves the rest."""
    hostile = pb.ListResponse(rows=[pb.Row(id="hostile", resource="tasks")])
    other_scripted.service.script("list", Reply(message=hostile))
    records = (
        scripted.record(user="ada", grant_id="grant-a"),
        scripted.record(user="bob", grant_id="grant-b"),
        other_scripted.record(user="ada", grant_id="grant-c"),
    )
    async with federation_of(tmp_path, *records) as fed:
        stubs = [fed.stub("work.example", "ada"), fed.stub("work.example", "bob"), fed.stub("lab.example", "ada")]
        for expected in ("false", "true"):
            for stub in stubs:
                assert (await tagged(stub.List(LIST)))[2] == [expected]
        assert (await stubs[2].List(LIST)).rows[0].id == "hostile"
        assert (await stubs[0].List(LIST)).rows[0].id == "t1"
        fail_in_flight(fed.peer("lab.example", "ada").cache.flush(InvalidationReason.GRANT_REVOKED))
        assert (await tagged(stubs[0].List(LIST)))[2] == ["true"]

    assert (asked(scripted), asked(other_scripted)) == (2, 1)


async def test_a_hostile_gateway_with_the_same_grant_id_shares_nothing(
    tmp_path: Path, scripted: ScriptedPeer, other_scripted: ScriptedPeer
) -> None:
    """With two enrollments of one grant id, each peer's chain sees its own answers."""
    hostile = pb.ListResponse(rows=[pb.Row(id="hostile", resource="tasks")])
    other_scripted.service.script("list", Reply(message=hostile))
    async with federation_of(tmp_path / "a", scripted.record(), other_scripted.record(grant_id="another")) as fed:
        honest, evil = fed.peer("work.example", "ada"), fed.peer("lab.example", "ada")
        evil.record = other_scripted.record()
        assert honest.grant_id == evil.grant_id
        assert (await fed.stub("lab.example", "ada").List(LIST)).rows[0].id == "hostile"
        reply, _, cached = await tagged(fed.stub("work.example", "ada").List(LIST))

    assert (reply.rows[0].id, cached) == ("t1", ["false"])


# -- what ends everything


@pytest.mark.parametrize("reason", [Reason.GRANT_REVOKED, Reason.GRANT_INVALID, Reason.CERTIFICATE_INVALID])
async def test_a_refusal_of_the_grant_flushes(
    form: str, reason: Reason, tmp_path: Path, scripted: ScriptedPeer
) -> None:
    """The peer's refusal of the grant, on any call, ends all hits under it."""
    scripted.service.script("search", Reply(refusal=Refusal(reason, "no")))
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        await stub.List(LIST)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Search(NEVER["Search"])
        assert error_detail_of(refused.value).reason == reason
        assert not error_detail_of(refused.value).local
        assert grant_of(fed).cache.stats().entries == 0

        scripted.service.script("list", Reply(refusal=Refusal(reason, "no")))
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.List(LIST)


async def test_a_revocation_reaches_calls_under_way(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Leader and followers fail at once with GRANT_REVOKED, and the peer sees the call cancelled."""
    scripted.service.script("list", Reply(gate=threading.Event()))
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        calls = [stub.List(LIST) for _ in range(3)]
        await eventually(lambda: scripted.service.active == 1)
        fail_in_flight(grant_of(fed).cache.flush(InvalidationReason.GRANT_REVOKED, grant_of(fed).grant_id))
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert error_detail_of(refused.value).reason == Reason.GRANT_REVOKED
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        await eventually(lambda: scripted.service.cancelled == 1)


@pytest.fixture
def runtime(tmp_path: Path, scripted: ScriptedPeer) -> Iterator[ClientRuntime]:
    """The state of a gateway that knows the scripted peer."""
    with shared_runtime(tmp_path, scripted.record()) as runtime:
        yield runtime


@pytest.mark.parametrize("verb", ["List", "Search"])
def test_a_blocked_call_is_refused_on_delivery(
    form: str, verb: str, runtime: ClientRuntime, scripted: ScriptedPeer
) -> None:
    """An answer that reaches a blocking caller after the revocation is neither delivered nor cached."""
    gate = threading.Event()
    scripted.service.script(verb.lower(), Reply(gate=gate))
    ends: list[Any] = []

    def block() -> None:
        with sync_stub(form, runtime, scripted) as stub:
            try:
                ends.append(getattr(stub, verb)({**READS, **NEVER}[verb]))
            except grpc.RpcError as e:
                ends.append(error_detail_of(e).reason)

    thread = threading.Thread(target=block)
    thread.start()
    scripted.service.wait(lambda service: service.active == 1)
    peer = runtime.peers.get("work.example", "ada")
    peer.cache.flush(InvalidationReason.GRANT_REVOKED, peer.grant_id)
    gate.set()
    thread.join(5)

    assert ends == ["GRANT_REVOKED"]
    assert peer.cache.stats().entries == 0


async def test_a_changed_scope_is_fetched_again(form: str, tmp_path: Path, scripted: ScriptedPeer) -> None:
    """An answer of the old scope that was under way is replaced by one more call."""
    gate = threading.Event()
    old = pb.ListResponse(rows=[pb.Row(id="old", resource="tasks")])
    scripted.service.script("list", Reply(message=old, gate=gate), Reply())
    async with federation_of(tmp_path, scripted.record()) as fed, aio_stub(form, fed, scripted) as stub:
        call = stub.List(LIST)
        await eventually(lambda: scripted.service.active == 1)
        grant_of(fed).cache.flush(InvalidationReason.GRANT_CHANGED, grant_of(fed).grant_id)
        gate.set()
        assert (await call).rows[0].id == "t1"

    assert asked(scripted) == 2


async def test_a_hit_is_served_while_the_peer_is_down_and_not_longer(
    tmp_path: Path, scripted: ScriptedPeer, clock: ManualClock
) -> None:
    """With the peer down and its circuit open, hits last until the entry expires and no longer."""
    async with federation_of(tmp_path, scripted.record(), clock=clock.clock) as fed:
        stub = fed.stub("work.example", "ada")
        await stub.List(LIST)
        scripted.stop()
        for n in range(6):
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Get(pb.GetRequest(resource="tasks", id=str(n)))
        clock.advance(29.99)
        assert (await tagged(stub.List(LIST)))[2] == ["true"]
        clock.advance(0.011)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.List(LIST)

    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
