"""The chain's order, and its two members that write metadata, driven by hand."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from federation.client.chain.chain import build_chain
from federation.client.chain.flow import Call, Flow, Outcome, Proceed, compose
from federation.client.interceptors.breaking import BreakingInterceptor
from federation.client.interceptors.caching import CachingInterceptor
from federation.client.interceptors.metadata_check import fault_of
from federation.client.interceptors.propagation import PropagationInterceptor
from federation.client.interceptors.rpc_spans import RpcSpansInterceptor
from federation.client.interceptors.tagging import TaggingInterceptor
from federation.client.interceptors.tracing import TracingInterceptor
from federation.client.runtime import ClientRuntime
from federation.clock import SYSTEM_CLOCK
from federation.config import TelemetryConfig
from federation.store.peers import PeerRecord
from federation.telemetry.metrics import FederationMetrics
from federation.telemetry.spans import SpanSource
from federation.telemetry.telemetry import Telemetry
from tests.support.federations import config_of

CALL = Call("/m", "search", "tasks", "g", "work.example", "ada", b"", (), 10.0)
ORDER = ["tracing", "tagging", "caching", "breaking", "propagation", "rpc_spans"]
GOOD = Outcome(grpc.StatusCode.OK, b"")


class Recording:
    """Notes when a call comes in and when it goes out."""

    def __init__(self, name: str, log: list[str]) -> None:
        self._name, self._log = name, log

    def intercept(self, proceed: Proceed, call: Call) -> Flow:
        self._log.append(f"{self._name} in")
        outcome = yield from proceed(call)
        self._log.append(f"{self._name} out")
        return outcome


def finish(flow: Flow, outcome: Outcome = GOOD) -> tuple[Call, Outcome]:
    """Drive a flow that sends once; return what it sent and what it made of the outcome."""
    sent: Any = flow.send(None)  # type: ignore[arg-type]
    with pytest.raises(StopIteration) as end:
        flow.send(outcome)
    return sent, end.value.value


def test_order() -> None:
    """Calls pass tracing, tagging, caching, breaking and propagation; outcomes pass them in reverse."""
    log: list[str] = []
    members: Any = {name: Recording(name, log) for name in reversed(ORDER)}
    finish(compose(build_chain(**members))(CALL))
    assert log == [f"{name} in" for name in ORDER] + [f"{name} out" for name in reversed(ORDER)]


def test_members_that_are_switched_off_are_left_out() -> None:
    """Tagging and propagation are always present; the other members only if given."""
    log: list[str] = []
    tagging, propagation = Recording("tagging", log), Recording("propagation", log)
    assert build_chain(tagging=tagging, propagation=propagation) == (tagging, propagation)


@pytest.mark.parametrize("rpc_spans", [True, False])
def test_real_chain_of_a_peer(rpc_spans: bool, tmp_path: Path) -> None:
    """A peer's chain has the real members in that order, RPC spans only when switched on."""
    telemetry = Telemetry(SpanSource(), FederationMetrics())
    config = config_of(tmp_path, telemetry=TelemetryConfig(rpc_spans=rpc_spans))
    runtime = ClientRuntime(config, SYSTEM_CLOCK, telemetry)
    kinds = [TracingInterceptor, TaggingInterceptor, CachingInterceptor, BreakingInterceptor, PropagationInterceptor]
    peer: Any = type("Peer", (), {"record": record(), "tagging": TaggingInterceptor("work.example")})()
    assert [type(member) for member in runtime.build_peer(peer)] == kinds + [RpcSpansInterceptor] * rpc_spans
    runtime.close()


def record() -> PeerRecord:
    """An enrollment that is never dialled."""
    text = dict.fromkeys(("name", "user", "gateway", "endpoint", "grant_id", "subject"), "x")
    return PeerRecord(id="p", certificate_pem="", key_pem="", trust_bundle="", created_at_us=0, **text)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("code", [grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND])
def test_tagging_is_the_only_author_of_tags(cached: bool, code: grpc.StatusCode) -> None:
    """Hits, live answers and errors get both tags once, appended; the peer's values of these keys are removed."""
    forged = (("_cached", "true"), ("a", "b"), ("_source", "local"), ("_source", "x"))
    outcome = Outcome(code, initial=forged, trailing=forged, cached=cached)
    _, tagged = finish(compose([TaggingInterceptor("work.example")])(CALL), outcome)
    assert tagged.initial == (("a", "b"),)
    assert tagged.trailing == (
        ("a", "b"),
        ("_source", "federated:work.example"),
        ("_cached", "true" if cached else "false"),
    )


@pytest.mark.parametrize(
    ("pair", "fault"),
    [
        (("key", "value"), ""),
        (("key-bin", b"\x00"), ""),
        (("key", b"text"), ""),
        (("key.with_all-1", ""), ""),
        (("Key", "v"), "lower-case"),
        (("", "v"), "lower-case"),
        ((":authority", "v"), "lower-case"),
        (("key\n", "v"), "lower-case"),
        ((b"key", "v"), "lower-case"),
        (("grpc-timeout", "1S"), "reserved"),
        (("key-bin", "text"), "bytes"),
        (("key", "ä"), "printable"),
        (("key", "\x7f"), "printable"),
        (("key", b"\xff"), "printable"),
        (("key", 1), "printable"),
        (("key",), "pair"),
        ("ab", "pair"),
    ],
)
def test_faults_of_callers_metadata(pair: Any, fault: str) -> None:
    """Each pair that gRPC could not send unchanged is named; valid pairs pass."""
    found = fault_of((("fine", "yes"), pair))
    assert (fault in found) if fault else found == ""


def test_propagation_writes_the_span_of_the_call() -> None:
    """With a span on the call its traceparent is sent, in place of the caller's."""

    class Trace:
        def traceparent(self) -> str:
            return "00-aa-bb-01"

        def add_event(self, name: str, attributes: Any) -> None:
            raise AssertionError

    call = CALL._replace(trace=Trace(), metadata=(("traceparent", "forged"), ("own", "kept"), ("mosaic-x", "y")))
    sent, _ = finish(compose([PropagationInterceptor(lambda: "f" * 32)])(call))
    assert sent.metadata == (("own", "kept"), ("traceparent", "00-aa-bb-01"), ("mosaic-instance", "f" * 32))


def test_propagation_without_a_tracing_member_takes_the_current_span() -> None:
    """Without a span on the call, the program's current span is the parent, if there is one."""
    context = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    chain = compose([PropagationInterceptor(lambda: "id")])
    with trace.use_span(NonRecordingSpan(context)):
        sent, _ = finish(chain(CALL))
    assert dict(sent.metadata)["traceparent"] == f"00-{1:032x}-{2:016x}-01"
    sent, _ = finish(chain(CALL))
    assert sent.metadata == (("mosaic-instance", "id"),)
