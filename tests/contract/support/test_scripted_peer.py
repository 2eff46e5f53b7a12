"""Tests of the scripted peer and the relay, which other tests rely on."""

import threading

import grpc
import pytest

from federation.errors import Reason, Refusal
from federation.v1 import federation_pb2 as pb
from federation.v1.federation_pb2_grpc import FederationServiceStub
from federation.wire.status import error_detail_of
from tests.support.network_faults import Relay
from tests.support.scripted import Reply, ScriptedPeer


async def test_answers_over_mutual_tls_and_records_the_request(scripted: ScriptedPeer) -> None:
    """A bare aio stub gets the default answer; the peer records request, metadata and certificate."""
    async with scripted.aio_channel() as channel:
        reply = await FederationServiceStub(channel).List(pb.ListRequest(resource="tasks"), metadata=(("a", "b"),))

    [seen] = scripted.service.seen
    assert reply.rows[0].id == "t1"
    assert seen.request == pb.ListRequest(resource="tasks")
    assert seen.header("a") == ["b"]
    assert seen.certificate_pem.startswith(b"-----BEGIN CERTIFICATE-----")


def test_script_runs_in_order_and_its_last_reply_repeats(scripted: ScriptedPeer) -> None:
    """Each call takes the next reply of a script; the last reply repeats."""
    scripted.service.script("get", Reply(refusal=Refusal(Reason.GRANT_INVALID, "no")), Reply())
    with scripted.sync_channel() as channel:
        stub = FederationServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.Get(pb.GetRequest(id="1"))
        assert error_detail_of(refused.value).reason == "GRANT_INVALID"
        assert stub.Get(pb.GetRequest(id="1")) == stub.Get(pb.GetRequest(id="1"))


def test_cancellation_is_counted(scripted: ScriptedPeer) -> None:
    """A call that is cancelled while its answer is delayed is counted as cancelled."""
    scripted.service.script("list", Reply(gate=threading.Event()))
    with scripted.sync_channel() as channel:
        call = FederationServiceStub(channel).List.future(pb.ListRequest(resource="tasks"))
        scripted.service.wait(lambda service: service.active == 1)
        call.cancel()
        scripted.service.wait(lambda service: service.cancelled == 1)


def test_relay_counts_and_resets_connections(scripted: ScriptedPeer) -> None:
    """The relay forwards a complete mTLS connection, counts it, and can reset it during a call."""
    relay = Relay(scripted.port)
    inner, scripted.port = scripted.port, relay.port
    scripted.service.script("list", Reply(), Reply(gate=threading.Event()))
    with scripted.sync_channel() as channel:
        stub = FederationServiceStub(channel)
        stub.List(pb.ListRequest(resource="tasks"))
        call = stub.List.future(pb.ListRequest(resource="tasks"))
        scripted.service.wait(lambda service: service.active == 1)
        relay.reset()
        assert call.code() is grpc.StatusCode.UNAVAILABLE
    scripted.port = inner
    relay.close()
    assert relay.accepts == 1
