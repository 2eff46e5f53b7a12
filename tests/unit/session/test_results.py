"""Cache-only calls: a hit or nothing, without flight, circuit or span of a miss."""

import asyncio
from pathlib import Path

import grpc
import pytest
from opentelemetry.trace import NoOpTracerProvider

from federation.cache.entries import InvalidationReason, Key
from federation.client.chain.flow import Call, Flow, Outcome, Proceed, refused
from federation.client.interceptors.tracing import TracingInterceptor
from federation.errors import Reason, Refusal
from federation.telemetry.metrics import FederationMetrics
from federation.telemetry.spans import SpanSource
from federation.v1 import federation_pb2 as pb
from federation.wire.requests import query_hash
from federation.wire.status import error_detail
from federation.wire.verbs import VERB_BY_NAME
from tests.support.clock import ManualClock
from tests.support.federations import federation_of
from tests.support.manual_driver import ManualChain, make_call, rows
from tests.support.memory_exporters import MetricLog, SpanLog, answer
from tests.support.scripted import Reply, ScriptedPeer

CALL = make_call(trace=None)
HIT = Outcome(grpc.StatusCode.OK, b"rows", cached=True, age_s=3.0)
HIT_ONLY = make_call()._replace(hit_only=True)
LIST = VERB_BY_NAME["list"]


class Serve:
    """An inner member that answers without the wire."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def intercept(self, proceed: Proceed, call: Call) -> Flow:
        del proceed, call
        return self.outcome
        yield


def test_a_cached_answer_is_returned_and_counted() -> None:
    """An answer that another call fetched is a hit with its age."""
    chain = ManualChain()
    chain.fetch(make_call(), rows("t1"))
    chain.driver.advance(3)
    run = chain.start(HIT_ONLY)
    assert run.outcome is not None
    assert (run.outcome.ok, run.outcome.cached, run.outcome.age_s) == (True, True, 3.0)
    assert chain.partition.stats().hits == 1


def test_nothing_is_sent_joined_or_counted_for_a_miss() -> None:
    """Without an entry, beside a flight under way, and for verbs that are never kept: the end is there at once."""
    chain = ManualChain()
    empty = chain.start(HIT_ONLY)
    under_way = chain.start(make_call())
    misses = chain.partition.stats().misses
    beside = chain.start(HIT_ONLY)
    search = chain.start(HIT_ONLY._replace(verb="search"))

    for run in (empty, beside, search):
        assert run.done
        assert run.outcome is not None
        assert not run.outcome.ok
        assert error_detail(run.outcome.trailing).local
    assert (len(chain.wires), under_way.done) == (1, False)
    assert chain.partition.stats().misses == misses


def test_an_ended_or_flushed_entry_is_no_hit() -> None:
    """A cache-only look-up respects lifetime and flushes."""
    chain = ManualChain()
    chain.fetch(make_call(), rows("t1", lease_ms=1_000))
    key = Key("grant-1", "list", "tasks", query_hash(b"query"))
    assert chain.partition.peek(key) is not None
    chain.driver.advance(2)
    assert chain.partition.peek(key) is None
    chain.fetch(make_call(), rows("t1"))
    chain.partition.flush(InvalidationReason.GRANT_CHANGED, "grant-1")
    assert chain.partition.peek(key) is None
    assert chain.partition.peek(key._replace(grant_id="other")) is None


def test_a_cache_only_miss_has_no_span_and_no_metric(span_log: SpanLog, metric_log: MetricLog) -> None:
    """A cache-only look-up without a hit records nothing; a hit has a span."""
    metrics = FederationMetrics(metric_log.provider)
    member = TracingInterceptor(span_log.source, ManualClock().clock, metrics)
    missed = refused(Refusal(Reason.PEER_UNREACHABLE, "not kept"))
    answer([member, Serve(missed)], CALL._replace(hit_only=True))
    assert span_log.started == 0
    assert metric_log.points("federation.client.requests") == {}
    answer([member, Serve(HIT)], CALL._replace(hit_only=True))
    assert len(span_log.ended) == 1
    silent = TracingInterceptor(SpanSource(NoOpTracerProvider()), ManualClock().clock, metrics)
    answer([silent, Serve(missed)], CALL._replace(hit_only=True))
    assert sum(metric_log.points("federation.client.requests").values()) == 1


async def test_a_calls_outcome_and_message_are_there_after_its_end(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Before its end a call has neither; then it has both, with age, without a task; a failed one raises."""
    scripted.service.script("list", Reply(), Reply(refusal=Refusal(Reason.INTERNAL, "no")))
    async with federation_of(tmp_path, scripted.record()) as fed:
        channel = fed.channel("work.example", "ada")
        call = channel.start(LIST, pb.ListRequest(resource="tasks"), None, None, detach=True)
        with pytest.raises(asyncio.InvalidStateError):
            _ = call.outcome
        with pytest.raises(asyncio.InvalidStateError):
            call.message()
        await call
        assert call.message() is await call
        hit = channel.start(LIST, pb.ListRequest(resource="tasks"), None, None, hit_only=True)
        assert hit.outcome.cached
        assert 0 < hit.outcome.age_s < 5
        assert hit.message().rows[0].id == "t1"
        failed = channel.start(LIST, pb.ListRequest(resource="notes"), None, None)
        with pytest.raises(grpc.RpcError):
            await failed
        with pytest.raises(grpc.RpcError):
            failed.message()
        assert failed.outcome.code is grpc.StatusCode.INTERNAL
