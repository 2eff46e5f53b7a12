"""The Prometheus page of a gateway: it starts and stops with the gateway, and shows its present peers."""

import asyncio
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from federation.bootstrap import init_gateway
from federation.config import GatewayConfig, TelemetryConfig
from federation.errors import ConfigError
from federation.gateway import Gateway
from federation.v1 import admin_pb2 as pb
from federation.v1 import federation_pb2
from tests.support.gateway_pair import Running, Start, enroll, fill


def config_of(directory: Path, page: str) -> GatewayConfig:
    """Settings of a gateway with a page."""
    free = "127.0.0.1:0"
    telemetry = TelemetryConfig(prometheus=page)
    return GatewayConfig(directory=directory, name="home.example", listen=free, enroll=free, telemetry=telemetry)


async def samples(url: str) -> dict[str, list[dict[str, str]]]:
    """The labels of every sample of a page, by name."""
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read().decode())
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


async def test_the_page_ends_with_the_gateway(short_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The page has an address only while the gateway runs, and the log names it."""
    config = config_of(short_path / "home", "127.0.0.1:0")
    await init_gateway(config)
    caplog.set_level("INFO")
    async with Gateway.open(config) as gateway:
        assert gateway.metrics_url == ""
        await gateway.start()
        url = gateway.metrics_url
        [target] = (await samples(url))["target_info"]
        assert (target["service_instance_id"], target["service_name"]) == ("home.example", "mosaic-gateway")
        assert f"home.example shows its metrics on {url}" in caplog.messages

    assert gateway.metrics_url == ""
    with pytest.raises(urllib.error.URLError):
        await samples(url)


async def test_a_gateway_without_the_setting_has_no_page(work_gateway: Running) -> None:
    """Nothing listens unless an address was named."""
    assert work_gateway.gateway.metrics_url == ""


async def test_a_page_that_cannot_be_had_ends_the_start_before_anybody_is_served(short_path: Path) -> None:
    """One line that names the setting; afterwards the gateway can be started again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = config_of(short_path / "home", f"127.0.0.1:{taken.getsockname()[1]}")
        await init_gateway(config)
        async with Gateway.open(config) as gateway:
            with pytest.raises(ConfigError, match=r"^telemetry\.prometheus: cannot listen on 127\.0\.0\.1 port"):
                await gateway.start()
            assert (gateway.federation_address, config.socket_path.exists()) == ("", False)
    async with Gateway.open(config) as gateway:
        await gateway.start()


async def test_a_peer_that_revoked_has_no_certificate_to_renew(start: Start, short_path: Path) -> None:
    """A peer that revoked the grant has no certificate metric, so no alert fires; its counters stay."""
    config = config_of(short_path / "home.example", "127.0.0.1:0")
    await init_gateway(config)
    toml = config.directory / "gateway.toml"
    toml.write_text(toml.read_text().replace('# prometheus = ""', 'prometheus = "127.0.0.1:0"'))
    home, work = await start("home.example"), await start("work.example")
    await fill(home)
    await fill(work)
    grant_id = await enroll(home, work)
    url = home.gateway.metrics_url
    own, theirs = {"kind": "server", "peer": ""}, {"kind": "client", "peer": "work.example"}
    assert (await samples(url))["federation_certificate_remaining_seconds"] == [theirs, own]
    await home.gateway.federation.armed()

    async for _ in work.admin.RevokeGrant(pb.RevokeGrantRequest(id=grant_id, reason="done")):
        pass

    shown = await samples(url)
    assert shown["federation_certificate_remaining_seconds"] == [{"kind": "server"}]
    assert {"peer": "work.example", "kind": "grant_revoked"} in shown["federation_watch_events_total"]


async def test_a_removed_peer_keeps_only_what_was_counted_of_its_calls_and_watches(
    start: Start, short_path: Path
) -> None:
    """A removed peer's states, certificate and cache leave the page at once; its call counters stay."""
    config = config_of(short_path / "home.example", "127.0.0.1:0")
    await init_gateway(config)
    toml = config.directory / "gateway.toml"
    toml.write_text(toml.read_text().replace('# prometheus = ""', 'prometheus = "127.0.0.1:0"'))
    home, work = await start("home.example"), await start("work.example")
    await fill(home)
    await fill(work)
    await enroll(home, work)
    federation, url = home.gateway.federation, home.gateway.metrics_url
    await federation.armed()
    await federation.stub("work.example", "ada").List(federation_pb2.ListRequest(resource="tasks"))
    before = await _told_of_work(url)

    await home.admin.RemovePeer(pb.RemovePeerRequest(name="work.example", user="ada"))

    stays = {"federation_client_requests_total", "federation_watch_events_total"}
    stays |= {f"federation_client_duration_seconds_{part}" for part in ("bucket", "count", "sum")}
    states = {"federation_circuit_state", "federation_watch_state", "federation_certificate_remaining_seconds"}
    assert before > stays | states | {"federation_cache_bytes", "federation_cache_misses_total"}
    assert await _told_of_work(url) == stays


async def _told_of_work(url: str) -> set[str]:
    """Names of the samples about that peer."""
    return {name for name, found in (await samples(url)).items() if any(one.get("peer") for one in found)}
