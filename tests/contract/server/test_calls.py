"""Served calls over real mutual TLS: answers, leases, rich errors, audit rows, limits."""

import asyncio
import logging
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from federation.errors import Reason, Refusal
from federation.scope.model import Scope
from federation.server.pipeline.tracing import ServerTracing
from federation.server.revocation.leases import LeaseTable
from federation.store.grants.model import GrantStatus
from federation.v1 import federation_pb2 as pb
from federation.wire.metadata import first
from federation.wire.requests import query_hash, serialize
from federation.wire.status import error_detail_of
from tests.support.clock import ManualClock
from tests.support.memory_exporters import SpanLog
from tests.support.pki import GRANT_ID, PEER
from tests.support.provider import row
from tests.support.scripted import eventually
from tests.support.server_in_memory import INSTANCE, SCOPE, MemoryServer, StartMemoryServer

TASKS = pb.ListRequest(resource="tasks")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CACHES = (("mosaic-instance", INSTANCE),)


async def error_of(call: Any) -> grpc.aio.AioRpcError:
    """The error of a call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def lease_of(call: Any) -> str | None:
    """The lease that an answer carries."""
    await call
    return first(tuple(await call.trailing_metadata()), "mosaic-lease-ms")


async def test_the_four_verbs_answer(serving: MemoryServer) -> None:
    """List, get, search and capabilities give what the grant opens, through generated stubs."""
    stub = serving.stub()

    rows = (await stub.List(TASKS)).rows
    got = (await stub.Get(pb.GetRequest(resource="tasks", id="t2"))).row
    hits = (await stub.Search(pb.SearchRequest(query="note"))).hits
    told = await stub.Capabilities(pb.CapabilitiesRequest())

    assert [found.id for found in rows] == ["t1", "t2", "t3"]
    assert got == rows[1]
    assert [hit.row.id for hit in hits] == ["n1"]
    assert told.gateway == "work.example"
    assert {subject for _, subject, _ in serving.provider.calls} == {"ada"}
    assert serving.grants.used == [GRANT_ID] * 4


async def test_each_read_has_its_audit_row_within_a_second(serving: MemoryServer) -> None:
    """The audit row has caller, verb, query hash, size and trace, and no text of the request."""
    request = pb.ListRequest(resource="tasks", where={"title": "task 2"})
    answer = await serving.stub().List(request, metadata=(("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"),))

    async with asyncio.timeout(1):
        event = (await serving.writer.seen(1))[0]

    assert (event.grant_id, event.peer, event.subject) == (GRANT_ID, "home.example", "ada")
    assert (event.verb, event.resource, event.outcome, event.reason) == ("list", "tasks", "ok", "")
    assert event.query_hash == query_hash(serialize(request))
    assert event.bytes_out == answer.ByteSize()
    assert event.trace_id == TRACE
    assert event.source == "127.0.0.1"
    assert event.at_us == int(serving.clock.wall_s * 1e6)
    assert "task 2" not in repr(event)


async def test_the_latency_on_record_is_in_milliseconds(serving: MemoryServer) -> None:
    """A read that takes a second and a half has a latency of 1,500 ms in its audit row."""
    serving.provider.gate = asyncio.Event()
    call = serving.stub().List(TASKS)
    await serving.provider.begun.wait()
    serving.clock.advance(1.5)
    serving.provider.gate.set()
    await call

    assert (await serving.writer.seen(1))[0].latency_ms == pytest.approx(1_500)


@pytest.mark.parametrize(
    ("method", "request_", "code", "reason", "outcome"),
    [
        ("List", pb.ListRequest(resource="memory"), "PERMISSION_DENIED", "SCOPE_VIOLATION", "denied"),
        ("Get", pb.GetRequest(resource="tasks", id="e1"), "NOT_FOUND", "ROW_NOT_FOUND", "not_found"),
        ("List", pb.ListRequest(resource="tasks", page_size=-1), "INVALID_ARGUMENT", "INVALID_REQUEST", "invalid"),
    ],
)
async def test_a_refusal_is_a_rich_status_and_an_audit_row(
    serving: MemoryServer, method: str, request_: Any, code: str, reason: str, outcome: str
) -> None:
    """Code, reason and domain are on the wire; the outcome is in the audit; no lease is granted."""
    error = await error_of(getattr(serving.stub(), method)(request_, metadata=CACHES))
    event = (await serving.writer.seen(1))[0]

    assert error.code().name == code
    assert error_detail_of(error).reason == reason
    assert not error_detail_of(error).local
    assert first(tuple(error.trailing_metadata()), "mosaic-lease-ms") is None
    assert (event.outcome, event.reason.partition(":")[0]) == (outcome, reason)
    assert (event.grant_id, event.resource) == (GRANT_ID, request_.resource)


async def test_an_incident_says_nothing_but_its_id(serving: MemoryServer, caplog: pytest.LogCaptureFixture) -> None:
    """The text of an exception stays in the log, under the incident id that the caller gets."""
    serving.provider.fault = RuntimeError("secret words")

    error = await error_of(serving.stub().List(TASKS))
    event = (await serving.writer.seen(1))[0]

    status = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (error.code(), info.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in repr(error)
    incident = (error.details() or "").rpartition(" ")[2]
    assert len(incident) == 16
    assert error.details() == f"internal error; incident {incident}"
    assert any(incident in line for line in caplog.messages)
    assert "secret words" in caplog.text
    assert (event.outcome, event.reason) == ("error", "INTERNAL")


async def test_a_refusal_of_the_provider_reaches_the_caller(serving: MemoryServer) -> None:
    """The text of a provider's refusal reaches the caller."""
    serving.provider.fault = Refusal(Reason.INVALID_REQUEST, "where.x: not a field that can be compared")

    error = await error_of(serving.stub().List(TASKS))

    assert error.details() == "where.x: not a field that can be compared"


async def test_bytes_that_are_no_message_are_an_invalid_request(serving: MemoryServer) -> None:
    """A malformed request is refused with our message, and audited under its grant."""
    call = serving.channel().unary_unary("/federation.v1.FederationService/List")

    error = await error_of(call(b"\xff\xff\xff"))
    event = (await serving.writer.seen(1))[0]

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "request: not a ListRequest"
    assert (event.grant_id, event.outcome, event.query_hash) == (GRANT_ID, "invalid", "")


@pytest.mark.parametrize("method", ["Watch", "Delete"])
async def test_a_method_that_is_not_served_is_unimplemented(serving: MemoryServer, method: str) -> None:
    """An unknown method is UNIMPLEMENTED, not an incident."""
    call = serving.channel().stream_stream(f"/federation.v1.FederationService/{method}")(iter([b""]))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_request_of_300_kb_is_refused(serving: MemoryServer) -> None:
    """A message above the size limit is refused before the provider is called."""
    error = await error_of(serving.stub().Search(pb.SearchRequest(query="x" * 300_000)))

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert serving.provider.calls == []


async def test_an_answer_that_no_message_can_hold_is_an_incident_and_no_read(serving: MemoryServer) -> None:
    """A row beyond the message bound is not recorded as read, for it cannot be sent."""
    serving.provider.rows = [row("big", text="x" * (5 << 20))]

    error = await error_of(serving.stub().Get(pb.GetRequest(resource="tasks", id="big")))

    assert error.code() is grpc.StatusCode.INTERNAL
    assert (await serving.writer.seen(1))[0].outcome == "error"


async def test_an_overlong_resource_name_is_cut_in_the_audit(serving: MemoryServer) -> None:
    """A long name in a request does not fill the audit."""
    await error_of(serving.stub().Search(pb.SearchRequest(query="q", resources=["r" * 200_000])))

    assert len((await serving.writer.seen(1))[0].resource) == 256


async def test_a_lease_is_given_for_list_and_get(serving: MemoryServer) -> None:
    """A cacheable answer carries its lease in trailing metadata: 30 s by default."""
    stub = serving.stub()

    assert await lease_of(stub.List(TASKS, metadata=CACHES)) == "30000"
    assert await lease_of(stub.Get(pb.GetRequest(resource="tasks", id="t1"), metadata=CACHES)) == "30000"
    assert await lease_of(stub.Search(pb.SearchRequest(query="task"), metadata=CACHES)) is None
    assert await lease_of(stub.Capabilities(pb.CapabilitiesRequest(), metadata=CACHES)) is None


@pytest.mark.parametrize("instance", [None, "", "A" * 32, "0" * 31, "0" * 33, "g" * 32])
async def test_no_lease_without_a_proper_instance(serving: MemoryServer, instance: str | None) -> None:
    """A caller without an instance id gets no lease."""
    metadata = () if instance is None else (("mosaic-instance", instance),)

    assert await lease_of(serving.stub().List(TASKS, metadata=metadata)) == "0"


async def test_no_lease_for_sensitive_resources(serving: MemoryServer) -> None:
    """Sensitive resources get no lease, though this grant opens them."""
    assert await lease_of(serving.stub().List(pb.ListRequest(resource="api_keys"), metadata=CACHES)) == "0"


async def test_a_lease_ends_with_the_grant(serving: MemoryServer) -> None:
    """The time to the grant's end bounds the lease."""
    serving.grants.change(GRANT_ID, expires_at_us=serving.clock.clock.now_us() + 1_234_567)

    assert await lease_of(serving.stub().List(TASKS, metadata=CACHES)) == "1234"


async def test_a_lease_ends_with_the_certificate(serving: MemoryServer) -> None:
    """The time to the certificate's end bounds the lease."""
    end_s = serving.leaf.certificate.not_valid_after_utc.timestamp()
    serving.clock.advance(end_s - serving.clock.wall_s - 2)

    lease = int(await lease_of(serving.stub().List(TASKS, metadata=CACHES)) or 0)

    assert 1_990 <= lease <= 2_000


async def test_an_answer_under_a_scope_that_has_changed_is_read_again(serving: MemoryServer) -> None:
    """An answer was read under the scope in force when it leaves, though the call came in under an older one."""
    serving.provider.gate = asyncio.Event()
    call = serving.stub().List(TASKS, metadata=CACHES)
    await serving.provider.begun.wait()
    serving.grants.change(GRANT_ID, scope=Scope(("tasks",), max_rows_per_query=1))

    serving.provider.gate.set()

    assert len((await call).rows) == 1
    assert await lease_of(call) == "30000"


async def test_a_resource_closed_while_it_is_read_stays_shut(serving: MemoryServer) -> None:
    """A call whose resource is removed from the scope meanwhile is refused without rows."""
    serving.provider.gate = asyncio.Event()
    call = serving.stub().List(TASKS, metadata=CACHES)
    await serving.provider.begun.wait()
    serving.grants.change(GRANT_ID, scope=Scope(("notes",)))

    serving.provider.gate.set()

    error = await error_of(call)
    assert error_detail_of(error).reason == "SCOPE_VIOLATION"
    assert first(tuple(error.trailing_metadata()), "mosaic-lease-ms") is None


@pytest.mark.parametrize("row_id", ["t1", "absent"])
async def test_a_grant_revoked_while_an_answer_waits_for_its_record_is_refused(
    serve: StartMemoryServer, row_id: str
) -> None:
    """The grant is checked again after the audit write; if it was revoked meanwhile, the answer is refused."""
    serving = await serve(capacity=1)
    serving.writer.gate.clear()
    stub = serving.stub()
    await stub.List(TASKS, metadata=CACHES)  # takes the only place in the queue
    await serving.writer.begun.wait()
    call = stub.Get(pb.GetRequest(resource="tasks", id=row_id), metadata=CACHES)
    await eventually(lambda: serving.provider.finished == 2)
    serving.grants.change(GRANT_ID, status=GrantStatus.REVOKED)
    serving.writer.gate.set()

    error = await error_of(call)

    assert error_detail_of(error).reason == "GRANT_REVOKED"
    assert first(tuple(error.trailing_metadata()), "mosaic-lease-ms") is None


async def test_an_answer_whose_scope_is_edited_while_it_waits_for_its_record_is_refused(
    serve: StartMemoryServer,
) -> None:
    """An answer that was read under an earlier scope is refused; the caller may repeat the call at once."""
    serving = await serve(capacity=1)
    serving.writer.gate.clear()
    stub = serving.stub()
    await stub.List(TASKS, metadata=CACHES)
    await serving.writer.begun.wait()
    call = stub.List(TASKS, metadata=CACHES)
    await eventually(lambda: serving.provider.finished == 2)
    serving.grants.change(GRANT_ID, scope=Scope(("tasks",), max_rows_per_query=1))
    serving.writer.gate.set()

    error = error_detail_of(await error_of(call))

    assert (error.reason, error.retry_after_s) == ("RATE_LIMITED", 0.1)


async def test_a_grant_that_expires_while_an_answer_waits_for_its_record_is_refused(serve: StartMemoryServer) -> None:
    """The check before an answer leaves uses the time of that moment, not the time at which the call came in."""
    serving = await serve(capacity=1)
    serving.grants.change(GRANT_ID, expires_at_us=int((serving.clock.wall_s + 1) * 1e6))
    serving.writer.gate.clear()
    stub = serving.stub()
    await stub.List(TASKS)
    await serving.writer.begun.wait()
    call = stub.List(TASKS)
    await eventually(lambda: serving.provider.finished == 2)
    serving.clock.advance(2)
    serving.writer.gate.set()

    assert error_detail_of(await error_of(call)).reason == "GRANT_INVALID"


async def test_leases_are_recorded_before_the_reply_leaves(serve: StartMemoryServer) -> None:
    """The lease table holds each lease and bounds it, and the answer carries the lease as bounded."""
    leases = LeaseTable(max_lease_ms=20_000)
    serving = await serve(leases=leases, max_lease_ms=25_000)

    assert await lease_of(serving.stub().List(TASKS, metadata=CACHES)) == "20000"
    assert leases.begin(GRANT_ID, (), final=True).instances[0].instance == INSTANCE


async def test_calls_beyond_the_grants_rate_are_refused_until_the_stated_time(serving: MemoryServer) -> None:
    """The refusal carries RetryInfo; then calls pass again, and other grants are not limited."""
    serving.grants.change(GRANT_ID, scope=Scope(SCOPE.resources, rate_limit_per_minute=2))
    stub = serving.stub()
    await stub.List(TASKS)
    await stub.List(TASKS)

    error = await error_of(stub.List(TASKS))
    wait = error_detail_of(error).retry_after_s

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error_detail_of(error).reason == "RATE_LIMITED"
    assert wait
    assert [event.outcome for event in await serving.writer.seen(3)] == ["ok", "ok", "rate_limited"]
    serving.clock.advance(wait)
    await stub.List(TASKS)
    assert len(serving.provider.calls) == 3


async def test_a_read_that_cannot_be_recorded_is_not_served(serve: StartMemoryServer) -> None:
    """With a full audit queue the caller gets an error instead of rows, and a time after which to retry."""
    serving = await serve(capacity=1)
    serving.writer.gate.clear()
    stub = serving.stub()
    await stub.List(TASKS)

    error = await error_of(stub.List(TASKS, metadata=CACHES))

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error_detail_of(error).retry_after_s
    assert first(tuple(error.trailing_metadata()), "mosaic-lease-ms") is None
    serving.writer.gate.set()
    assert [(e.outcome, e.reason) for e in await serving.writer.seen(2)] == [
        ("ok", ""),
        ("rate_limited", "RATE_LIMITED: audit queue full"),
    ]


async def test_a_missing_row_is_a_recorded_read(serve: StartMemoryServer) -> None:
    """Asking for a row that is not there is on record like a read: it, too, is held while the queue is full."""
    serving = await serve(capacity=1)
    serving.writer.gate.clear()
    missing = pb.GetRequest(resource="tasks", id="none")
    first_error = await error_of(serving.stub().Get(missing))

    second = await error_of(serving.stub().Get(missing))

    assert first_error.code() is grpc.StatusCode.NOT_FOUND
    assert second.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_cancelled_call_is_recorded_as_cancelled(serving: MemoryServer) -> None:
    """The provider is stopped, no row says that the read was served, one says that it was cancelled."""
    serving.provider.gate = asyncio.Event()
    call = serving.stub().List(TASKS)
    await serving.provider.begun.wait()

    call.cancel()
    event = (await serving.writer.seen(1))[0]

    assert (event.outcome, event.reason, event.grant_id) == ("cancelled", "", GRANT_ID)
    assert serving.provider.finished == 0


async def test_a_caller_whose_deadline_passes_is_recorded_too(serving: MemoryServer) -> None:
    """A deadline that the caller set ends the provider's work like a cancellation."""
    serving.provider.gate = asyncio.Event()

    error = await error_of(serving.stub().List(TASKS, timeout=0.2))

    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await serving.writer.seen(1))[0].outcome == "cancelled"


async def test_a_failing_audit_table_does_not_fail_reads_while_there_is_room(
    serving: MemoryServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows wait for the database; the reads that fit into the queue are served meanwhile."""
    caplog.set_level(logging.INFO)
    serving.writer.fault = OSError("disk full")
    stub = serving.stub()
    for _ in range(5):
        await stub.List(TASKS)

    serving.writer.fault = None

    assert len(await serving.writer.seen(5)) == 5


async def test_tracing_wraps_each_call(serve: StartMemoryServer, span_log: SpanLog) -> None:
    """Every call has one span with what is known of its caller; `traceresponse` goes out with answers and refusals."""
    serving = await serve(tracing=ServerTracing(span_log.source, ManualClock().clock))
    good = serving.stub().List(TASKS, metadata=CACHES)
    await good
    error = await error_of(serving.stub().List(pb.ListRequest(resource="memory")))
    await error_of(serving.stub(serving.pki.bad_client("no extensions")).List(TASKS))

    told = ("grant_id", "peer", "verb", "resource", "outcome")
    assert [tuple((span.attributes or {})[key] for key in told) for span in span_log.ended] == [
        (GRANT_ID, PEER, "list", "tasks", "ok"),
        (GRANT_ID, PEER, "list", "memory", "denied"),
        ("", "", "list", "tasks", "denied"),
    ]
    trailing = dict(await good.trailing_metadata())
    assert {"traceresponse", "mosaic-lease-ms"} <= set(trailing)
    assert "traceresponse" in dict(error.trailing_metadata())
    assert "grpc-status-details-bin" in dict(error.trailing_metadata())
    events = await serving.writer.seen(3)
    assert {event.trace_id for event in events} == {f"{span.context.trace_id:032x}" for span in span_log.ended}
    assert {event.reason for event in events if event.outcome == "denied"} == {
        "SCOPE_VIOLATION",
        "CERTIFICATE_INVALID: the grant id extension is missing",
    }
