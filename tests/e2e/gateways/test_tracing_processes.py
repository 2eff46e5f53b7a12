"""One trace through two gateways in two processes, as a collector receives it over OTLP."""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.admin.address import target
from federation.bootstrap import init_gateway
from federation.config import GatewayConfig
from federation.v1 import admin_pb2 as pb
from federation.v1.admin_pb2_grpc import AdminServiceStub
from tests.support.gateway_pair import SCOPE, rows_jsonl
from tests.support.otlp_collector import Collector, ReceivedSpan

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[3]
CLIENT, SERVER = 3, 2
ERROR = 2
ATTRIBUTES = {"grant_id", "peer", "verb", "resource", "outcome", "latency_ms", "cached"}


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a path short enough for an admin socket within."""
    with tempfile.TemporaryDirectory(prefix="m") as path:
        yield Path(path)


def environment(collector: Collector) -> dict[str, str]:
    """The variables by which both processes send to the collector."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    return clean | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "200"}


@dataclass
class Work:
    """The gateway that is asked, in its own process."""

    process: asyncio.subprocess.Process
    admin: Any

    async def create_token(self) -> tuple[str, str]:
        """Fill it with rows and grant `home.example` a part of them; return the grant's id and a token."""
        chunk = pb.ImportRowsRequest(lines=rows_jsonl())
        async for _ in self.admin.ImportRows(iter([chunk])):
            pass
        created = await self.admin.CreateGrant(
            pb.CreateGrantRequest(peer="home.example", subject="ada", scope=json.dumps(SCOPE))
        )
        request = pb.CreateEnrollmentTokenRequest(grant_id=created.grant.id)
        return created.grant.id, (await self.admin.CreateEnrollmentToken(request)).token


@asynccontextmanager
async def work_gateway(directory: Path, variables: dict[str, str]) -> AsyncIterator[Work]:
    """Serve `work.example` from a process of its own; leaving stops it as an operator would."""
    free = "127.0.0.1:0"
    config = GatewayConfig(directory=directory, name="work.example", listen=free, enroll=free)
    await init_gateway(config)
    mosaic = Path(sys.executable).with_name("mosaic")
    process = await asyncio.create_subprocess_exec(mosaic, "gateway", "serve", "--gateway", directory, env=variables)
    try:
        async with grpc.aio.insecure_channel(target(config.socket_path)) as channel:
            admin: Any = AdminServiceStub(channel)
            await admin.Status(pb.StatusRequest(), wait_for_ready=True, timeout=20)
            yield Work(process, admin)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def one(spans: list[ReceivedSpan], outcome: str, verb: str, **attributes: Any) -> ReceivedSpan:
    """The only span of that end and verb."""
    wanted = {"outcome": outcome, "verb": verb, **attributes}
    found = [span for span in spans if wanted.items() <= span.attributes.items()]
    assert len(found) == 1, (wanted, spans)
    return found[0]


async def test_two_processes_share_one_trace(directory: Path, collector: Collector) -> None:
    """Parents, links, attributes and words of every kind of end; nothing is open at the end."""
    variables = environment(collector)
    async with work_gateway(directory / "work", variables) as work:
        grant_id, token = await work.create_token()
        command = (sys.executable, "-m", "tests.support.traced_client_program", directory / "home", token)
        asking = await asyncio.create_subprocess_exec(*command, str(work.process.pid), env=variables, cwd=ROOT)
        assert await asyncio.wait_for(asking.wait(), 60) == 0
    ours = [span for span in collector.spans if span.instance == "home.example"]
    theirs = [span for span in collector.spans if span.instance == "work.example"]
    [program] = [span for span in ours if span.name == "program"]
    calls = [span for span in ours if span.name == "federation.request"]

    assert collector.services == {"mosaic-gateway"}
    assert {span.trace_id for span in collector.spans} == {program.trace_id}
    assert {(span.name, span.kind) for span in theirs} == {("federation.request", SERVER)}
    assert {span.kind for span in calls} == {CLIENT}
    assert {span.parent_id for span in calls} == {program.span_id}
    assert all(set(span.attributes) == ATTRIBUTES for span in (*calls, *theirs))
    assert {(span.attributes["grant_id"], span.attributes["peer"]) for span in calls} == {(grant_id, "work.example")}
    assert {(span.attributes["grant_id"], span.attributes["peer"]) for span in theirs} == {(grant_id, "home.example")}
    _check_hit(calls, theirs)
    _check_words(calls, theirs)
    assert {"federation.client.requests", "federation.client.duration", "federation.cache.hits"} <= collector.metrics


def _check_hit(calls: list[ReceivedSpan], theirs: list[ReceivedSpan]) -> None:
    fill = one(calls, "ok", "list", cached=False)
    hit = one(calls, "ok", "list", cached=True)
    [served] = [span for span in theirs if span.parent_id == fill.span_id]

    assert served.outcome == "ok"
    assert fill.links == ((served.trace_id, served.span_id, "server"),)
    assert hit.links == ((fill.trace_id, fill.span_id, "filled_by"),)
    assert not [span for span in theirs if span.parent_id == hit.span_id]


def _check_words(calls: list[ReceivedSpan], theirs: list[ReceivedSpan]) -> None:
    for word, verb, resource in (
        ("not_found", "get", "tasks"),
        ("denied", "list", "credentials"),
        ("invalid", "list", "tasks"),
    ):
        asked = one(calls, word, verb, resource=resource)
        served = one(theirs, word, verb, resource=resource)
        assert served.parent_id == asked.span_id
        assert (asked.status, served.status, asked.events, served.events) == (0, 0, (), ())
    searches = sorted(str(span.outcome) for span in calls if span.attributes["verb"] == "search")
    assert searches == ["cancelled", "offline", *["timeout"] * 6]
    opened = one(calls, "offline", "search")
    assert (opened.status, opened.events) == (ERROR, ())
    assert not [span for span in theirs if span.parent_id == opened.span_id]
    assert one(calls, "cancelled", "search").status == 0
    timeouts = [span for span in calls if span.outcome == "timeout"]
    assert {span.status for span in timeouts} == {ERROR}
    assert sorted(span.events for span in timeouts) == [*[()] * 5, ("federation.circuit",)]
    assert len(calls) == 13
