"""Every way in which a caller is not who it should be, over real mutual TLS."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import grpc
import pytest

from federation.server.pipeline.authorization import GRANT_INVALID_MESSAGE
from federation.store.grants.model import GrantStatus
from federation.v1 import federation_pb2 as pb
from federation.v1 import federation_pb2_grpc as pb_grpc
from federation.wire.status import error_detail_of
from tests.support.pki import GRANT_ID, HANDSHAKE_FAULTS, IDENTITY_FAULTS, Leaf
from tests.support.server_in_memory import MemoryServer, StartMemoryServer, record

OTHER_GRANT = "99999999-2222-4333-8444-555555555555"


async def error_of(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    """The error of a call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def listing(serving: MemoryServer, leaf: Leaf | None = None) -> pb.ListResponse:
    """One list on a new connection."""
    return await serving.stub(leaf).List(pb.ListRequest(resource="tasks"), timeout=5)


async def assert_nothing_reached(serving: MemoryServer) -> None:
    """No provider call and no audit row: the connection was refused before any handler."""
    await asyncio.sleep(0.15)  # longer than the audit gathers a batch
    assert serving.provider.calls == []
    assert serving.writer.events == []
    assert serving.trail.waiting == 0


@pytest.mark.parametrize("fault", HANDSHAKE_FAULTS)
async def test_a_certificate_that_fails_the_handshake_reaches_no_handler(serving: MemoryServer, fault: str) -> None:
    """Another authority, the wrong usage, expired, not yet valid, critical extensions: no connection at all."""
    leaf = HANDSHAKE_FAULTS[fault](serving.pki, GRANT_ID, "ada")
    serving.grants.certify(GRANT_ID, leaf)

    error = await error_of(listing(serving, leaf))

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    await assert_nothing_reached(serving)


async def test_no_certificate_reaches_no_handler(serving: MemoryServer) -> None:
    """A client without a certificate gets no connection."""
    stub = pb_grpc.FederationServiceStub(serving.channel(anonymous=True))

    error = await error_of(stub.List(pb.ListRequest(resource="tasks"), timeout=5))

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    await assert_nothing_reached(serving)


async def test_plain_text_reaches_no_handler(serving: MemoryServer) -> None:
    """A client without TLS gets no connection."""
    channel = grpc.aio.insecure_channel(serving.server.federation_address)
    serving.channels.append(channel)

    error = await error_of(pb_grpc.FederationServiceStub(channel).List(pb.ListRequest(resource="tasks"), timeout=5))

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    await assert_nothing_reached(serving)


@pytest.mark.parametrize("fault", IDENTITY_FAULTS)
async def test_a_malformed_identity_is_refused(serving: MemoryServer, fault: str) -> None:
    """Extensions missing, doubled, of a wrong tag or length, with trailing bytes, or saying nonsense."""
    leaf = serving.pki.bad_client(fault)
    serving.grants.certify(GRANT_ID, leaf)

    error = await error_of(listing(serving, leaf))

    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert error_detail_of(error).reason == "CERTIFICATE_INVALID"
    assert "enroll again" in (error.details() or "")
    assert serving.provider.calls == []
    row = (await serving.writer.seen(1))[0]
    assert (row.outcome, row.grant_id, row.subject, row.source) == ("denied", None, "", "127.0.0.1")
    assert row.reason.startswith("CERTIFICATE_INVALID: ")


async def test_a_certificate_that_expires_on_a_live_connection_is_refused_at_its_next_call(
    serving: MemoryServer,
) -> None:
    """The connection stays up; the call after the certificate's end is refused, and says what to do."""
    stub = serving.stub()
    assert len((await stub.List(pb.ListRequest(resource="tasks"))).rows) == 3

    serving.clock.advance(timedelta(hours=24).total_seconds())
    error = await error_of(stub.List(pb.ListRequest(resource="tasks")))

    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert error_detail_of(error).reason == "CERTIFICATE_INVALID"
    assert "renew" in (error.details() or "")
    assert len(serving.provider.calls) == 1


def subject_is_not_the_grants(serving: MemoryServer) -> Leaf:
    """A certificate of the grant that names another subject."""
    return serving.known_leaf(subject="eve")


def unknown_serial(serving: MemoryServer) -> Leaf:
    """A certificate that the grant does not know."""
    return serving.pki.client()


def unknown_grant(serving: MemoryServer) -> Leaf:
    """A certificate of a grant that does not exist."""
    return serving.pki.client(OTHER_GRANT)


def grant_pending(serving: MemoryServer) -> Leaf:
    """A grant that awaits confirmation."""
    serving.grants.change(GRANT_ID, status=GrantStatus.PENDING)
    return serving.leaf


def grant_expired(serving: MemoryServer) -> Leaf:
    """A grant that ends this instant."""
    serving.grants.change(GRANT_ID, expires_at_us=serving.clock.clock.now_us())
    return serving.leaf


def retired_serial(serving: MemoryServer) -> Leaf:
    """A certificate whose successor is in use."""
    retired = replace(record(serving.leaf), accepted_until_us=serving.clock.clock.now_us())
    serving.grants.change(GRANT_ID, certificates={serving.leaf.serial: retired})
    return serving.leaf


def certificate_of_another_grant(serving: MemoryServer) -> Leaf:
    """A certificate that names this grant and was issued under another."""
    leaf = serving.pki.client()
    serving.grants[OTHER_GRANT] = replace(serving.grants[GRANT_ID], id=OTHER_GRANT)
    serving.grants.certify(OTHER_GRANT, leaf)
    return leaf


@pytest.mark.parametrize(
    ("fault", "detail", "known"),
    [
        (subject_is_not_the_grants, "subject is not the grant's", True),
        (unknown_serial, "unknown serial", True),
        (unknown_grant, "unknown grant", False),
        (grant_pending, "grant pending", True),
        (grant_expired, "grant expired", True),
        (retired_serial, "retired serial", True),
        (certificate_of_another_grant, "unknown serial", True),
    ],
)
async def test_faults_of_a_grant_look_alike_from_outside(
    serving: MemoryServer, fault: Callable[[MemoryServer], Leaf], detail: str, known: bool
) -> None:
    """One code, one reason, one message; the audit names the fault, and the grant if it is known."""
    error = await error_of(listing(serving, fault(serving)))

    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error_detail_of(error).reason == "GRANT_INVALID"
    assert error.details() == GRANT_INVALID_MESSAGE
    assert serving.provider.calls == []
    row = (await serving.writer.seen(1))[0]
    assert (row.outcome, row.reason) == ("denied", f"GRANT_INVALID: {detail}")
    assert row.grant_id == (GRANT_ID if known else None)


async def test_only_the_holder_of_a_revoked_grant_gets_grant_revoked(serving: MemoryServer) -> None:
    """The holder learns that it was revoked, at its next call on the open connection; another serial does not."""
    stub = serving.stub()
    await stub.List(pb.ListRequest(resource="tasks"))
    stranger = serving.pki.client()
    serving.grants.change(GRANT_ID, status=GrantStatus.REVOKED)

    holder = await error_of(stub.List(pb.ListRequest(resource="tasks")))
    other = await error_of(listing(serving, stranger))

    assert error_detail_of(holder).reason == "GRANT_REVOKED"
    assert error_detail_of(other).reason == "GRANT_INVALID"
    assert len(serving.provider.calls) == 1


async def test_a_grant_revoked_while_the_provider_reads_gives_no_rows(serving: MemoryServer) -> None:
    """The grant is checked again before an answer leaves; rows that were read meanwhile are not sent."""
    serving.provider.gate = asyncio.Event()
    call = serving.stub().List(pb.ListRequest(resource="tasks"))
    await serving.provider.begun.wait()

    serving.grants.change(GRANT_ID, status=GrantStatus.REVOKED)
    serving.provider.gate.set()

    assert error_detail_of(await error_of(call)).reason == "GRANT_REVOKED"
    assert serving.provider.finished == 1
    assert (await serving.writer.seen(1))[0].outcome == "denied"


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Get", pb.GetRequest(resource="tasks", id="t1")),
        ("Search", pb.SearchRequest(query="task")),
        ("Capabilities", pb.CapabilitiesRequest()),
    ],
)
async def test_each_verb_is_behind_the_same_checks(serving: MemoryServer, method: str, request_: Any) -> None:
    """A stranger's certificate opens none of the verbs."""
    error = await error_of(getattr(serving.stub(serving.pki.client()), method)(request_))

    assert error_detail_of(error).reason == "GRANT_INVALID"
    assert serving.provider.calls == []


async def test_a_flood_of_refusals_is_one_audit_row(serve: StartMemoryServer) -> None:
    """Twenty refused calls of one source and reason are counted in few rows."""
    serving = await serve()
    stub = serving.stub(serving.pki.client())

    await asyncio.gather(*(error_of(stub.List(pb.ListRequest(resource="tasks"))) for _ in range(20)))
    events = await serving.writer.seen(20)

    assert sum(event.count for event in events) == 20
    assert len(events) < 6
