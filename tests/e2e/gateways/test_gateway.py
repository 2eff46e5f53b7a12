"""One gateway in a program's own process: providers, socket, locks, signals and metrics."""

import asyncio
import logging
import os
import signal
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.trace import NoOpTracerProvider

from federation.admin.errors import error_of
from federation.breaker import CallResult, Permit
from federation.config import GatewayConfig
from federation.enrollment import enroll as enrolling
from federation.enrollment.enroll import EnrolledPeer
from federation.errors import ConfigError, ConflictError, LockedError, SealError, StoreError
from federation.gateway import Gateway
from federation.resources.provider import Change, ListQuery, Page, Row, SearchHit, SearchQuery
from federation.scope.model import RowFilter
from federation.store.grants.registry import GrantRegistry
from federation.telemetry.metrics import FederationMetrics
from federation.telemetry.spans import SpanSource
from federation.telemetry.telemetry import Telemetry
from federation.v1 import admin_pb2 as pb
from tests.e2e.gateways.test_exchange import ask, ids, tasks
from tests.support.gateway_pair import Running, Start, enroll, fill
from tests.support.memory_exporters import MetricLog
from tests.support.scripted import eventually


class Almanac:
    """Data of a program's own: one task a user, made when asked for."""

    async def list(self, subject: str, query: ListQuery) -> Page[Row]:
        row = Row(query.resource, f"of-{subject}", subject, "", 1_000_000, 1_000_000, '{"title": "made up"}')
        return Page((row,) if query.filter.admits("") else (), more=False)

    async def get(self, subject: str, resource: str, row_id: str, row_filter: RowFilter) -> Row | None:
        return None

    async def search(self, subject: str, query: SearchQuery) -> Page[SearchHit]:
        return Page((), more=False)

    async def has_user(self, subject: str) -> bool:
        return subject == "ada"

    async def changes(self) -> AsyncIterator[Change]:
        return
        yield Change("", frozenset(), frozenset())


async def test_a_program_plugs_in_its_own_data(home: Running, start: Start) -> None:
    """The gateway serves whatever implements the provider, under the same grants."""
    almanac = await start("work.example", provider=Almanac())
    await enroll(home, almanac, scope={"resources": ["tasks"]})

    assert ids(await ask(home, list=tasks())) == ["of-ada"]


async def test_nothing_is_imported_into_a_programs_own_data(start: Start) -> None:
    """A gateway with a provider of its own refuses imports, and the error says why."""
    almanac = await start("work.example", provider=Almanac())

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await fill(almanac)
    error = error_of(caught.value)
    assert isinstance(error, ConflictError)
    assert "a provider of its own" in str(error)


async def test_only_the_gateways_user_may_open_its_socket(home: Running) -> None:
    """Only the gateway's user can open the admin socket."""
    assert stat.S_IMODE(home.gateway.config.socket_path.stat().st_mode) == 0o600


async def test_a_signal_stops_the_gateway_gracefully(home: Running) -> None:
    """SIGTERM ends `serve_forever`, and the socket is gone."""
    told: list[str] = []
    serving = asyncio.create_task(home.gateway.serve_forever(lambda: told.append("ready")))
    await asyncio.sleep(0)
    assert told == ["ready"]

    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(serving, 20)

    assert not home.gateway.config.socket_path.exists()


async def test_a_gateway_that_lost_its_right_stops_and_says_so(home: Running) -> None:
    """A process whose database lost the lock exits with an error, because a second gateway could serve."""
    serving = asyncio.create_task(home.gateway.serve_forever())
    await asyncio.sleep(0)

    home.gateway._lock.lost.set()

    with pytest.raises(LockedError, match="serving lock"):
        await asyncio.wait_for(serving, 20)
    assert not home.gateway.config.socket_path.exists()


async def test_one_process_opens_a_gateway_at_a_time(home: Running) -> None:
    """The second opening is refused and disturbs nothing."""
    with pytest.raises(LockedError):
        async with Gateway.open(home.gateway.config):
            pytest.fail("opened twice")

    assert await home.admin.Status(pb.StatusRequest())


async def test_the_wrong_key_opens_nothing(home: Running) -> None:
    """With another seal key the gateway refuses to open, and frees its lock."""
    await home.stop()
    key = home.gateway.config.directory / "seal.key"
    right = key.read_text()
    key.write_text("00" * 32)
    with pytest.raises(SealError, match="another seal key"):
        async with Gateway.open(home.gateway.config):
            pytest.fail("opened with another key")

    key.write_text(right)
    async with Gateway.open(home.gateway.config) as again:
        assert again.config.name == "home.example"


async def test_a_directory_and_its_database_belong_together(home: Running, start: Start) -> None:
    """A name that was changed in the settings is refused, because the certificates have the old name."""
    await home.stop()
    settings = home.gateway.config.directory / "gateway.toml"
    settings.write_text(settings.read_text().replace('name = "home.example"', 'name = "other.example"'))

    with pytest.raises(ConfigError, match=r"the database belongs to home\.example"):
        async with Gateway.open(settings.parent):
            pytest.fail("opened under another name")


async def test_an_enrollment_goes_on_when_its_caller_leaves(
    home: Running, work: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of `peer add` cannot leave a peer that the database knows and the gateway does not."""
    dialled, go_on, stored = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(*arguments: Any, **options: Any) -> EnrolledPeer:
        dialled.set()
        await go_on.wait()
        enrolled = await enrolling.enroll(*arguments, **options)
        stored.set()
        return enrolled

    monkeypatch.setattr("federation.admin.handlers.peers.enroll", slow)
    created = await work.admin.CreateGrant(
        pb.CreateGrantRequest(peer=home.name, subject="ada", scope='{"resources": ["tasks"]}')
    )
    issued = await work.admin.CreateEnrollmentToken(pb.CreateEnrollmentTokenRequest(grant_id=created.grant.id))
    call = home.admin.AddPeer(pb.AddPeerRequest(token=issued.token, user="ada"))
    await asyncio.wait_for(dialled.wait(), 10)

    call.cancel()
    go_on.set()
    await asyncio.wait_for(stored.wait(), 10)
    await asyncio.sleep(0)

    assert [peer.name for peer in home.gateway.federation.peers.all()] == ["work.example"]
    assert (await ask(home, list=tasks())).rows


def test_a_directory_without_a_gateway_is_told(tmp_path: Path) -> None:
    """Opening a directory without a gateway says that it must be made one first."""

    async def opened() -> None:
        async with Gateway.open(tmp_path):
            pytest.fail("opened nothing")

    with pytest.raises(ConfigError, match="is not a gateway's directory; make one"):
        asyncio.run(opened())
    with pytest.raises(ConfigError):
        GatewayConfig.load(tmp_path)


async def test_uses_that_cannot_be_written_are_logged_once(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names the cause without a repetition, and is not repeated while the cause stays the same."""
    attempts = 0

    async def fail(_: GrantRegistry) -> None:
        nonlocal attempts
        attempts += 1
        raise StoreError("the last uses of grants cannot be stored: the database says: disk full")

    with monkeypatch.context() as broken:
        broken.setattr("federation.gateway.FLUSH_S", 0.01)
        broken.setattr(GrantRegistry, "flush_uses", fail)
        await start("home.example")
        await eventually(lambda: attempts > 1)

    [warning] = [record.message for record in caplog.records if record.name == "federation.gateway"]
    assert warning.endswith("; retrying")
    assert warning.count("the last uses of grants cannot be stored") == 1


async def test_a_gateway_tells_its_metrics(
    start: Start, monkeypatch: pytest.MonkeyPatch, metric_log: MetricLog, caplog: pytest.LogCaptureFixture
) -> None:
    """Metrics count leases, dropped denials, and a circuit that an operator closed; the log shows the reset."""
    telemetry = Telemetry(SpanSource(NoOpTracerProvider()), FederationMetrics(metric_log.provider))
    monkeypatch.setattr("federation.gateway.setup_telemetry", lambda *_: telemetry)
    home, work = await start("home.example"), await start("work.example")
    await fill(home)
    await fill(work)
    await enroll(home, work)
    await ask(home, list=tasks())
    work.gateway._parts.audit.dropped += 7

    assert list(metric_log.points("federation.leases").values()) == [1]
    assert list(metric_log.points("federation.audit.dropped").values()) == [7]

    circuit = home.gateway.federation.peer("work.example").circuit
    assert circuit is not None
    for _ in range(5):
        permit = circuit.allow(0.0)
        assert isinstance(permit, Permit)
        circuit.record(permit, CallResult.FAILURE, 0.0)
    caplog.set_level(logging.INFO)
    await home.admin.ResetCircuit(pb.ResetCircuitRequest(name="work.example"))
    await home.admin.ResetCircuit(pb.ResetCircuitRequest(name="work.example"))

    transitions = metric_log.points("federation.circuit.transitions")
    assert transitions == {(("peer", "work.example"), ("state", "closed")): 1}
    assert [record.message for record in caplog.records if "open to closed" in record.message]
    assert metric_log.points("federation.circuit.state") == {(("peer", "work.example"),): 0}
