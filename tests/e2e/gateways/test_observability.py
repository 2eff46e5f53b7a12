"""The telemetry of two real gateway processes: by OTLP, on `/metrics`, in the logs, on the dashboard."""

import json
import re
import shutil
import sqlite3
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from federation.admin.address import target
from federation.telemetry.metric_definitions import Kind
from federation.v1 import admin_pb2 as pb
from federation.v1 import federation_pb2 as federation
from federation.v1.admin_pb2_grpc import AdminServiceStub
from tests.support.gateway_pair import SCOPE
from tests.support.gateway_processes import GatewayProcesses
from tests.support.metric_table import METRICS, prometheus_name
from tests.support.otlp_collector import Collector, Points, ReceivedLog, running_collector

pytestmark = pytest.mark.e2e

DOCS = Path(__file__).parents[3] / "docs"
DASHBOARD = DOCS / "grafana-dashboard.json"
NAME = re.compile(r"federation_\w+")
PEER = "federated:work.example"
FAULT = "can't decode byte 0xff"
LIST = federation.ListRequest(resource="tasks")


@dataclass
class Seen:
    """The telemetry of two gateways about one exchange."""

    collector: Collector
    started: dict[str, list[str]] = field(default_factory=dict)
    """The line that each gateway printed when it served."""
    pages: dict[str, str] = field(default_factory=dict)
    """`/metrics` of each, at its fullest."""
    logs: dict[str, str] = field(default_factory=dict)

    def samples(self, name: str) -> dict[str, list[tuple[dict[str, str], float]]]:
        """The samples of a page by name, as Prometheus' own parser reads them."""
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(self.pages[name]):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
        return found


def admin_of(served: GatewayProcesses, name: str) -> Any:
    """The operator's stub of a gateway."""
    return AdminServiceStub(grpc.insecure_channel(target(served.directory / name / "run" / "admin.sock")))


def ask(admin: Any, **verb: Any) -> str:
    """Ask the peer as ada; return the code."""
    try:
        list(admin.Query(pb.QueryRequest(user="ada", source=PEER, **verb)))
    except grpc.RpcError as e:
        return str(e.code().name)
    return "OK"


def enroll(home: Any, work: Any) -> None:
    """Let `home` read `work` for ada, by grant, token and peer."""
    created = work.CreateGrant(pb.CreateGrantRequest(peer="home.example", subject="ada", scope=json.dumps(SCOPE)))
    issued = work.CreateEnrollmentToken(pb.CreateEnrollmentTokenRequest(grant_id=created.grant.id))
    home.AddPeer(pb.AddPeerRequest(token=issued.token, user="ada"))


def damage(served: GatewayProcesses) -> None:
    """Make `note-1` of `work` a row that cannot be served."""
    with closing(sqlite3.connect(served.directory / "work" / "gateway.db", timeout=10)) as database, database:
        database.execute("UPDATE rows SET data = ? WHERE id = 'note-1'", (b"\xff",))


def exchange(served: GatewayProcesses, seen: Seen) -> None:
    """Cause every metric to change: answers of each kind, a rotation, an outage."""
    home, work = admin_of(served, "home"), admin_of(served, "work")
    enroll(home, work)
    damage(served)
    seen.collector.wait(lambda c: ("home.example", "federation.watch.events") in c.points, 20)
    assert [ask(home, list=LIST), ask(home, list=LIST)] == ["OK", "OK"]
    assert ask(home, get=federation.GetRequest(resource="tasks", id="absent")) == "NOT_FOUND"
    assert ask(home, list=federation.ListRequest(resource="credentials")) == "PERMISSION_DENIED"
    assert ask(home, get=federation.GetRequest(resource="notes", id="note-1")) == "INTERNAL"
    home.RotatePeer(pb.RotatePeerRequest(name="work.example", user="ada"))
    assert ask(home, list=LIST) == "OK"
    seen.pages["work"] = page_of(seen, "work")
    assert served.stop("work") == 0
    assert {ask(home, search=federation.SearchRequest(query="task")) for _ in range(6)} == {"UNAVAILABLE"}
    seen.pages["home"] = page_of(seen, "home")
    assert served.stop("home") == 0


def page_of(seen: Seen, name: str) -> str:
    """Read `/metrics` of a gateway at the address that it printed."""
    [url] = [line.split()[1] for line in seen.started[name] if line.startswith("  metrics ")]
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    """One exchange between two processes that send to one collector and show their metrics."""
    with running_collector() as collector:
        directory = Path(tempfile.mkdtemp(prefix="m"))
        delays = {"OTEL_METRIC_EXPORT_INTERVAL": "200", "OTEL_BSP_SCHEDULE_DELAY": "100"}
        served, seen = GatewayProcesses(directory), Seen(collector)
        served.variables |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, **delays}
        try:
            for name in ("home", "work"):
                served.init(name)
                toml = directory / name / "gateway.toml"
                settings = 'prometheus = "127.0.0.1:0"\nlog_format = "json"'
                toml.write_text(toml.read_text().replace('# prometheus = ""', settings))
                served.launch(name)
            seen.started |= {name: served.ready(name) for name in ("home", "work")}
            exchange(served, seen)
            seen.logs = {name: (directory / f"{name}.log").read_text() for name in ("home", "work")}
            yield seen
        finally:
            for name in tuple(served.processes):
                with suppress(ProcessLookupError):
                    served.stop(name)
            shutil.rmtree(directory, ignore_errors=True)


def test_a_collector_gets_every_signal_of_both_gateways(seen: Seen) -> None:
    """Spans, metrics and log lines, each under the name of the gateway that sent it."""
    collector = seen.collector
    both = {"home.example", "work.example"}

    assert collector.services == {"mosaic-gateway"}
    assert {span.instance for span in collector.spans} == both
    assert {instance for instance, _ in collector.points} == both
    assert {line.instance for line in collector.lines} == both
    assert {metric.name for metric in METRICS} == {n for n in collector.metrics if n.startswith("federation.")}


def test_the_figures_are_those_of_the_exchange(seen: Seen) -> None:
    """Requests are counted by every attribute on both sides; cache hits only on the asking side."""
    asked = seen.collector.points["home.example", "federation.client.requests"]
    served = seen.collector.points["work.example", "federation.server.requests"]

    assert by(asked, "verb", "outcome", "cached") == {
        ("list", "ok", False): 2,
        ("list", "ok", True): 1,
        ("get", "not_found", False): 1,
        ("list", "denied", False): 1,
        ("get", "error", False): 1,
        ("search", "offline", False): 6,
    }
    assert by(served, "peer", "verb", "outcome") == {
        ("home.example", "list", "ok"): 2,
        ("home.example", "get", "not_found"): 1,
        ("home.example", "list", "denied"): 1,
        ("home.example", "get", "error"): 1,
    }
    timed = seen.collector.points["work.example", "federation.server.duration"]
    assert by(timed, "peer", "verb", "outcome") == by(served, "peer", "verb", "outcome")


def by(points: Points, *names: str) -> dict[tuple[Any, ...], float]:
    """Figures by the values of some attributes."""
    return {tuple(dict(attributes)[name] for name in names): value for attributes, value in points.items()}


def test_log_lines_arrive_with_their_trace_and_without_rows(seen: Seen) -> None:
    """An incident's log record has the id of its span; an outage is logged; the fault's text is not exported."""
    incident = line_of(seen, "work.example", "incident ")
    [span] = [s for s in seen.collector.spans if s.instance == "work.example" and s.outcome == "error"]
    opened = line_of(seen, "home.example", "circuit of work.example (user ada): closed to open")

    assert (incident.trace_id, incident.span_id) == (span.trace_id, span.span_id)
    assert (incident.severity, incident.logger) == ("ERROR", "federation.server.pipeline.error_boundary")
    assert incident.attributes["exception.type"] == "builtins.UnicodeDecodeError"
    assert "in _serve" in incident.attributes["exception.stacktrace"]
    assert FAULT in seen.logs["work"]
    assert FAULT not in str(incident)
    assert opened.severity == "WARNING"
    assert line_of(seen, "work.example", "work.example serves on 127.0.0.1:").severity == "INFO"


def line_of(seen: Seen, instance: str, begins: str) -> ReceivedLog:
    """The only log record of a gateway that begins so."""
    [line] = [x for x in seen.collector.lines if x.instance == instance and x.body.startswith(begins)]
    return line


def test_every_log_line_is_json_and_the_same_as_what_was_sent(seen: Seen) -> None:
    """Each log line is one JSON object, with message and span ids of the exported record."""
    for name in ("home", "work"):
        *log, last = seen.logs[name].splitlines()
        assert last == f"{name}.example stopped"  # the command's own word
        lines = [json.loads(line) for line in log]
        sent = {(x.body, x.trace_id, x.span_id) for x in seen.collector.lines if x.instance == f"{name}.example"}
        written = {(x["message"], x.get("trace_id", ""), x.get("span_id", "")) for x in lines}
        assert sent
        assert sent <= written


def test_no_row_leaves_by_telemetry(seen: Seen) -> None:
    """No row content is in spans, metrics, pages or logs, and no user's name is on the pages."""
    words = ("task number", "personal note", "a secret", "task-0")

    for told in (vars(seen.collector), seen.pages, seen.logs):
        assert not [text for text in words if text in str(told)]
    assert '"ada"' not in str(seen.pages)


def test_the_address_of_the_page_is_told(seen: Seen) -> None:
    """On standard output and in the log, as bound."""
    for name in ("home", "work"):
        [url] = [line.split()[1] for line in seen.started[name] if line.startswith("  metrics ")]
        assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*/metrics", url)
        assert f"{name}.example shows its metrics on {url}" in seen.logs[name]


def test_the_pages_show_every_metric_of_the_catalogue(seen: Seen) -> None:
    """Names, kinds, descriptions and labels, as Prometheus' own parser reads them; nothing else but the target."""
    families: dict[str, Any] = {}
    for page in seen.pages.values():
        families |= {family.name: family for family in text_string_to_metric_families(page)}

    assert set(families) - {"target_info"} == {prometheus_name(m).removesuffix("_total") for m in METRICS}
    for metric in METRICS:
        family = families[prometheus_name(metric).removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind.value, metric.description)
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert labels <= set(metric.attributes)
        assert labels or not metric.attributes


def test_the_figures_on_the_pages_are_those_of_the_exchange(seen: Seen) -> None:
    """A circuit that is open, a certificate that was renewed and has a day left, flushes by cause, leases given out."""
    home, work = seen.samples("home"), seen.samples("work")
    peer = {"peer": "work.example"}

    assert home["federation_circuit_state"] == [(peer, 2.0)]
    assert ({**peer, "state": "open"}, 1.0) in home["federation_circuit_transitions_total"]
    assert home["federation_certificate_renewals_total"] == [({**peer, "outcome": "ok"}, 1.0)]
    left = {labels["kind"]: value for labels, value in home["federation_certificate_remaining_seconds"]}
    assert 86_000 < left["client"] <= 86_400
    assert 31_000_000 < left["server"] <= 31_536_000
    assert ({**peer, "cause": "rotation"}, 1.0) in home["federation_cache_flushes_total"]
    assert home["federation_cache_hits_total"] == [(peer, 1.0)]
    assert work["federation_leases"] == [({}, 1.0)]
    assert work["federation_audit_dropped_total"] == [({}, 0.0)]
    hits = [v for labels, v in home["federation_client_duration_seconds_count"] if labels["cached"] == "true"]
    assert hits == [1.0]


def shown(seen: Seen) -> set[str]:
    """Every name that a query may use: those of the samples on either page."""
    return set(seen.samples("home")) | set(seen.samples("work"))


def test_the_dashboard_asks_for_what_is_there(seen: Seen) -> None:
    """Each query uses metrics and labels that the pages show, and every metric of the catalogue is used."""
    queries = [target["expr"] for panel in panels() for target in panel["targets"]]
    names = {name for query in queries for name in NAME.findall(query)}
    labels = {
        word for query in queries for words in re.findall(r"by \(([\w, ]+)\)", query) for word in words.split(", ")
    }
    labels |= {word for query in queries for word in re.findall(r"(\w+)(?:=~|!=|=)\"", query)}

    assert names <= shown(seen)
    assert {name.removesuffix("_bucket") for name in names} == {prometheus_name(metric) for metric in METRICS}
    assert labels <= {"le", "instance", *(label for metric in METRICS for label in metric.attributes)}


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    """The dashboard has a data source to choose, and panels with unique ids that do not overlap."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    source, *others = dashboard["templating"]["list"]
    places = [
        (x, y)
        for panel in dashboard["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert [variable["name"] for variable in others] == ["instance", "peer"]
    assert {target["datasource"]["uid"] for panel in panels() for target in panel["targets"]} == {"${datasource}"}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert len(set(places)) == len(places)
    assert {x for x, _ in places} == set(range(24))
    assert dashboard["uid"]
    titles = {panel["title"] for panel in panels()}
    assert {
        "Requests by outcome",
        "Latency of live answers",
        "Cache hit share",
        "Circuit",
        "Watch",
        "Leases given out",
        "Certificates: days left",
        "Refusals the audit only counted",
    } <= titles


def panels() -> list[Any]:
    """The panels of the dashboard that have queries."""
    return [panel for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"] if panel["type"] != "row"]


def test_the_documents_queries_ask_for_what_is_there(seen: Seen) -> None:
    """Alerts and examples of OBSERVABILITY.md name metrics that the pages show."""
    text = (DOCS / "OBSERVABILITY.md").read_text(encoding="utf-8")
    used = set(NAME.findall(text))

    assert used
    assert used <= shown(seen) | {prometheus_name(m) for m in METRICS if m.kind is Kind.HISTOGRAM}
