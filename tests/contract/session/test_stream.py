"""Streamed answers: their order, closing a stream early, and continuing with a token."""

import asyncio
import gc
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from federation.config import SessionConfig
from federation.errors import FederationError, InputError, Reason, Refusal
from federation.session.results import SourceReport, SourceState
from federation.v1 import federation_pb2 as pb
from tests.support.network_faults import Relay
from tests.support.scripted import Reply, ScriptedPeer, eventually
from tests.support.sessions import LAB, QUICK, WORK, ids, own_rows, peer_rows, states, with_data

LIST = pb.ListRequest(resource="tasks")
ROUNDS = 20


async def test_local_rows_do_not_wait_for_a_silent_peer(
    tmp_path: Path, scripted: ScriptedPeer, silent_port: Relay
) -> None:
    """Local rows come as fast as without the silent peer, and the stream ends at the budget."""
    record = replace(scripted.record(), endpoint=silent_port.endpoint)
    async with with_data(tmp_path, record) as fed:
        firsts, alone = [], []
        for _ in range(ROUNDS):
            async with fed.session("ada", config=SessionConfig(peer_budget_s=60.0)) as session:
                began = time.monotonic()
                await session.list("tasks", source="local")
                alone.append(time.monotonic() - began)

                began = time.monotonic()
                async with session.stream(LIST) as answers:
                    first = await anext(answers)
                    firsts.append(time.monotonic() - began)
                    assert (first.source, len(first.rows)) == ("local", 3)
        assert min(firsts) < min(alone) + 0.02

        wholes = []
        for _ in range(5):
            async with fed.session("ada", config=QUICK) as session:
                began = time.monotonic()
                async with session.stream(LIST) as answers:
                    await anext(answers)
                    last = await anext(answers)
                    assert (last.source, last.report.state) == (WORK, SourceState.OFFLINE)
                    assert [answer async for answer in answers] == []
                wholes.append(time.monotonic() - began)
        assert 0.29 < min(wholes) < 0.3 + 0.05


async def test_each_source_is_streamed_when_it_answers(
    tmp_path: Path, scripted: ScriptedPeer, other_scripted: ScriptedPeer
) -> None:
    """A slow source does not delay the others; the result at the end has every source and no rows."""
    slow, provider = threading.Event(), own_rows()
    provider.gate = asyncio.Event()
    scripted.service.script("list", Reply(gate=slow))
    records = scripted.record(), other_scripted.record(grant_id="lab")
    async with with_data(tmp_path, *records, provider=provider) as fed, fed.session("ada") as session:
        answers = session.stream(LIST)
        with pytest.raises(FederationError, match="end"):
            _ = answers.result
        assert (await anext(answers)).source == LAB
        provider.gate.set()
        assert (await anext(answers)).source == "local"
        slow.set()
        assert (await anext(answers)).source == WORK
        with pytest.raises(StopAsyncIteration):
            await anext(answers)
        result = answers.result
        assert [each.source for each in result.sources] == ["local", LAB, WORK]
        assert (result.rows, result.next_page_token, result.partial) == ((), "", False)


async def test_a_streams_token_continues_after_its_rows(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """The token of a streamed page continues after all its rows; a merged request accepts the same token."""
    full = peer_rows(*(f"w{n}" for n in range(4)))
    first = pb.ListResponse(rows=full.rows[:2], next_page_token="more")
    later = (pb.ListResponse(rows=full.rows[start:]) for start in (2, 3))
    scripted.service.script("list", Reply(message=first), *(Reply(message=each) for each in later))
    request = pb.ListRequest(resource="tasks", page_size=2)
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        async with session.stream(request) as answers:
            given = {row.id async for answer in answers for row in answer.rows}
            token = answers.result.next_page_token
        assert given == {"own-0", "own-1", "w0", "w1"}
        rest = await session.list("tasks", page_size=2, page_token=token)
        last = await session.list("tasks", page_size=2, page_token=rest.next_page_token)
        assert sorted(ids(rest) + ids(last)) == ["own-2", "w2", "w3"]
        asked = scripted.service.seen[1].request
        assert (asked.after.id, asked.after.created_at) == ("w1", full.rows[1].created_at)


@pytest.mark.parametrize("how", ["block", "close", "drop", "cancel"])
async def test_closing_a_stream_cancels_its_calls(tmp_path: Path, scripted: ScriptedPeer, how: str) -> None:
    """Closing a stream in any way cancels the peer's call and ends the local read; no failure is counted."""
    provider = own_rows()
    provider.gate = asyncio.Event()
    scripted.service.script("list", Reply(gate=threading.Event()))
    async with with_data(tmp_path, scripted.record(), provider=provider) as fed, fed.session("ada") as session:
        before = asyncio.all_tasks()
        if how == "cancel":
            asking = asyncio.ensure_future(session.ask(LIST))
            await eventually(lambda: scripted.service.active == 1)
            asking.cancel()
            await asyncio.wait([asking])
            assert asking.cancelled()
        else:
            answers = session.stream(LIST)
            await eventually(lambda: scripted.service.active == 1)
            if how == "block":
                async with answers:
                    pass
            elif how == "close":
                await answers.aclose()
            del answers
            gc.collect()
        await eventually(lambda: scripted.service.cancelled == 1)
        await eventually(lambda: asyncio.all_tasks() <= before)
        peer = fed.peer("work.example")
        assert not peer.runners
        assert provider.finished == 0
        assert peer.circuit is not None
        assert peer.circuit.snapshot(time.monotonic()).consecutive_failures == 0


async def test_a_closed_stream_has_no_result(tmp_path: Path) -> None:
    """A stream that was closed early has no result, because it is not complete."""
    async with with_data(tmp_path) as fed, fed.session("ada") as session:
        answers = session.stream(LIST)
        answers.close()
        assert [answer async for answer in answers] == []
        with pytest.raises(FederationError, match="end"):
            answers.merged()


async def test_an_answer_after_closing_is_dropped(tmp_path: Path) -> None:
    """An answer that arrives after the stream was closed is dropped."""
    async with with_data(tmp_path) as fed, fed.session("ada") as session:
        answers = session.stream(LIST)
        answers.close()
        report = SourceReport(source="local", state=SourceState.OK)
        answers._fan_out._deliver("local", report, pb.ListResponse())
        async with asyncio.timeout(5):
            with pytest.raises(StopAsyncIteration):
                await anext(answers)


async def test_an_invalid_request_raises_while_reading(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A fault that only the provider can detect raises where the answers are read."""
    provider = own_rows()
    provider.fault = Refusal(Reason.INVALID_REQUEST, "query: contains no word to search for")
    scripted.service.script("search", Reply(gate=threading.Event()))
    async with with_data(tmp_path, scripted.record(), provider=provider) as fed, fed.session("ada") as session:
        answers = session.stream(pb.SearchRequest(query="?"))
        with pytest.raises(InputError, match="no word"):
            await anext(answers)
        assert not fed.peer("work.example").runners


async def test_local_rows_come_before_many_peers(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """With 60 peers the local rows come first, every peer is queried once, and no task waits for a peer."""
    scripted.service.script("search", Reply(delay_s=0.2))
    records = [
        replace(scripted.record(name=f"p{n}.example", grant_id=f"g{n}"), gateway="work.example") for n in range(60)
    ]
    async with with_data(tmp_path, *records) as fed, fed.session("ada") as session:
        before = len(asyncio.all_tasks())
        async with session.stream(pb.SearchRequest(query="own"), budget_s=20.0) as answers:
            assert (await anext(answers)).source == "local"
            assert len([task for task in asyncio.all_tasks() if "federation" in repr(task.get_coro())]) == 0
            rest = [answer.report.state async for answer in answers]
        assert rest == [SourceState.OK] * 60
        assert scripted.service.calls() == 60
        assert len(asyncio.all_tasks()) <= before + 1


async def test_a_stream_sets_its_budget(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """`budget_s` replaces the peers' budget for one request."""
    scripted.service.script("search", Reply(delay_s=0.4))
    async with with_data(tmp_path, scripted.record()) as fed, fed.session("ada") as session:
        request = pb.SearchRequest(query="own")
        assert states(await session.ask(request))[WORK] == "ok"
        assert states(await session.ask(request, budget_s=0.1))[WORK] == "offline"
