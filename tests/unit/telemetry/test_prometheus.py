"""`/metrics`: where it listens, what it says when it cannot, and that each scrape gets everything once."""

import http.client
import logging
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client.parser import text_string_to_metric_families

from federation.errors import ConfigError
from federation.telemetry import prometheus
from federation.telemetry.metrics import FederationMetrics
from federation.telemetry.prometheus import MetricsPage
from federation.telemetry.spans import OutcomeName

OK = OutcomeName.OK


def figures_of(page: MetricsPage) -> FederationMetrics:
    """Instruments whose figures the page shows."""
    return FederationMetrics(MeterProvider([page.reader], shutdown_on_exit=False))


@pytest.fixture
def page() -> Iterator[MetricsPage]:
    """A page on a free port of loopback, not started."""
    made = MetricsPage("127.0.0.1:0")
    yield made
    made.stop()


def read(url: str) -> str:
    """The text of the page."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        return str(answer.read().decode())


def test_the_page_is_there_between_start_and_stop(page: MetricsPage) -> None:
    """No address before; then a real one in place of port 0; no answer after; stopping is idempotent."""
    assert page.url == ""
    page.start()
    url = page.url
    assert url.startswith("http://127.0.0.1:")
    assert not url.endswith(":0/metrics")
    read(url)

    page.stop()
    page.stop()

    assert page.url == ""
    with pytest.raises(urllib.error.URLError):
        read(url)


def test_labels_are_the_attributes_and_no_others(page: MetricsPage) -> None:
    """Not the instrumentation scope's: every series would carry them."""
    figures_of(page).call_ended("work.example", "list", OK, 0.5, cached=True)
    page.start()
    families = {family.name: family for family in text_string_to_metric_families(read(page.url))}

    [sample] = families["federation_client_requests"].samples
    assert (sample.name, sample.value) == ("federation_client_requests_total", 1.0)
    assert sample.labels == {"peer": "work.example", "verb": "list", "outcome": "ok", "cached": "true"}


def test_an_ipv6_address_is_shown_in_brackets() -> None:
    """`[::1]:0` listens on IPv6, and its address can be clicked."""
    page = MetricsPage("[::1]:0")
    page.start()
    try:
        assert page.url.startswith("http://[::1]:")
        read(page.url)
    finally:
        page.stop()


def test_an_address_that_is_taken_is_named() -> None:
    """The error names field, address and the system's message."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        page = MetricsPage(f"127.0.0.1:{port}")
        with pytest.raises(
            ConfigError, match=rf"^telemetry\.prometheus: cannot listen on 127\.0\.0\.1 port {port}: .*use"
        ):
            page.start()
    page.stop()


@pytest.mark.parametrize(
    ("listen", "words"),
    [
        ("nowhere.invalid:0", "cannot listen on nowhere.invalid port 0: "),
        (f"{'a' * 64}.example:0", "cannot listen on a"),
        ("192.0.2.1:0", "cannot listen on 192.0.2.1 port 0: "),
    ],
)
def test_an_address_of_another_host_is_named(listen: str, words: str) -> None:
    """An unknown host name, an invalid one, and the address of another host."""
    with pytest.raises(ConfigError) as caught:
        MetricsPage(listen).start()

    assert str(caught.value).startswith(f"telemetry.prometheus: {words}")


@pytest.mark.parametrize(("listen", "warned"), [("127.0.0.1:0", False), ("0.0.0.0:0", True)])
def test_an_address_that_is_not_loopback_is_warned_about(
    listen: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Loopback gives no warning, any other address gives one."""
    page = MetricsPage(listen)
    with caplog.at_level(logging.WARNING):
        page.start()
    page.stop()

    assert [record.getMessage().partition(" http")[0] for record in caplog.records] == [
        "every host that can reach"
    ] * warned


def test_scrapes_at_the_same_time_get_everything_once(page: MetricsPage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two readers that would both have collected before either has its answer: each gets each family once."""
    figures_of(page).call_ended("work.example", "list", OK, 0.5, cached=False)
    received, meeting = page.reader._receive_metrics, threading.Barrier(2)

    def together(*args: Any, **options: Any) -> None:
        received(*args, **options)
        with suppress(threading.BrokenBarrierError):
            meeting.wait(0.5)

    monkeypatch.setattr(page.reader, "_receive_metrics", together)
    page.start()
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(read, [page.url] * 2))

    for answer in answers:
        families = [line.split()[2] for line in answer.splitlines() if line.startswith("# TYPE")]
        assert sorted(families) == [
            "federation_client_duration_seconds",
            "federation_client_requests_total",
            "target_info",
        ]


def test_nothing_can_be_changed_through_the_page(page: MetricsPage) -> None:
    """Every method that could change data is refused."""
    page.start()
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(page.url, b"x", method="POST"), timeout=10)
    with caught.value as refused:
        assert refused.code == 405


def test_an_idle_connection_is_closed(page: MetricsPage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without a request occupies its thread only for a limited time."""
    monkeypatch.setattr(prometheus._Handler, "timeout", 0.1)
    page.start()
    port = int(page.url.rsplit(":", 1)[1].partition("/")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as silent:
        assert silent.recv(1) == b""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
    assert connection.getresponse().status == 200
    connection.close()
