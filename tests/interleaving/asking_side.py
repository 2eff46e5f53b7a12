"""The real cache, flows, driver and event handler of one asking cache, for one grant."""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field

import grpc

from federation.cache.entries import InvalidationReason
from federation.cache.response_cache import Partition, ResponseCache
from federation.client.chain.flow import Flight, Outcome
from federation.client.chain.runner import FlowRunner
from federation.client.watch.events import EventHandler
from federation.client.watch.policy import EventRate
from federation.server.watch.subscriptions import Watcher
from federation.v1 import federation_pb2 as pb
from tests.interleaving.granting_side import Answer, RunningRevocation
from tests.interleaving.snapshot import CanonicalNames
from tests.support.clock import ManualClock
from tests.support.manual_driver import ManualChain, ManualDriver, ScriptedSink, Wire, ids, make_call

DEADLINE_S = 10.0


class BlockingDriver(ManualDriver):
    """A driver whose callers block in their wire call: nothing reaches them before it returns."""

    def __init__(self, time: ManualClock) -> None:
        super().__init__(time)
        self.late: list[Callable[[], object]] = []

    def in_loop(self, function: Callable[[], object]) -> Callable[[], None]:
        """Defer the function until no call blocks."""

        def call() -> None:
            if any(wire.open for wire in self.wires):
                self.late.append(function)
            else:
                function()

        return call

    def wake(self) -> None:
        """Call the deferred functions."""
        while self.late and not any(wire.open for wire in self.wires):
            self.late.pop(0)()


@dataclass
class Stream:
    """A watch stream: B's watcher, the events on their way to A, and the acknowledgements on their way to B."""

    watcher: Watcher
    version: int
    """The version of the rows when B armed it."""
    scope: int
    events: list[tuple[pb.WatchResponse, int]] = field(default_factory=list)
    """Each with the version of the rows when it was sent."""
    acks: list[pb.WatchAck] = field(default_factory=list)
    lost: bool = False
    """A has noticed the loss of the stream; B has not."""

    @property
    def is_arming(self) -> bool:
        """Whether the armed event has not reached A."""
        return bool(self.events) and self.events[0][0].WhichOneof("kind") == "armed"

    def digest(self, known: int) -> Hashable:
        """The messages on their way. Of an acknowledgement, only the event type counts, not the event id."""
        words = tuple((event.WhichOneof("kind"), version - known) for event, version in self.events)
        acks = tuple(self.watcher._unacked[ack.event_id].event_type.value for ack in self.acks)
        at = (self.version - known, self.scope) if self.is_arming else ()
        return (at, words, acks, self.watcher.ended.done())


@dataclass
class Caller:
    """One call of a user of A."""

    side: int
    verb: str
    deadline_s: float = DEADLINE_S
    detach: bool = False
    run: FlowRunner | None = None
    version_known: int = 0
    receipts: list[RunningRevocation] = field(default_factory=list)
    """The revocations that were effective when the call began."""
    checked: bool = False


class AskingSide:
    """One cache, or a second peer's partition of it, with its own watch."""

    def __init__(
        self,
        grant: str,
        instance: str,
        cache: ResponseCache[Flight],
        name: str,
        time: ManualClock,
        *,
        partition: type[Partition[Flight]] = Partition,
        handler: type[EventHandler] = EventHandler,
        blocking: bool = False,
    ) -> None:
        self.grant, self.instance, self.time = grant, instance, time
        self._start_s = time.monotonic_s
        self.partition = partition(cache)
        self.sink = ScriptedSink()
        self.driver = BlockingDriver(time) if blocking else ManualDriver(time)
        self.chain = ManualChain(self.driver, self.partition, self.sink)
        self.blocking = blocking
        self.runs: list[FlowRunner] = []
        self.sent: list[float] = []
        """When each call left, on this side's clock."""
        self.stream: Stream | None = None
        self.old: list[Stream] = []
        self.arming: Outcome | None = None
        """A refusal of the watch on its way to A."""
        self.version = 0
        """The newest version of the rows in an event to A, or when its watch was armed."""
        self.scope = 0
        """The scope in the newest event to A."""
        self.kept_scope = 0
        """The scope of every answer that may be cached."""
        self.owes = False
        """Whether B may await an acknowledgement: the watch was armed, and has sent no revocation."""
        self.handler = handler(
            grant, self.partition, revoke=self.sink.on_revoked, fail=self._fail, rate=EventRate(1_000_000)
        )

    def call(self, caller: Caller) -> None:
        """Begin a call."""
        caller.version_known = self.version
        deadline = self.time.monotonic_s + caller.deadline_s
        call = make_call(caller.verb, deadline=deadline, grant_id=self.grant, detach=caller.detach)
        caller.run = self.chain.start(call)
        self.runs.append(caller.run)

    def record_sent(self) -> None:
        """Record the present instant for each call that left since the last event."""
        self.sent += [self.time.monotonic_s] * (len(self.wires) - len(self.sent))

    def hear(self) -> None:
        """Handle the next event of the stream, and acknowledge it."""
        assert self.stream is not None
        stream = self.stream
        event, version = stream.events.pop(0)
        kind = event.WhichOneof("kind")
        self.owes = kind != "grant_revoked"
        if kind == "armed":
            self.handler.on_rearmed()
            self.version, self.kept_scope = max(self.version, stream.version), max(self.kept_scope, stream.scope)
        ack = self.handler.handle(event, self.time.monotonic_s)
        if kind == "resource_changed":
            self.version = max(self.version, version)
        if kind == "grant_changed":
            self.scope = self.kept_scope = 1
        if ack is not None:
            stream.acks.append(ack)

    def hear_refusal(self) -> None:
        """Handle a refused watch, by the chain's handling of refusals."""
        run = self.chain.start(make_call("watch", b"", resource="", grant_id=self.grant))
        assert self.arming is not None
        self.driver.wires[-1].answer(self.arming)
        self.driver.wires.pop()
        assert run.done
        self.arming, self.owes = None, False

    def rotate(self) -> None:
        """Replace the certificate."""
        self.partition.flush(InvalidationReason.ROTATION)

    def _fail(self) -> int:
        under_way = [run for run in self.runs if not run.done]
        for run in under_way:
            assert self.sink.refusal is not None
            run.resolve_threadsafe(self.sink.refusal)
        return len(under_way)

    @property
    def wires(self) -> list[Wire]:
        """Every sent call."""
        return self.driver.wires

    def kept(self) -> Iterator[Answer]:
        """The cached answers that a lookup could find now."""
        clock = self.time
        for bucket in self.partition._buckets():
            for entry in bucket._entries.values():
                if entry.is_alive(clock.elapsed_s, clock.wall_s):
                    [text] = ids(Outcome(grpc.StatusCode.OK, entry.body))
                    yield Answer.read(text)

    def digest(self, names: CanonicalNames, known: int) -> Hashable:
        """The state of the cache and its watch that decides on later events."""
        known_of_rows = () if self.sink.refusal is not None else (self.version - known, self.scope, self.kept_scope)
        return (
            (known_of_rows, self.owes, self.arming is not None),
            tuple((grant.revoked, names.buckets(grant.buckets)) for grant in self.partition._grants.values()),
            len(self.driver.late) if isinstance(self.driver, BlockingDriver) else 0,
            self.stream and self.stream.digest(known),
            tuple(stream.digest(known) for stream in self.old),
        )

    def versions(self) -> Iterator[int]:
        """The versions of the rows in this side, its watch and its entries."""
        if self.sink.refusal is None:
            yield self.version
        for bucket in self.partition._buckets():
            yield from (Answer.of(entry.body).version for entry in bucket._entries.values())
        for stream in (self.stream, *self.old):
            if stream is not None:
                yield from (version for _, version in stream.events)
                if stream.is_arming:
                    yield stream.version

    @property
    def passed_s(self) -> float:
        """The elapsed time on its clock."""
        return self.time.monotonic_s - self._start_s
