"""Peers that come, go and change while sessions ask them, and requests that change under way."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from federation.config import CircuitConfig
from federation.session.results import SourceState
from federation.v1 import federation_pb2 as pb
from tests.support.pki import GRANT_ID
from tests.support.scripted import ScriptedPeer, eventually
from tests.support.sessions import WORK, report, states, with_data

SOON = CircuitConfig(cooldown_s=0.15, jitter=0.0)


@pytest.mark.asyncio
async def test_a_peer_removed_while_the_others_are_being_asked(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """Of many peers, one that goes before its turn is skipped, and so is told; every other source answers."""
    records = [
        replace(scripted.record(), id=f"p{n}", name=f"p{n:03}.example", grant_id=f"{GRANT_ID[:-3]}{n:03}")
        for n in range(60)
    ]
    async with with_data(tmp_path, *records) as fed, fed.session("ada") as session:
        answers = session.stream(pb.ListRequest(resource="tasks"))
        fed.peers.remove("p059.example", "ada")
        async with asyncio.timeout(10), answers:
            async for _ in answers:
                pass
            result = answers.merged()
        assert len(result.sources) == 61
        assert report(result, "federated:p059.example").state in {SourceState.SKIPPED, SourceState.DENIED}
        assert {each.state.value for each in result.sources[:-1]} == {"ok"}
        assert not result.signals


@pytest.mark.asyncio
async def test_a_new_enrollment_does_not_inherit_an_absence(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """A peer that was away, was removed and enrolled anew is asked by the very next request."""
    gone = replace(scripted.record(), endpoint="127.0.0.1:1")
    async with with_data(tmp_path, gone) as fed, fed.session("ada") as session:
        assert states(await session.list("tasks"))[WORK] == "offline"
        fed.peers.remove("work.example", "ada")
        fed.peers.add(replace(scripted.record(), id="anew"))
        assert states(await session.list("tasks"))[WORK] == "ok"


@pytest.mark.asyncio
async def test_a_removed_peer_is_probed_no_more(tmp_path: Path, scripted: ScriptedPeer) -> None:
    """The probe of a peer that is gone ends quietly, and leaves nothing behind."""
    gone = replace(scripted.record(), endpoint="127.0.0.1:1")
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    async with with_data(tmp_path, gone, circuit=SOON) as fed, fed.session("ada") as session:
        await session.list("tasks")
        reach = session._reach
        assert len(reach.probes) == 1
        fed.peers.remove("work.example", "ada")
        await eventually(lambda: len(reach.probes) == 0)
        assert not faults
