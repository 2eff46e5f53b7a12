"""The output of a query over several sources, as tables and as JSON."""

from typing import Any

import orjson
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from federation.admin.handlers.queries import _refusal
from federation.errors import Action, FederationError, Reason, Remedy
from federation.session.results import Answer, SourceReport, SourceState
from federation.v1 import admin_pb2 as pb
from federation.v1 import federation_pb2
from mosaic_cli.output import shapes
from mosaic_cli.output.errors import simplify_grpc_error
from mosaic_cli.query import rows
from mosaic_cli.query import shapes as query_shapes
from mosaic_cli.query.answers import Answers, milliseconds

WORK = "federated:work.example"
REFUSED = "last error: UNKNOWN: ipv4:127.0.0.1:7443: Failed to connect to remote host: Connection refused"


def row(name: str, source: str = WORK, data: str = '{"title": "t"}', **more: Any) -> pb.QueryRow:
    """One row of a source."""
    return pb.QueryRow(row=federation_pb2.Row(id=name, owner="ada", data=data), source=source, **more)


def part(source: str, *names: str, report: str = "", **more: Any) -> pb.QueryResponse:
    """One message of a streamed answer; the last one of a source has its state."""
    message = pb.QueryResponse(source=source, rows=[row(name, source, **more) for name in names])
    if report:
        message.report.CopyFrom(pb.SourceReport(source=source, state=report, latency_ms=12.4))
    return message


def test_a_source_in_several_messages_is_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Rows of interleaved sources are printed under one heading each, once the source is complete."""
    table = rows.LiveTable(search=False)

    for message in (part(WORK, "w1"), part("local", "l1"), part("local", "l2", report="ok"), part(WORK, report="ok")):
        table.show(message)

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] if line else "" for line in lines] == ["local", "ID", "l1", "l2", "", WORK, "ID", "w1"]
    assert lines[0] == "local  2 rows in 12 ms"


def test_cached_rows_show_their_age(capsys: pytest.CaptureFixture[str]) -> None:
    """The heading of a cached answer shows its age instead of its latency; a source without rows has no table."""
    table = rows.LiveTable(search=False)

    table.show(part(WORK, "w1", report="cached", cached=True, age_s=12.2))
    table.show(part("local", report="ok"))

    out = capsys.readouterr().out
    assert out.startswith(f"{WORK}  1 row from the cache, 12 s old\n")
    assert out.endswith("\n\nlocal  0 rows in 12 ms\n")


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (
            pb.SourceReport(state="offline", reason="PEER_TIMEOUT", message=f"{WORK}: silent", next_step="look there"),
            f"{WORK}: offline: PEER_TIMEOUT: silent; look there",
        ),
        (
            pb.SourceReport(state="rate_limited", reason="RATE_LIMITED", message="slow down", next_step="x",
                            retry_after_s=7),
            f"{WORK}: rate_limited: RATE_LIMITED: slow down; try again in 7 s",
        ),
        (
            pb.SourceReport(state="skipped", reason="PEER_UNREACHABLE", message=f"failed {REFUSED}", next_step="x",
                            retry_after_s=7),
            f"{WORK}: skipped: PEER_UNREACHABLE; queried again in 7 s",
        ),
        (pb.SourceReport(state="failed", message="a\x1b[2Jb"), f"{WORK}: failed: a\N{REPLACEMENT CHARACTER}[2Jb"),
    ],
    ids=["offline", "rate_limited", "skipped", "hostile"],
)  # fmt: skip
def test_a_missing_source_is_one_line(report: pb.SourceReport, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The line has state, reason, message and next step, without control characters."""
    report.source = WORK

    rows.close(Answers(sources=[pb.SourceReport(source="local", state="ok", latency_ms=3), report], partial=True))

    assert capsys.readouterr().err == f"0 rows from 1 of 2 sources in 3 ms\n{line}\n"


def test_a_missing_source_that_was_reported_before_is_only_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """A terminal that showed each source when it answered does not show a missing one again at the end."""
    answers = Answers(
        sources=[pb.SourceReport(source="local", state="ok"), pb.SourceReport(source=WORK, state="offline")]
    )

    rows.close(answers, reported=True)

    assert capsys.readouterr().err == "0 rows from 1 of 2 sources in 0 ms\n"


def test_a_single_source_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """The last line has the name and latency of a single source."""
    rows.close(Answers(rows=[row("w1")], sources=[pb.SourceReport(source=WORK, state="cached", latency_ms=0.2)]))

    assert capsys.readouterr().err == f"1 row from {WORK} in 0 ms\n"


def test_answers_are_collected_message_by_message() -> None:
    """Rows are appended, capabilities are stored by source, and the last message has the summary."""
    answers = Answers()
    opened = federation_pb2.CapabilitiesResponse(resources=["tasks"])

    for message in (
        part(WORK, "a"),
        part("local", "b"),
        pb.QueryResponse(source=WORK, capabilities=opened),
        pb.QueryResponse(source="local", capabilities=federation_pb2.CapabilitiesResponse()),
        pb.QueryResponse(
            next_page_token="t",
            summary=pb.QuerySummary(
                sources=[pb.SourceReport(source=WORK, state="offline")], partial=True, signals=[pb.PeerSignal(peer="p")]
            ),
        ),
    ):
        answers.add(message)

    assert [one.row.id for one in answers.rows] == ["a", "b"]
    assert (answers.capabilities[WORK], list(answers.capabilities)) == (opened, [WORK, "local"])
    assert (answers.next_page_token, answers.partial, len(answers.signals)) == ("t", True, 1)
    assert answers.missing == answers.sources
    assert str(answers.not_found).endswith(f"at a source that answered; these did not: {WORK}")


@pytest.mark.parametrize("levels", [64, 65, 300, 900, 5_000])
@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a":', "}")])
def test_data_of_any_depth_can_be_printed(levels: int, opens: str, closes: str) -> None:
    """Data that nests too deep is returned as text."""
    text = opens * levels + "0" + closes * levels

    shape = shapes.row(row("deep", data=text))

    assert isinstance(shape["data"], str) == (levels > 64)
    assert orjson.loads(shapes.dump({"rows": [shape]}))["rows"][0]["id"] == "deep"


@pytest.mark.parametrize("seconds", [10**17, -(10**17)])
def test_impossible_instants_are_null(seconds: int) -> None:
    """A timestamp out of range becomes null."""
    hostile = pb.QueryRow(row=federation_pb2.Row(id="x", created_at=Timestamp(seconds=seconds)))

    assert shapes.row(hostile)["created_at"] is None


def test_signals_and_reports_have_stable_shapes() -> None:
    """Empty fields are null, instants are text."""
    signal = query_shapes.signal(pb.PeerSignal(kind="offline", peer="p", text="t", since=Timestamp(seconds=1)))
    report = query_shapes.report(pb.SourceReport(source="local", state="ok", latency_ms=1.23456))

    assert signal == {
        "kind": "offline", "peer": "p", "text": "t", "reason": None, "message": None, "next_step": None,
        "since": "1970-01-01T00:00:01.000Z", "retry_at": None,
    }  # fmt: skip
    assert report == {
        "source": "local", "state": "ok", "reason": None, "message": None, "next_step": None, "latency_ms": 1.235,
        "rows": 0, "retry_after_s": None,
    }  # fmt: skip


def test_a_next_step_ends_with_its_command() -> None:
    """Text and JSON output append the command of the remedy."""
    remedy = pb.Remedy(action="RESET_CIRCUIT", parameters={"peer": "work.example", "user": "ada l"})
    words = "reset it: mosaic federation peer reset work.example --user 'ada l'"

    assert query_shapes.signal(pb.PeerSignal(next_step="reset it", remedy=remedy))["next_step"] == words
    assert query_shapes.report(pb.SourceReport(next_step="reset it", remedy=remedy))["next_step"] == words
    unknown = pb.Remedy(action="OF_A_LATER_VERSION")
    assert query_shapes.report(pb.SourceReport(next_step="reset it", remedy=unknown))["next_step"] == "reset it"


@pytest.mark.parametrize("state", [SourceState.OFFLINE, SourceState.SKIPPED])
def test_the_refusal_of_a_named_source_has_the_remedy_of_its_own_certificate(state: SourceState) -> None:
    """Its message ends with the act; a message about another reason does not, and its remedy is left out."""
    rotate = Remedy(action=Action.ROTATE_PEER, peer="work.example", user="ada")
    asked = pb.QueryRequest(source=WORK)

    def refused(reason: Reason) -> FederationError | None:
        report = SourceReport(source=WORK, state=state, reason=reason, message="it ended; rotate it", remedy=rotate)
        return _refusal(Answer(report), asked)

    own, other = refused(Reason.CERTIFICATE_INVALID), refused(Reason.PEER_UNREACHABLE)
    assert own is not None
    assert other is not None
    assert (own.remedy, other.remedy) == (rotate, None)


def test_connection_errors_of_grpc_are_shortened() -> None:
    """The message names the address first and fits on a line; other text is unchanged."""
    assert simplify_grpc_error(f"failed to connect to all addresses; {REFUSED}") == (
        "cannot connect to 127.0.0.1:7443: Connection refused"
    )
    assert simplify_grpc_error("task 4 failed\n  to connect") == "task 4 failed to connect"


@pytest.mark.parametrize(("seconds", "expected"), [(0, 0), (0.0001, 1), (0.25, 250), (300, 300_000)])
def test_a_budget_is_never_rounded_to_0(seconds: float, expected: int) -> None:
    """0 means the gateway's setting, so no other budget may become 0."""
    assert milliseconds(seconds) == expected
