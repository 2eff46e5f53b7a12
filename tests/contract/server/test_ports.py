"""The server as a whole: its ports, its error boundary around every method, its health, and how it stops."""

import asyncio
import gc
import logging
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from federation.errors import ConfigError
from federation.pki.authority import Authority
from federation.server.pipeline.error_boundary import ErrorBoundary
from federation.server.transport.health import MAX_WATCHES
from federation.server.transport.server import GatewayServer
from federation.server.transport.tls import TlsMaterial
from federation.v1 import enrollment_pb2, enrollment_pb2_grpc
from federation.v1 import federation_pb2 as pb
from federation.wire.channel_args import SERVER
from tests.support.pki import GRANT_ID, Pki, dial
from tests.support.server_in_memory import GATEWAY, MemoryServer, NoEnrollment, StartMemoryServer, record

TASKS = pb.ListRequest(resource="tasks")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def error_of(call: Any) -> grpc.aio.AioRpcError:
    """The error of a call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def health(serving: MemoryServer) -> Any:
    """A health stub on a new channel."""
    return health_pb2_grpc.HealthStub(serving.channel())


def enrollment_channel(serving: MemoryServer) -> grpc.aio.Channel:
    """A channel to the enrollment port, without a client certificate."""
    channel = dial(serving.server.enrollment_address, GATEWAY, serving.authority.trust_bundle)
    serving.channels.append(channel)
    return channel


def second_server(serving: MemoryServer, **addresses: str) -> GatewayServer:
    """Another server on given addresses; free ones by default."""
    where = {"listen": "127.0.0.1:0", "enroll": "127.0.0.1:0", **addresses}
    service = serving.server._service
    return GatewayServer(**where, identity=serving.authority, service=service, enrollment=NoEnrollment())


async def test_port_0_takes_free_ports_and_tells_them(serving: MemoryServer) -> None:
    """Both addresses name real, different ports."""
    ports = {serving.server.federation_address, serving.server.enrollment_address}

    assert len(ports) == 2
    assert all(address.startswith("127.0.0.1:") and not address.endswith(":0") for address in ports)


@pytest.mark.parametrize("name", ["listen", "enroll"])
async def test_a_taken_port_names_the_setting_and_leaves_nothing_bound(serving: MemoryServer, name: str) -> None:
    """The error says which address, why, and the cure; the other port of the failed server is free again."""
    taken = serving.server.federation_address
    other = second_server(serving, **{name: taken})

    with pytest.raises(ConfigError) as caught:
        await other.start()

    assert caught.value.field == name
    assert taken in str(caught.value)
    assert "already in use" in str(caught.value)
    assert f"set {name} in gateway.toml" in str(caught.value)
    bound = other.federation_address if name == "enroll" else ""
    if bound:
        host, _, port = bound.rpartition(":")
        with socket.socket() as probe:
            probe.bind((host, int(port)))


async def test_an_address_that_is_not_this_machines_is_named(serving: MemoryServer) -> None:
    """An address that cannot be had at all gives the system's own reason."""
    with pytest.raises(ConfigError, match=r"^listen: cannot listen on 192\.0\.2\.1:7443"):
        await second_server(serving, listen="192.0.2.1:7443").start()


async def test_ipv6_addresses_are_shown_in_brackets(serving: MemoryServer) -> None:
    """An IPv6 host stays host:port."""
    server = second_server(serving, listen="[::1]:0")
    await server.start()
    try:
        assert server.federation_address.startswith("[::1]:")
    finally:
        await server.stop(0)


async def test_the_enrollment_port_serves_enrollment_and_nothing_else(serving: MemoryServer) -> None:
    """Without a client certificate neither federation nor health can be reached, by any port."""
    channel = enrollment_channel(serving)
    methods = ["/federation.v1.FederationService/List", "/grpc.health.v1.Health/Check", "/federation.v1.AdminService/X"]

    errors = [await error_of(channel.unary_unary(method)(b"")) for method in methods]

    assert {error.code() for error in errors} == {grpc.StatusCode.UNIMPLEMENTED}
    assert serving.provider.calls == []


async def test_the_federation_port_serves_no_enrollment(serving: MemoryServer) -> None:
    """A token is of no use on the mutual TLS port."""
    stub = enrollment_pb2_grpc.EnrollmentServiceStub(serving.channel())

    assert (await error_of(stub.Enroll(enrollment_pb2.EnrollRequest()))).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_error_boundary_covers_enrollment(serving: MemoryServer, caplog: pytest.LogCaptureFixture) -> None:
    """An exception of another service is an incident as well; its text is only in the log."""
    stub = enrollment_pb2_grpc.EnrollmentServiceStub(enrollment_channel(serving))

    broken = await error_of(stub.Enroll(enrollment_pb2.EnrollRequest(secret="x")))
    aborted = await error_of(stub.Renew(enrollment_pb2.RenewRequest()))

    assert broken.code() is grpc.StatusCode.INTERNAL
    assert "secret words" not in repr(broken)
    assert "secret words" in caplog.text
    assert (aborted.code(), aborted.details()) == (grpc.StatusCode.UNIMPLEMENTED, "not yet")
    assert sum("incident" in line for line in caplog.messages) == 1


async def test_the_enrollment_port_takes_small_messages_only(serving: MemoryServer) -> None:
    """Every client may connect there, so messages are limited to 64 KiB."""
    stub = enrollment_pb2_grpc.EnrollmentServiceStub(enrollment_channel(serving))

    error = await error_of(stub.Enroll(enrollment_pb2.EnrollRequest(csr=b"x" * 70_000)))

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


class Broken(grpc.aio.ServerInterceptor):
    """An interceptor that breaks for one method."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        if handler_call_details.method.endswith("/Get"):
            raise ValueError("secret words of an interceptor")
        return await continuation(handler_call_details)


async def test_the_error_boundary_covers_interceptors(
    serve: StartMemoryServer, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of an interceptor inside the error boundary is an incident too."""
    serving = await serve(server={"interceptors": (Broken(),)})

    error = await error_of(serving.stub().Get(pb.GetRequest(resource="tasks", id="t1")))

    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in repr(error)
    assert "secret words of an interceptor" in caplog.text
    assert len((await serving.stub().List(TASKS)).rows) == 3


class Streams(grpc.GenericRpcHandler):
    """Methods of every arity that echo letters, and fail on request."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    def service(self, handler_call_details: Any) -> Any:
        arity = handler_call_details.method.rpartition("/")[2]
        kinds = {
            "stream_stream": (grpc.stream_stream_rpc_method_handler, self.generate),
            "written": (grpc.stream_stream_rpc_method_handler, self.write),
            "unary_stream": (grpc.unary_stream_rpc_method_handler, self.count),
            "stream_unary": (grpc.stream_unary_rpc_method_handler, self.join),
            "plain": (grpc.unary_unary_rpc_method_handler, lambda letters, _context: letters),
        }
        if arity not in kinds:
            return None
        maker, behaviour = kinds[arity]
        return maker(behaviour, lambda raw: tuple(raw.decode("ascii")), lambda letters: "".join(letters).encode())

    async def generate(self, requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:
        try:
            async for letters in requests:
                if letters == ("!",):
                    raise ValueError("secret words")
                yield letters
        finally:
            self.ended.set()

    async def write(self, requests: AsyncIterator[Any], context: Any) -> None:
        async for letters in requests:
            await context.write(letters)

    async def count(self, letters: Any, _context: Any) -> AsyncIterator[Any]:
        for _ in range(3):
            yield letters
        raise ValueError("secret words")

    async def join(self, requests: AsyncIterator[Any], _context: Any) -> Any:
        return [letter async for letters in requests for letter in letters]


@pytest_asyncio.fixture
async def bounded() -> AsyncIterator[tuple[grpc.aio.Channel, Streams]]:
    """A channel to a server with only the error boundary."""
    streams = Streams()
    server = grpc.aio.server(interceptors=(ErrorBoundary(),), handlers=(streams,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel, streams
    await server.stop(0)


async def read_all(call: Any) -> tuple[list[bytes], grpc.aio.AioRpcError | None]:
    """All that a stream gives, and its error."""
    seen: list[bytes] = []
    try:
        async for message in call:
            seen.append(message)  # noqa: PERF401 - what came before an error counts
    except grpc.aio.AioRpcError as error:
        return seen, error
    return seen, None


@pytest.mark.parametrize(
    ("arity", "sent", "seen", "code"),
    [
        ("stream_stream", [b"a", b"b"], [b"a", b"b"], None),
        ("stream_stream", [b"a", b"!"], [b"a"], grpc.StatusCode.INTERNAL),
        ("stream_stream", [b"a", b"\xff"], [b"a"], grpc.StatusCode.INVALID_ARGUMENT),
        ("written", [b"a", b"b"], [b"a", b"b"], None),
        ("unary_stream", b"a", [b"a"] * 3, grpc.StatusCode.INTERNAL),
    ],
)
async def test_the_error_boundary_covers_streams(
    bounded: tuple[grpc.aio.Channel, Streams], arity: str, sent: Any, seen: list[bytes], code: Any
) -> None:
    """Streaming handlers work as without the error boundary; their errors, also of decoding, become statuses."""
    channel, _ = bounded
    many = channel.stream_stream if isinstance(sent, list) else channel.unary_stream

    answers, error = await read_all(many(f"/x/{arity}")(iter(sent) if isinstance(sent, list) else sent))

    assert answers == seen
    assert (error.code() if error else None) is code
    assert "secret" not in repr(error)


async def test_the_error_boundary_covers_client_streams_and_plain_functions(
    bounded: tuple[grpc.aio.Channel, Streams],
) -> None:
    """A stream to one answer, and a handler that is no coroutine, pass through the error boundary."""
    channel, _ = bounded

    assert await channel.stream_unary("/x/stream_unary")(iter([b"a", b"b"])) == b"ab"
    assert await channel.unary_unary("/x/plain")(b"a") == b"a"
    assert (await error_of(channel.unary_unary("/x/plain")(b"\xff"))).code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await error_of(channel.unary_unary("/x/unknown")(b"a"))).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_stream_that_breaks_off_ends_its_generator_first() -> None:
    """The handler's `finally` has run when the call ends, even if the generator is still referenced."""

    class Gone:
        async def write(self, _answer: Any) -> None:
            raise asyncio.CancelledError

    async def found(details: Any) -> Any:
        return streams.service(details)

    async def requests() -> AsyncIterator[bytes]:
        yield b"a"

    streams, details = Streams(), SimpleNamespace(method="/x/stream_stream")
    handler = await ErrorBoundary().intercept_service(found, details)

    with pytest.raises(asyncio.CancelledError) as held:
        await handler.stream_stream(requests(), Gone())

    assert streams.ended.is_set()
    assert held.tb is not None


async def test_a_cancelled_stream_ends_its_generator_at_once(bounded: tuple[grpc.aio.Channel, Streams]) -> None:
    """The handler's `finally` runs when the call is cancelled, without garbage collection."""
    channel, streams = bounded
    gc.disable()
    try:
        call = channel.stream_stream("/x/stream_stream")()
        await call.write(b"a")
        await call.read()
        call.cancel()
        async with asyncio.timeout(2):
            await streams.ended.wait()
    finally:
        gc.enable()


async def test_health_answers_every_certificate_and_is_no_read(serving: MemoryServer) -> None:
    """Check says SERVING of the server and of the service, NOT_FOUND of others, without audit and without a grant."""
    stub = health(serving)
    serving.grants.clear()

    whole = await stub.Check(health_pb2.HealthCheckRequest())
    service = await stub.Check(health_pb2.HealthCheckRequest(service="federation.v1.FederationService"))
    unknown = await error_of(stub.Check(health_pb2.HealthCheckRequest(service="x")))

    assert (whole.status, service.status) == (SERVING, SERVING)
    assert unknown.code() is grpc.StatusCode.NOT_FOUND
    await asyncio.sleep(0.15)
    assert serving.writer.events == []


async def test_a_stop_tells_health_watches_and_does_not_wait_for_them(serving: MemoryServer) -> None:
    """A watch gets NOT_SERVING and ends, and uses none of the grace time."""
    watch = health(serving).Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == SERVING
    loop = asyncio.get_running_loop()
    began = loop.time()

    await serving.server.stop(5)

    assert loop.time() - began < 2
    assert (await watch.read()).status == NOT_SERVING
    assert await watch.read() is grpc.aio.EOF


async def test_health_watches_are_bounded(serving: MemoryServer) -> None:
    """One more than the bound is refused; a watch that ends frees its place."""
    stub = health(serving)
    watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(MAX_WATCHES)]
    for watch in watches:
        await watch.read()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Watch(health_pb2.HealthCheckRequest()).read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    watches[0].cancel()
    async with asyncio.timeout(20):
        while True:
            try:
                again = await stub.Watch(health_pb2.HealthCheckRequest()).read()
            except grpc.aio.AioRpcError:  # the server has not seen the end yet
                await asyncio.sleep(0.01)
            else:
                break
    assert again.status == SERVING


async def test_a_graceful_stop_lets_running_calls_finish(serving: MemoryServer) -> None:
    """A call that came in before the stop gets its answer; hooks run first; later calls are refused."""
    serving.provider.gate = asyncio.Event()
    stub = serving.stub()
    call = stub.List(TASKS)
    await serving.provider.begun.wait()

    async def release() -> None:
        assert serving.provider.gate
        serving.provider.gate.set()

    async def broken() -> None:
        raise ValueError("a hook")

    serving.server.before_stop += [broken, release]
    await serving.server.stop(5)

    assert len((await call).rows) == 3
    assert (await error_of(stub.List(TASKS))).code() is grpc.StatusCode.UNAVAILABLE
    await serving.server.stop(5)


async def test_a_call_beyond_the_grace_is_cut_and_recorded(serving: MemoryServer) -> None:
    """A call that outlives the grace is cancelled, and the audit records `cancelled`."""
    serving.provider.gate = asyncio.Event()
    call = serving.stub().List(TASKS)
    await serving.provider.begun.wait()

    await serving.server.stop(0.1)
    await serving.trail.stop()

    assert (await error_of(call)).code() is grpc.StatusCode.UNAVAILABLE
    assert [event.outcome for event in serving.writer.events] == ["cancelled"]


async def test_calls_beyond_the_bound_are_refused(serve: StartMemoryServer) -> None:
    """Concurrent calls are bounded; further calls are refused at once."""
    serving = await serve(server={"max_calls": 2})
    serving.provider.gate = asyncio.Event()
    stub = serving.stub()
    held = [stub.List(TASKS) for _ in range(2)]
    while len(serving.provider.calls) < 2:
        await serving.provider.begun.wait()
        await asyncio.sleep(0.01)

    error = await error_of(stub.List(TASKS))
    serving.provider.gate.set()

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert [len((await call).rows) for call in held] == [3, 3]


async def test_calls_beyond_the_streams_of_a_connection_wait_for_their_turn(serving: MemoryServer) -> None:
    """A burst on one connection is answered call by call; none looks as if the gateway could not be reached."""
    scope = replace(serving.grants[GRANT_ID].scope, rate_limit_per_minute=100_000)
    serving.grants.change(GRANT_ID, scope=scope)
    stub = serving.stub()
    answers = await asyncio.gather(*(stub.List(TASKS) for _ in range(3 * SERVER.max_concurrent_streams)))
    assert {len(answer.rows) for answer in answers} == {3}


async def test_a_peer_that_begins_calls_and_resets_them_costs_others_a_moment(serving: MemoryServer) -> None:
    """Thousands of calls that are dropped at once leave nothing behind: soon after, others are answered."""
    hasty, other = serving.stub(), serving.stub()
    for _ in range(20):
        calls = [hasty.List(TASKS) for _ in range(SERVER.max_concurrent_streams)]
        await asyncio.sleep(0.005)
        for call in calls:
            call.cancel()
    async with asyncio.timeout(5):
        while await other.List(TASKS).code() is not grpc.StatusCode.OK:  # noqa: ASYNC110 - the peer is asked again
            await asyncio.sleep(0.05)


async def test_a_published_identity_counts_from_the_next_handshake(serving: MemoryServer) -> None:
    """A new authority is served to new connections without a restart; open ones go on."""
    stub, leaf = serving.stub(), serving.leaf
    await stub.List(TASKS)
    successor = Authority.create(GATEWAY, ("127.0.0.1",))

    serving.server.tls.publish(successor)
    renewed = Pki.of(successor).client()
    serving.grants[GRANT_ID] = serving.grants[GRANT_ID].with_certificate(record(renewed), 0)

    assert len((await stub.List(TASKS)).rows) == 3
    assert (await error_of(serving.stub(leaf).List(TASKS))).code() is grpc.StatusCode.UNAVAILABLE
    serving.authority = successor
    assert len((await serving.stub(renewed).List(TASKS)).rows) == 3


async def test_an_identity_that_does_not_fit_is_never_published(caplog: pytest.LogCaptureFixture) -> None:
    """A key of another certificate, or text that is none, is refused before any handshake could see it."""
    caplog.set_level(logging.DEBUG)
    good, other = Authority.create(GATEWAY), Authority.create(GATEWAY)

    class Mixed:
        server_certificate_pem = good.server_certificate_pem
        server_key_pem = other.server_key_pem
        trust_bundle = good.trust_bundle

    class Garbled(Mixed):
        trust_bundle = "no certificate"

    material = TlsMaterial(good)
    for bad in (Mixed(), Garbled()):
        with pytest.raises(ConfigError, match="server certificate"):
            material.publish(bad)
    assert "PRIVATE" not in caplog.text
