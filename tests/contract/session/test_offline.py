"""An offline peer: one signal, one budget, and its return without a call of the session."""

import asyncio
import logging
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from grpc.aio import AioRpcError
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from federation.breaker import CallResult
from federation.config import CircuitConfig, ClientConfig, SessionConfig
from federation.errors import Action, Reason, Refusal, Remedy
from federation.federation import Federation
from federation.session.classification import MIN_CONCLUSIVE_S
from federation.session.peer_request import MIN_RETRY_WAIT_S
from federation.session.results import Result, SourceState
from federation.session.session import Session
from federation.session.signals import PeerSignal, SignalKind
from federation.v1 import federation_pb2 as pb
from tests.support.clock import ManualClock
from tests.support.network_faults import Relay
from tests.support.pki import Pki
from tests.support.scripted import Reply, ScriptedPeer, eventually
from tests.support.sessions import LAB, QUICK, WORK, flush_peer, ids, own_rows, report, states, with_data

SOON = CircuitConfig(cooldown_s=0.15, jitter=0.0)
LIST = pb.ListRequest(resource="tasks")
LONG = SessionConfig(peer_budget_s=60.0)
AT_ONCE_S = 20.0
"""Less than any long budget, and far more than a slow machine needs for a request without a wait."""


async def answered(fed: Federation) -> None:
    """Call the peer until it answers: gRPC chooses when it dials a failed connection again."""
    async with asyncio.timeout(AT_ONCE_S):
        while True:
            try:
                await fed.stub("work.example", "ada").Get(pb.GetRequest(resource="tasks", id="t1"))
            except AioRpcError:
                await asyncio.sleep(0.02)
            else:
                return


async def timed(session: Session, source: str, rounds: int = 200) -> float:
    """The least milliseconds of a list: of many, so that a pause of the machine does not count."""
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        await session.list("tasks", source=source)
        best = min(best, time.perf_counter() - began)
    return best * 1e3


async def test_a_stopped_peer_costs_no_budget_and_one_signal(
    tmp_path: Path, scripted: ScriptedPeer, caplog: pytest.LogCaptureFixture
) -> None:
    """A hundred concurrent requests wait for no budget, return local rows and give one signal; later ones are fast.

    The signal is in one result, in the callback, in the iterator and in the log; a second session gets its own signal.
    """
    scripted.stop()
    heard: list[PeerSignal] = []
    fed = with_data(tmp_path, scripted.record(), session=LONG)
    async with fed, fed.session("ada", on_signal=heard.append) as session:
        began = time.monotonic()
        asked = (
            (session.list("tasks", page_size=1 + n % 3) for n in range(50)),
            (session.search("own") for _ in range(50)),
        )
        results = await asyncio.gather(*(request for each in asked for request in each))
        assert time.monotonic() - began < 2.0
        assert {report(result, WORK).state for result in results} <= {SourceState.OFFLINE, SourceState.SKIPPED}
        assert all(result.rows and result.partial for result in results)

        [signal] = [signal for result in results for signal in result.signals]
        assert heard == [signal]
        assert await anext(session.signals()) == signal
        assert (signal.text, signal.reason) == ("federation offline for work.example", Reason.PEER_UNREACHABLE)
        assert signal.remedy == Remedy(action=Action.EXPLAIN_PEER, peer="work.example", user="ada")
        assert signal.retry_at_us is not None
        assert signal.retry_at_us >= signal.since_us + 29_000_000
        logged = [record for record in caplog.records if "federation offline" in record.getMessage()]
        assert [(record.levelno, signal.message in record.getMessage()) for record in logged] == [
            (logging.WARNING, True)
        ]

        skipped = report(await session.list("tasks"), WORK)
        assert (skipped.state, skipped.reason) == (SourceState.SKIPPED, Reason.PEER_UNREACHABLE)
        assert 28 < (skipped.retry_after_s or 0) <= 31
        assert await timed(session, "all") < await timed(session, "local") + 1.0

        async with fed.session("ada") as second:
            [its_own] = (await second.list("tasks")).signals
            assert its_own.text == signal.text
        assert len(heard) == 1


async def test_a_silent_peer_ends_at_its_budget(tmp_path: Path, scripted: ScriptedPeer, silent_port: Relay) -> None:
    """A request to a peer that never answers takes one budget; later requests dial and wait for nothing."""
    record = replace(scripted.record(), endpoint=silent_port.endpoint)
    patient = ClientConfig(deadline_s=60.0, watch=False)
    async with with_data(tmp_path, record, client=patient) as fed:
        took = []
        for _ in range(3):
            async with fed.session("ada", config=QUICK) as each:
                began = time.monotonic()
                await each.list("tasks")
                took.append(time.monotonic() - began)
        assert 0.29 < min(took) < 0.3 + 0.05

        session = fed.session("ada", config=QUICK)
        result = await session.list("tasks")
        assert (report(result, WORK).reason, report(result, WORK).state) == (Reason.PEER_TIMEOUT, SourceState.OFFLINE)
        assert [signal.reason for signal in result.signals] == [Reason.PEER_TIMEOUT]
        assert len(ids(result)) == 3
        assert await timed(session, "all") < await timed(session, "local") + 1.0
        assert silent_port.accepts == 1


async def test_a_call_beyond_its_budget_fills_the_cache(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A peer's answer after the budget is cached: the next request has its rows, although the peer is offline."""
    gate = threading.Event()
    scripted.service.script("list", Reply(gate=gate))
    config = SessionConfig(peer_budget_s=0.6)  # the call goes on for as long again
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada", config=config) as session:
        assert states(await session.list("tasks"))[WORK] == "offline"
        peer = fed.peer("work.example")
        assert peer.cache is not None
        assert (peer.cache.stats().detached, scripted.service.cancelled) == (1, 0)
        gate.set()
        await eventually(lambda: peer.cache.stats().entries == 1)

        result = await session.list("tasks")
        assert states(result) == {"local": "ok", WORK: "cached"}
        assert "t1" in ids(result)
        assert scripted.service.calls() == 1


async def test_an_uncached_call_is_cancelled_at_its_budget(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A search cannot fill the cache, so it is cancelled at the peer when the budget is used up."""
    scripted.service.script("search", Reply(gate=threading.Event()))
    config = SessionConfig(peer_budget_s=0.6)
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada", config=config) as session:
        await answered(fed)  # so that the search needs no handshake, and arrives within the budget
        assert states(await session.search("own"))[WORK] == "offline"
        await eventually(lambda: scripted.service.cancelled == 1)


async def test_cached_answers_are_returned_while_the_peer_is_offline(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A cache hit needs no peer: the source is cached, the result is complete, and no call is sent."""
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        await session.list("tasks")
        scripted.stop()
        assert states(await session.list("notes"))[WORK] == "offline"
        peer = fed.peer("work.example")
        assert peer.circuit is not None
        assert peer.cache is not None
        failures, figures = peer.circuit.snapshot(0.0), peer.cache.stats()

        result = await session.list("tasks")
        assert (states(result)[WORK], result.partial) == ("cached", False)
        assert states(await session.list("memory"))[WORK] == "skipped"
        assert states(await session.search("own"))[WORK] == "skipped"
        assert peer.circuit.snapshot(0.0) == failures
        after = peer.cache.stats()
        assert (after.misses, after.flights, after.hits) == (figures.misses, 0, figures.hits + 1)


async def test_a_probe_finds_the_peer_again(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Per cooldown one probe is sent for all sessions; each session gets one signal of the peer's return."""
    scripted.stop()
    async with with_data(tmp_path, scripted.record(), circuit=SOON) as fed:
        async with fed.session("ada") as session, fed.session("ada") as second:
            await asyncio.gather(session.list("tasks"), second.list("tasks"))
            assert fed._session_context is not None
            assert len(fed._session_context.probes) == 1
            tasks = asyncio.all_tasks()
            scripted.start()
            signals = [session.signals(), second.signals()]
            both = await asyncio.gather(*(take(each, 2) for each in signals))
            assert asyncio.all_tasks() == tasks
            for heard in both:
                assert [signal.text for signal in heard] == [
                    "federation offline for work.example",
                    "federation restored for work.example",
                ]
            assert scripted.service.calls("capabilities") == 1
            assert states(await session.list("tasks"))[WORK] == "ok"
            assert len(fed._session_context.probes) == 0

            flush_peer(fed)
            scripted.stop()
            assert states(await session.list("tasks"))[WORK] == "offline"
            assert (await session.list("tasks")).signals == ()
            scripted.start()
            await back(session)
        assert [signal.kind for signal in await everything(session)] == [SignalKind.OFFLINE, SignalKind.RESTORED]


async def take(signals: Any, count: int) -> list[PeerSignal]:
    """The first signals."""
    async with asyncio.timeout(AT_ONCE_S):
        return [await anext(signals) for _ in range(count)]


async def everything(session: Session) -> list[PeerSignal]:
    """All signals of a closed session."""
    return [signal async for signal in session.signals()]


async def back(session: Session) -> Result:
    """Query until the peer is queried again."""
    async with asyncio.timeout(AT_ONCE_S):
        while True:
            result = await session.list("tasks")
            if states(result)[WORK] == "ok":
                return result
            await asyncio.sleep(0.02)


async def test_a_failed_probe_waits_for_another_cooldown(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """The session continues to skip the peer, and the report's `retry_after_s` follows the probe."""
    relay = Relay(scripted.port)
    record = replace(scripted.record(), endpoint=relay.endpoint)
    relay.freeze()
    config = SessionConfig(peer_budget_s=0.1)
    async with with_data(tmp_path, record, circuit=SOON, session=config) as fed, fed.session("ada") as session:
        await session.list("tasks")
        dialled = relay.accepts
        await eventually(lambda: relay.accepts > dialled or relay.bytes_in > 4_000)
        assert states(await session.list("tasks"))[WORK] == "skipped"
        relay.thaw()
        await back(session)
    relay.close()


async def test_a_successful_call_ends_the_outage(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """After a successful call of another caller, the next request queries the peer and has the signal."""
    scripted.stop()
    lasting = CircuitConfig(failure_threshold=10_000)
    async with with_data(tmp_path, scripted.record(), circuit=lasting) as fed, fed.session("ada") as session:
        await session.list("tasks")
        scripted.start()
        await answered(fed)
        result = await session.list("tasks")
        assert states(result)[WORK] == "ok"
        assert [signal.text for signal in result.signals] == ["federation restored for work.example"]


async def test_no_probe_is_sent_after_a_successful_call(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """If another call has succeeded when the probe is due, the sessions get the signal without a probe."""
    scripted.stop()
    circuit = CircuitConfig(cooldown_s=1.0, failure_threshold=10_000)
    async with with_data(tmp_path, scripted.record(), circuit=circuit) as fed, fed.session("ada") as session:
        await session.list("tasks")
        scripted.start()
        await answered(fed)
        heard = await take(session.signals(), 2)
        assert heard[-1].text == "federation restored for work.example"
        assert scripted.service.calls("capabilities") == 0


async def test_a_session_may_omit_the_signal_of_a_return(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """With `announce_restored` off, a peer that is back is queried again without a signal."""
    config = SessionConfig(announce_restored=False)
    scripted.stop()
    async with with_data(tmp_path, scripted.record(), circuit=SOON, session=config) as fed:
        async with fed.session("ada") as session:
            await session.list("tasks")
            scripted.start()
            assert (await back(session)).signals == ()
        assert [signal.kind for signal in await everything(session)] == [SignalKind.OFFLINE]


async def test_a_refused_probe_ends_the_outage(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A refused probe ends the skipping without a signal; the refusal is in later reports."""
    scripted.stop()
    async with with_data(tmp_path, scripted.record(), circuit=SOON) as fed, fed.session("ada") as session:
        await session.list("tasks")
        refusal = Reply(refusal=Refusal(Reason.GRANT_REVOKED, "over"))
        for verb in ("capabilities", "list"):
            scripted.service.script(verb, refusal)
        scripted.start()
        await eventually(lambda: scripted.service.calls("capabilities") == 1)
        await eventually(lambda: fed._session_context is not None and len(fed._session_context.probes) == 0)
        result = await session.list("tasks")
        assert (states(result)[WORK], result.signals) == ("denied", ())
    assert [signal.kind for signal in await everything(session)] == [SignalKind.OFFLINE]


async def test_an_open_circuit_has_its_own_signal(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A session that meets an open circuit sends nothing; its signal names the operator's command."""
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        circuit = fed.peer("work.example").circuit
        assert circuit is not None
        now = time.monotonic()
        for _ in range(5):
            permit = circuit.allow(now)
            circuit.record(permit, CallResult.FAILURE, now)  # type: ignore[arg-type]
        result = await session.list("tasks")
        [signal] = result.signals
        assert (states(result)[WORK], signal.reason) == ("offline", Reason.CIRCUIT_OPEN)
        assert signal.remedy == Remedy(action=Action.RESET_CIRCUIT, peer="work.example", user="ada")
        assert (report(result, WORK).retry_after_s or 0) > 25
        assert scripted.service.calls() == 0


async def test_an_expired_own_certificate_has_its_own_signal(
    tmp_path: Path, scripted: ScriptedPeer, other_scripted: ScriptedPeer, peer_pki: Pki
) -> None:
    """The signal of an expired own certificate names the cause and the next step; other peers are queried."""
    ended = peer_pki.client(begins_in=timedelta(days=-2), ends_in=timedelta(days=-1))
    records = scripted.record(identity=ended), other_scripted.record(grant_id="lab")
    async with with_data(tmp_path, *records) as fed, fed.session("ada") as session:
        result = await session.list("tasks")
        [signal] = result.signals
        assert (signal.peer, signal.reason) == ("work.example", Reason.CERTIFICATE_INVALID)
        assert "own certificate" in signal.message
        assert signal.remedy == records[0].remedy(Action.ROTATE_PEER)
        assert states(result) == {"local": "ok", LAB: "ok", WORK: "offline"}
        assert states(await session.list("notes")) == {"local": "ok", LAB: "ok", WORK: "skipped"}
        assert scripted.service.calls() == 0


async def test_a_request_budget_limits_a_silent_peer(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """If the request's budget is less than the peer's, a silent peer costs the request's budget, once."""
    scripted.service.script("search", Reply(gate=threading.Event()))
    config = replace(LONG, request_budget_s=0.2)
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada", config=config) as session:
        result = await session.search("own")
        assert states(result)[WORK] == "offline"
        assert [signal.reason for signal in result.signals] == [Reason.PEER_TIMEOUT]
        took = []
        for _ in range(3):
            began = time.monotonic()
            assert states(await session.search("own"))[WORK] == "skipped"
            took.append(time.monotonic() - began)
        assert min(took) < 0.1


async def test_a_request_budget_limits_local_data(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """`request_budget_s` also limits local data: late sources are left out, and the others answer."""
    provider = own_rows()
    provider.gate = asyncio.Event()
    config = SessionConfig(request_budget_s=0.2)
    async with with_data(tmp_path, scripted.record(), provider=provider) as fed:
        async with fed.session("ada", config=config) as session:
            await answered(fed)  # so that the list needs no handshake, and is answered within the budget
            began = time.monotonic()
            result = await session.list("tasks")
            assert time.monotonic() - began < 0.6
            assert states(result) == {"local": "failed", WORK: "ok"}
            assert report(result, "local").reason == Reason.PEER_TIMEOUT
        async with fed.session("ada") as patient:
            asking = asyncio.ensure_future(patient.list("tasks"))
            await asyncio.sleep(0.3)
            provider.gate.set()
            assert states(await asking)["local"] == "ok"


async def test_a_signal_is_an_event_of_the_callers_span(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """The caller's span gets an event with the peer and the reason, and without rows."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    scripted.stop()
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        with provider.get_tracer("agent").start_as_current_span("question"):
            await session.list("tasks")
            await session.list("tasks")
    [span] = exporter.get_finished_spans()
    [event] = span.events
    assert event.name == "federation.offline"
    assert event.attributes == {"peer": "work.example", "reason": "PEER_UNREACHABLE"}


async def test_a_failing_callback_does_not_fail_the_request(
    tmp_path: Path, scripted: ScriptedPeer, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of the callback is logged; the request has its rows and its signal."""

    def breaks(_: PeerSignal) -> None:
        raise RuntimeError("listener")

    scripted.stop()
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada", on_signal=breaks) as session:
        result = await session.list("tasks")
        assert (len(result.rows), len(result.signals)) == (3, 1)
        assert "listener" in caplog.text


async def test_a_probe_ends_with_its_last_session(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """The probe ends when the last waiting session is closed or collected; a later session starts a new one."""
    scripted.stop()
    async with with_data(tmp_path, scripted.record(), circuit=SOON) as fed:
        session = fed.session("ada")
        await session.list("tasks")
        context = fed._session_context
        assert context is not None
        assert len(context.probes) == 1
        await session.close()
        assert len(context.probes) == 0

        forgotten: Any = fed.session("ada")
        await forgotten.list("tasks")
        del forgotten
        await eventually(lambda: len(context.probes) == 0)
        scripted.start()
        await asyncio.sleep(0.3)
        assert scripted.service.calls("capabilities") == 0


async def test_closing_a_federation_gives_no_signal(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Calls that end because the federation is closed are not outages."""
    scripted.service.script("list", Reply(gate=threading.Event()))
    heard: list[PeerSignal] = []
    fed: Federation = await with_data(tmp_path, scripted.record()).start()
    session = fed.session("ada", on_signal=heard.append)
    asking = asyncio.ensure_future(session.list("tasks"))
    await eventually(lambda: scripted.service.active == 1)
    await fed.close()
    await asyncio.wait([asking])
    assert asking.exception() is not None
    assert heard == []


@pytest.mark.parametrize("wait_s", [0.1, 600.0])
async def test_a_retry_delay_within_the_budget_is_waited_for(
    tmp_path: Path, scripted: ScriptedPeer, wait_s: float
) -> None:
    """A `RetryInfo` within the budget is waited for; a longer one is reported, and respected by later requests."""
    refusal = Refusal(Reason.RATE_LIMITED, "too many calls", retry_after_s=wait_s)
    scripted.service.script("search", Reply(refusal=refusal), Reply())
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada", config=LONG) as session:
        await answered(fed)  # so that the search needs no handshake
        began = time.monotonic()
        result = await session.search("own")
        took = time.monotonic() - began
        assert result.signals == ()
        assert took < 0.5
        if wait_s < LONG.peer_budget_s:
            assert states(result)[WORK] == "ok"
            assert took >= wait_s
            assert scripted.service.calls("search") == 2
            return
        limited = report(result, WORK)
        assert (limited.state, limited.reason, limited.retry_after_s) == ("rate_limited", "RATE_LIMITED", 600.0)
        again = report(await session.search("own"), WORK)
        assert again.state == "rate_limited"
        assert 500 < (again.retry_after_s or 0) <= 600
        assert scripted.service.calls("search") == 1


async def test_a_budget_used_up_by_a_retry_delay_is_no_outage(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A peer with too little time after its retry delay is offline for this request only."""
    limited = Reply(refusal=Refusal(Reason.RATE_LIMITED, "too many calls", retry_after_s=0.05))
    scripted.service.script("search", limited, Reply(gate=threading.Event()))
    config = SessionConfig(peer_budget_s=MIN_CONCLUSIVE_S)
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada", config=config) as session:
        result = await session.search("own")
        scripted.service.script("search", Reply())
        assert (report(result, WORK).reason, result.signals) == (Reason.PEER_TIMEOUT, ())
        assert states(await session.search("own"))[WORK] == "ok"


async def test_cached_answers_of_a_rate_limited_peer_are_returned(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """During a peer's retry delay its cached answers are returned."""
    scripted.service.script(
        "list", Reply(), Reply(refusal=Refusal(Reason.RATE_LIMITED, "too many calls", retry_after_s=60.0))
    )
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        await session.list("tasks")
        assert states(await session.list("notes"))[WORK] == "rate_limited"
        assert states(await session.list("tasks"))[WORK] == "cached"
        assert states(await session.list("memory"))[WORK] == "rate_limited"
        assert scripted.service.calls() == 2


async def test_endless_retry_delays_end_at_the_budget(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A peer that always asks for a short delay gets few calls, and is reported when the budget is used up."""
    limited = Reply(refusal=Refusal(Reason.RATE_LIMITED, "too many calls", retry_after_s=0.0))
    last, hand = threading.Event(), ManualClock(time.time())
    scripted.service.script("search", limited, limited, limited, replace(limited, gate=last))
    async with (
        with_data(tmp_path, scripted.record(), clock=hand.clock) as fed,
        fed.session("ada", config=LONG) as session,
    ):
        began = time.monotonic()
        asking = asyncio.ensure_future(session.search("own"))
        await eventually(lambda: scripted.service.calls() == 4)
        assert time.monotonic() - began >= 3 * MIN_RETRY_WAIT_S
        hand.advance(LONG.peer_budget_s)
        last.set()
        assert states(await asking)[WORK] == "rate_limited"
        assert scripted.service.calls() == 4
