"""A driver that a test steps by hand, with the real `FlowRunner` and flows; the test answers the calls."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from federation.cache.response_cache import Partition, ResponseCache
from federation.client.chain.flow import Call, Flight, Outcome, Proceed, compose, refused
from federation.client.chain.outcomes import timed_out
from federation.client.chain.runner import FlowRunner, Suspension
from federation.client.interceptors.caching import CachingInterceptor
from federation.errors import Reason, Refusal
from federation.v1 import federation_pb2 as pb
from federation.wire.metadata import LEASE_MS
from tests.support.clock import ManualClock


def make_call(
    verb: str = "list",
    request: bytes = b"query",
    *,
    resource: str = "tasks",
    grant_id: str = "grant-1",
    deadline: float = 1e9,
    detach: bool = False,
    trace: Any = None,
) -> Call:
    """A call with defaults for all fields."""
    method = f"/federation.v1.FederationService/{verb.capitalize()}"
    return Call(
        method, verb, resource, grant_id, "work.example", "ada", request, (), deadline, trace=trace, detach=detach
    )


def rows(*ids: str, lease_ms: int | str | None = 30_000) -> Outcome:
    """A successful answer to `List` with these row ids."""
    body = pb.ListResponse(rows=[pb.Row(id=row_id) for row_id in ids]).SerializeToString()
    return Outcome(grpc.StatusCode.OK, body, trailing=() if lease_ms is None else ((LEASE_MS, str(lease_ms)),))


def ids(outcome: Outcome | None) -> list[str]:
    """The row ids of a successful answer."""
    assert outcome is not None
    assert outcome.ok, outcome
    return [row.id for row in pb.ListResponse.FromString(outcome.body).rows]


@dataclass
class Wire:
    """One sent call: answered by the test, or cancelled by its runner."""

    runner: FlowRunner
    suspension: Suspension
    call: Call
    cancelled: bool = False
    answered: bool = False

    def answer(self, outcome: Outcome) -> None:
        """Deliver the answer."""
        self.answered = True
        self.runner.answer(self.suspension, outcome)

    def cancel(self) -> None:
        """Record that the runner stopped waiting."""
        self.cancelled = True

    @property
    def open(self) -> bool:
        """Whether an answer would still be accepted."""
        return not self.answered and not self.cancelled


@dataclass
class Timer:
    """A function to call at a time."""

    at: float
    function: Callable[[], object]
    stopped: bool = False

    def stop(self) -> None:
        """Cancel the timer."""
        self.stopped = True


@dataclass
class ManualDriver:
    """A single-threaded driver that keeps wires and timers in lists."""

    time: ManualClock = field(default_factory=ManualClock)
    wires: list[Wire] = field(default_factory=list)
    timers: list[Timer] = field(default_factory=list)

    def send(self, runner: FlowRunner, suspension: Suspension, call: Call) -> Outcome | None:
        """Record the call as a wire."""
        wire = Wire(runner, suspension, call)
        self.wires.append(wire)
        suspension.on_claim(wire.cancel)
        return None

    def in_loop(self, function: Callable[[], object]) -> Callable[[], None]:
        """Call immediately: there is one thread."""

        def call() -> None:
            function()

        return call

    def timer(self, at: float, function: Callable[[], object]) -> Callable[[], object]:
        """Record a timer."""
        timer = Timer(at, function)
        self.timers.append(timer)
        return timer.stop

    def advance(self, seconds: float) -> None:
        """Advance the clock, fire due timers, and time out wires whose deadline passed, as gRPC does."""
        self.time.advance(seconds)
        now = self.time.monotonic_s
        for timer in sorted(self.timers, key=lambda timer: timer.at):
            if timer.at <= now and not timer.stopped:
                timer.stopped = True
                timer.function()
        for wire in list(self.wires):
            if wire.open and wire.call.deadline <= now:
                wire.answer(timed_out())


class ScriptedSink:
    """The state of the grant, as a `Peer` keeps it."""

    def __init__(self) -> None:
        self.refusal: Outcome | None = None

    def on_revoked(self, _reason: str) -> None:
        """Refuse every call from here on."""
        self.refusal = self.refusal or refused(Refusal(Reason.GRANT_REVOKED, "revoked"))


class ManualChain:
    """The caching interceptor of one peer over a manual driver."""

    def __init__(
        self,
        driver: ManualDriver | None = None,
        partition: Partition[Flight] | None = None,
        sink: ScriptedSink | None = None,
    ) -> None:
        self.driver = driver or ManualDriver()
        self.partition = partition or ResponseCache[Flight](self.driver.time.clock).partition("peer-1")
        self._proceed: Proceed = compose(
            [CachingInterceptor(self.partition, self.driver.time.clock, sink or ScriptedSink())]
        )

    @property
    def wires(self) -> list[Wire]:
        """Every call sent so far, in order."""
        return self.driver.wires

    def start(self, call: Call) -> FlowRunner:
        """Start a call; a cache hit is done when this returns."""
        runner = FlowRunner(self.driver, self._proceed(call))
        runner.start()
        return runner

    def fetch(self, call: Call, answer: Outcome) -> Outcome | None:
        """Start a call and answer it if it was sent; return its outcome."""
        before = len(self.wires)
        runner = self.start(call)
        if len(self.wires) > before:
            self.wires[-1].answer(answer)
        return runner.outcome
