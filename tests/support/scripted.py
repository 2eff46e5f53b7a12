"""A peer with scripted answers: the federation service over real mutual TLS, which records its requests.

The server runs in gRPC's own threads, so a test may call it from a loop, from threads, or from another process.
"""

import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from federation.errors import Refusal
from federation.store.peers import PeerRecord
from federation.v1 import federation_pb2 as pb
from federation.v1 import federation_pb2_grpc
from federation.wire.channel_args import SERVER, ServerOptions
from federation.wire.metadata import LEASE_MS, Metadata
from federation.wire.status import refusal_status
from tests.support.peer_records import peer_record
from tests.support.pki import GRANT_ID, Leaf, Pki, channel_credentials, server_credentials

DEFAULTS: dict[str, Message] = {
    "list": pb.ListResponse(rows=[pb.Row(id="t1", resource="tasks", owner="ada", data='{"title":"Write the report"}')]),
    "get": pb.GetResponse(row=pb.Row(id="t1", resource="tasks", owner="ada", data='{"title":"Write the report"}')),
    "search": pb.SearchResponse(hits=[pb.SearchHit(row=pb.Row(id="t1", resource="tasks"), score=1.0)]),
    "capabilities": pb.CapabilitiesResponse(resources=["tasks"], gateway="work.example"),
}


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One scripted answer. The default is successful, with a lease of 30 s."""

    message: Message | None = None
    """`None`: the verb's default message."""
    code: grpc.StatusCode = grpc.StatusCode.OK
    details: str = ""
    refusal: Refusal | None = None
    """A rich error; takes precedence over `code`."""
    initial: Metadata = ()
    trailing: Metadata = ()
    lease_ms: int | None = 30_000
    """`None`: no lease in the trailing metadata."""
    delay_s: float = 0.0
    """Delay of the answer; a cancelled call ends it."""
    gate: threading.Event | None = None
    """The answer waits for this event; a cancelled call ends the wait."""


@dataclass(frozen=True)
class ReceivedRequest:
    """A request as the server received it."""

    verb: str
    request: Any
    metadata: tuple[tuple[str, str | bytes], ...]
    remaining_s: float | None
    certificate_pem: bytes

    def header(self, key: str) -> list[str | bytes]:
        """All values of a metadata key."""
        return [value for name, value in self.metadata if name == key]


@dataclass
class ScriptedService(federation_pb2_grpc.FederationServiceServicer):
    """Answers each verb from its script; the last reply of a script repeats."""

    seen: list[ReceivedRequest] = field(default_factory=list)
    cancelled: int = 0
    finished: int = 0
    active: int = 0
    raw: bytes | None = None
    """Bytes that replace the message of every answer; they need not be parseable."""
    watches: Callable[[Any, Any], Iterator[pb.WatchResponse]] | None = None
    """Serves `Watch` instead of the echo."""
    scripts: dict[str, list[Reply]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self._changed = threading.Condition()

    def script(self, verb: str, *replies: Reply) -> None:
        """Answer the next calls of `verb` in this order; the last reply repeats."""
        self.scripts[verb] = list(replies)

    def calls(self, verb: str | None = None) -> int:
        """The number of received requests, of one verb or of all."""
        return sum(1 for seen in list(self.seen) if verb in {None, seen.verb})

    def wait(self, condition: Callable[["ScriptedService"], bool], timeout: float = 5.0) -> None:
        """Block until the condition holds; fail the test at the timeout."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), timeout), f"timed out; {self}"

    def List(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("list", request, context)

    def Get(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("get", request, context)

    def Search(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("search", request, context)

    def Capabilities(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("capabilities", request, context)

    def Watch(  # noqa: N802
        self, request_iterator: Any, context: Any
    ) -> Iterator[pb.WatchResponse]:
        """Serve with `watches` if set; otherwise arm, echo acknowledged ids, and end with the requests."""
        self._note("watch", None, context)
        if self.watches is not None:
            yield from self.watches(request_iterator, context)
            return
        context.send_initial_metadata((("_cached", "forged"), ("kept", "yes")))
        context.set_trailing_metadata((("_source", "forged"),))
        for request in request_iterator:
            if request.HasField("subscribe"):
                yield pb.WatchResponse(event_id=1, armed=pb.WatchArmed())
            else:
                yield pb.WatchResponse(event_id=request.ack.event_id, heartbeat=pb.WatchHeartbeat())

    def _note(self, verb: str, request: Any, context: Any) -> None:
        pem = b"".join(context.auth_context().get("x509_pem_cert", []))
        metadata = tuple((key, value) for key, value in context.invocation_metadata())
        remaining = context.time_remaining()
        with self._changed:
            self.seen.append(ReceivedRequest(verb, request, metadata, remaining, pem))
            self._changed.notify_all()

    def _next(self, verb: str) -> Reply:
        with self._changed:
            script = self.scripts[verb]
            return (script.pop(0) if len(script) > 1 else script[0]) if script else Reply()

    def _answer(self, verb: str, request: Any, context: Any) -> Any:
        reply = self._next(verb)
        gone = threading.Event()
        context.add_callback(gone.set)
        self._count(active=1)
        self._note(verb, request, context)
        if not _wait(reply, gone):
            self._count(active=-1, cancelled=1)
            return DEFAULTS[verb]
        self._count(active=-1, finished=1)
        return self._send(verb, reply, context)

    def _count(self, **steps: int) -> None:
        with self._changed:
            for name, step in steps.items():
                setattr(self, name, getattr(self, name) + step)
            self._changed.notify_all()

    def _send(self, verb: str, reply: Reply, context: Any) -> Any:
        code, details, trailing = reply.code, reply.details, reply.trailing
        if reply.refusal is not None:
            code, details, rich = refusal_status(reply.refusal)
            trailing = (*trailing, *rich)
        if reply.lease_ms is not None and code is grpc.StatusCode.OK:
            trailing = (*trailing, (LEASE_MS, str(reply.lease_ms)))
        if reply.initial:
            context.send_initial_metadata(reply.initial)
        context.set_trailing_metadata(trailing)
        context.set_code(code)
        context.set_details(details)
        return reply.message or DEFAULTS[verb]


def _wait(reply: Reply, gone: threading.Event) -> bool:
    """Delay the answer; return whether the call is still waiting."""
    end = time.monotonic() + reply.delay_s
    while (reply.gate is not None and not reply.gate.is_set()) or time.monotonic() < end:
        if gone.wait(0.005):
            return False
    return not gone.is_set()


class _Handlers(grpc.GenericRpcHandler):
    """The generated handlers, with answers that a service may replace by raw bytes."""

    def __init__(self, service: ScriptedService) -> None:
        self._service = service
        self._made: dict[str, Any] = {}
        federation_pb2_grpc.add_FederationServiceServicer_to_server(service, self)  # type: ignore[arg-type]

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Ignore the handlers; the generated code also passes them to `add_registered_method_handlers`."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """Register the generated handlers."""
        for name, handler in handlers.items():
            serialize = handler.response_serializer
            changed = handler._replace(response_serializer=partial(self._serialize, serialize))
            self._made[f"/{service}/{name}"] = changed

    def _serialize(self, serialize: Callable[[Any], bytes], message: Any) -> bytes:
        return serialize(message) if self._service.raw is None else self._service.raw

    def service(self, handler_call_details: Any) -> Any:
        """Find the handler of a method."""
        return self._made.get(handler_call_details.method)


class ScriptedPeer:
    """A scripted service on a free port, with the certificates and records of its clients."""

    def __init__(self, pki: Pki, gateway: str = "work.example", options: ServerOptions = SERVER) -> None:
        self.pki, self.gateway, self.options = pki, gateway, options
        self.service = ScriptedService()
        self.port = 0
        self._server: grpc.Server | None = None

    @property
    def endpoint(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start serving; after `stop`, on the same port."""
        server = grpc.server(ThreadPoolExecutor(max_workers=64), options=self.options.to_grpc())
        server.add_generic_rpc_handlers((_Handlers(self.service),))
        leaf = self.pki.server(self.gateway, "127.0.0.1")
        credentials = server_credentials(leaf, self.pki.trust_bundle)
        self.port = server.add_secure_port(self.endpoint, credentials)
        server.start()
        self._server = server

    def stop(self) -> None:
        """Stop immediately and abort calls in flight. Stopping twice is allowed."""
        server, self._server = self._server, None
        if server is not None:
            server.stop(None).wait()

    def record(
        self, *, user: str = "ada", name: str = "", grant_id: str = GRANT_ID, identity: Leaf | None = None
    ) -> PeerRecord:
        """The enrollment of `user` at this peer, with a valid certificate unless `identity` is given."""
        return peer_record(
            identity or self.pki.client(grant_id, user),
            self.pki.trust_bundle,
            self.endpoint,
            name=name or self.gateway,
            gateway=self.gateway,
            user=user,
            grant_id=grant_id,
        )

    def aio_channel(self, identity: Leaf | None = None, interceptors: Any = None) -> grpc.aio.Channel:
        """A bare aio channel, with a valid certificate unless `identity` is given."""
        credentials = self._credentials(identity)
        return grpc.aio.secure_channel(self.endpoint, credentials, self._options, interceptors=interceptors)

    def sync_channel(self, identity: Leaf | None = None) -> grpc.Channel:
        """A bare sync channel, with a valid certificate unless `identity` is given."""
        return grpc.secure_channel(self.endpoint, self._credentials(identity), self._options)

    @property
    def _options(self) -> list[tuple[str, str]]:
        return [("grpc.ssl_target_name_override", self.gateway)]

    def _credentials(self, identity: Leaf | None) -> grpc.ChannelCredentials:
        return channel_credentials(self.pki.trust_bundle, identity or self.pki.client())


@pytest.fixture(scope="session")
def peer_pki() -> Pki:
    """One authority for the scripted peers of a test run."""
    return Pki()


@pytest.fixture
def scripted(peer_pki: Pki) -> Iterator[ScriptedPeer]:
    """A running scripted peer."""
    peer = ScriptedPeer(peer_pki)
    peer.start()
    yield peer
    peer.stop()


@pytest.fixture
def other_scripted(peer_pki: Pki) -> Iterator[ScriptedPeer]:
    """A second running scripted peer, named lab.example."""
    peer = ScriptedPeer(peer_pki, "lab.example")
    peer.start()
    yield peer
    peer.stop()


@pytest.fixture(params=["channel", "interceptors"])
def form(request: pytest.FixtureRequest) -> str:
    """Runs a test over the project's channel, and over a bare channel with the project's interceptors."""
    return str(request.param)


async def eventually(condition: Callable[[], bool], timeout: float = 5.0) -> None:
    """Let the loop run until the condition holds; fail the test at the timeout."""
    async for _ in _ticks(timeout):
        if condition():
            return
    raise AssertionError("the condition did not hold in time")


async def _ticks(timeout: float) -> AsyncIterator[None]:
    import asyncio  # noqa: PLC0415 - only aio tests need it

    end = time.monotonic() + timeout
    while time.monotonic() < end:
        yield
        await asyncio.sleep(0.005)
