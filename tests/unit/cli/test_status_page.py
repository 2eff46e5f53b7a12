"""The page of a status: what it says, in which order, and how much of it a small screen shows."""

import shlex
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from federation.v1 import admin_pb2 as pb
from mosaic_cli.output.layout import Span, cells, columns, plain, span, wrapped
from mosaic_cli.output.times import moment
from mosaic_cli.status.command import healthy
from mosaic_cli.status.health import assess_health, expires_soon, meaning
from mosaic_cli.status.live import FOOT, frame
from mosaic_cli.status.page import page, screen
from mosaic_cli.status.peers import facts
from mosaic_cli.status.stream import StatusSnapshot

NOW = 1_800_000_000
HOUR = 3_600
CLOSED, OPEN, HALF_OPEN = pb.CIRCUIT_STATE_CLOSED, pb.CIRCUIT_STATE_OPEN, pb.CIRCUIT_STATE_HALF_OPEN


def at(seconds: float) -> Timestamp:
    """An instant, so many seconds from now."""
    return Timestamp(seconds=NOW + int(seconds), nanos=0)


def gateway(**changes: Any) -> pb.GatewayInfo:
    """A gateway that started three hours ago."""
    return pb.GatewayInfo(
        **{
            "name": "home.example",
            "version": "1.0",
            "started_at": at(-3 * HOUR),
            "now": at(0),
            "federation_address": "127.0.0.1:7443",
            "enrollment_address": "127.0.0.1:7444",
            "server_certificate": certificate(),
            **changes,
        }
    )


def certificate(**changes: Any) -> pb.CertificateInfo:
    """A certificate of a day, an hour old."""
    times = {"not_before": at(-HOUR), "not_after": at(23 * HOUR), "renews_at": at(15 * HOUR)}
    return pb.CertificateInfo(serial="1", **{**times, **changes})


def peer(name: str = "work.example", user: str = "ada", **changes: Any) -> pb.PeerStatus:
    """A peer that is well and was seen three seconds ago."""
    fields: dict[str, Any] = {
        "state": pb.PEER_STATE_ACTIVE,
        "certificate": certificate(),
        "seen_at": at(-3),
        "circuit": pb.CircuitStatus(state=CLOSED),
        "watch": pb.WatchStatus(state="armed", since=at(-HOUR)),
        "cache": pb.CacheStatus(entries=1, bytes=1_024, hits=3, misses=1),
    }
    fields.update(changes)
    kept = {key: value for key, value in fields.items() if value is not None}
    return pb.PeerStatus(name=name, user=user, endpoint="127.0.0.1:7443", grant_id="g-1", **kept)


def offline(name: str = "away.example") -> pb.PeerStatus:
    """A peer whose circuit is open."""
    circuit = pb.CircuitStatus(state=OPEN, consecutive_failures=5, opened_at=at(-18), retry_at=at(12))
    failure = pb.CallFailure(at=at(-18), code="UNAVAILABLE", reason="PEER_UNREACHABLE", message="refused")
    return peer(name, state=pb.PEER_STATE_OFFLINE, circuit=circuit, last_failure=failure)


def revoked(name: str = "gone.example", reason: str = "project over") -> pb.PeerStatus:
    """A peer that took the grant back."""
    return peer(name, state=pb.PEER_STATE_REVOKED, revocation=pb.PeerRevocation(at=at(-60), reason=reason))


def failure(reason: str, ago: float = 5, code: str = "PERMISSION_DENIED") -> pb.CallFailure:
    """A call that failed some seconds ago."""
    return pb.CallFailure(at=at(-ago), code=code, reason=reason, message="no")


def grant(number: int = 1, **changes: Any) -> pb.GrantInfo:
    """A grant in use."""
    fields: dict[str, Any] = {"status": pb.GRANT_STATUS_ACTIVE, "requests": 7, "last_used_at": at(-5), **changes}
    return pb.GrantInfo(id=f"{number:08x}-0000-4000-8000-000000000000", peer="home.example", subject="ada", **fields)


def reply(*peers: pb.PeerStatus, **changes: Any) -> pb.StatusResponse:
    """A status with these peers."""
    return pb.StatusResponse(**{"gateway": gateway(), "peers": peers, **changes})


def text(status: pb.StatusResponse, width: int = 80) -> str:
    """The page as text."""
    return "\n".join(plain(line) for line in page(status, width))


def shown(status: pb.StatusResponse, width: int = 80, height: int = 24) -> list[str]:
    """The screen as text."""
    return [plain(line) for line in screen(status, width, height)]


@pytest.mark.parametrize(
    ("changes", "word", "healthy"),
    [
        ({}, "active", True),
        ({"seen_at": None}, "not seen", None),
        ({"seen_at": at(600)}, "not seen", None),
        ({"seen_at": at(600), "watch": pb.WatchStatus(state="connecting", since=at(-9))}, "not seen", None),
        ({"seen_at": at(1)}, "active", True),
        ({"circuit": pb.CircuitStatus(state=CLOSED, consecutive_failures=1)}, "failing", False),
        ({"seen_at": None, "circuit": pb.CircuitStatus(state=CLOSED, consecutive_failures=1)}, "failing", False),
        ({"watch": pb.WatchStatus(state="connecting", since=at(-4)), "seen_at": at(-4)}, "failing", False),
        ({"watch": pb.WatchStatus(state="connecting", since=at(-2)), "seen_at": at(-3)}, "active", True),
        ({"watch": pb.WatchStatus(state="connecting", since=at(-9)), "seen_at": at(-3)}, "active", True),
        ({"watch": pb.WatchStatus(state="off", since=at(-9)), "seen_at": at(-99)}, "active", True),
        ({"last_failure": failure("GRANT_INVALID")}, "failing", False),
        ({"last_failure": failure("CERTIFICATE_INVALID"), "last_success": at(-9)}, "failing", False),
        ({"last_failure": failure("", code="UNIMPLEMENTED"), "last_success": at(-9)}, "failing", False),
        ({"last_failure": failure("GRANT_INVALID"), "last_success": at(-2)}, "active", True),
        ({"last_failure": failure("GRANT_INVALID"), "watch": pb.WatchStatus(since=at(-4))}, "failing", False),
        (
            {"last_failure": failure("GRANT_INVALID"), "watch": pb.WatchStatus(state="armed", since=at(-4))},
            "active",
            True,
        ),
        ({"last_failure": failure("SCOPE_VIOLATION")}, "active", True),
        ({"last_failure": failure("RATE_LIMITED")}, "active", True),
        ({"last_failure": failure("PEER_TIMEOUT"), "seen_at": at(-6), "watch": None}, "failing", False),
        ({"last_failure": failure("PEER_UNREACHABLE"), "seen_at": None, "watch": None}, "failing", False),
        ({"last_failure": failure("PEER_TIMEOUT"), "seen_at": at(-4), "watch": None}, "active", True),
        ({"last_failure": failure("PEER_TIMEOUT"), "seen_at": at(-6)}, "active", True),
        ({"state": pb.PEER_STATE_OFFLINE, "circuit": pb.CircuitStatus(state=OPEN)}, "offline", False),
        ({"state": pb.PEER_STATE_DEGRADED}, "degraded", False),
        ({"state": pb.PEER_STATE_REVOKED, "seen_at": None}, "revoked", False),
        ({"state": pb.PEER_STATE_EXPIRED}, "expired", False),
    ],
)
def test_health_of_every_state(changes: dict[str, Any], word: str, healthy: bool | None) -> None:
    """A peer that was seen and has not failed since is healthy; every other peer has a reason and a next step."""
    health = assess_health(peer(**changes), gateway())

    assert (health.label, health.healthy) == (word, healthy)
    assert bool(health.why) == bool(health.next_step) == (healthy is not True)


def test_a_clock_set_back_does_not_put_a_sighting_in_the_future() -> None:
    """A later instant is shown as `?`; one that is less than `GRACE_S` ahead is shown as now."""
    assert "not seen  work.example for ada, seen ?" in text(reply(peer(seen_at=at(600))))
    assert "since this host's clock was set back" in text(reply(peer(seen_at=at(600))))
    assert "active  work.example for ada, seen 0 s ago" in text(reply(peer(seen_at=at(1))))


def test_an_ended_certificate_that_is_not_renewed_for_a_reason_of_the_peer_does_not_wait_for_the_network() -> None:
    """After a refusal the peer's operator must act; an unreachable peer is retried automatically."""

    def step(reason: str) -> str:
        renewal = pb.RenewalStatus(consecutive_failures=1, last_failure=failure(reason), next_at=at(60))
        return assess_health(peer(state=pb.PEER_STATE_EXPIRED, renewal=renewal), gateway()).next_step

    ask = "the peer refuses to renew it: ask the peer's operator to look at the grant, "
    assert step("GRANT_INVALID").startswith(ask)
    assert "grant show g-1" in step("GRANT_INVALID")
    assert step("PEER_UNREACHABLE").startswith("it renews automatically once the peer is reachable")
    final = assess_health(peer(state=pb.PEER_STATE_EXPIRED), gateway()).next_step
    assert final == (
        "enroll again with a new token: `mosaic federation grant token g-1` there, then "
        "`mosaic federation peer remove work.example --user ada` and `mosaic federation peer add --user ada TOKEN`"
    )


@pytest.mark.parametrize("changes", [{"seen_at": None}, {"state": pb.PEER_STATE_DEGRADED}], ids=["ask", "look"])
def test_a_next_step_can_be_typed_whatever_the_user_is_called(changes: dict[str, Any]) -> None:
    """A user's name with blanks and quotes is quoted for a shell."""
    user = "ada o'lace; true"
    words = shlex.split(assess_health(peer(user=user, **changes), gateway()).next_step.partition(": ")[2])

    assert words[words.index("--user") + 1] == user


def test_only_what_was_seen_to_be_unhealthy_counts_for_the_exit_code() -> None:
    """No peers, and peers not seen yet, do not count as unhealthy; one failing peer does."""
    unseen = peer(seen_at=None)

    assert healthy(reply())
    assert healthy(reply(unseen, peer("b.example")))
    assert not healthy(reply(unseen, peer("b.example"), offline()))


def test_an_open_circuit_tells_the_seconds_to_its_probe() -> None:
    """The text has the start, the failures and the seconds to the next probe."""
    health = assess_health(offline(), gateway())

    assert health.why == (
        f"circuit open since 18 s ago ({datetime.fromtimestamp(NOW - 18, UTC):%H:%M:%S} UTC) "
        "after 5 failures in a row; next probe in 12 s"
    )


def test_an_instant_is_a_distance_and_a_time_of_day() -> None:
    """An instant of another day has its date; a number out of range is an unknown time."""
    noon = datetime(2027, 3, 1, 12, tzinfo=UTC).timestamp()

    assert moment(Timestamp(seconds=int(noon) - 3), noon) == "3 s ago (11:59:57 UTC)"
    assert moment(Timestamp(seconds=int(noon) + 7 * HOUR), noon) == "in 7 h (19:00:00 UTC)"
    assert moment(Timestamp(seconds=int(noon) - 13 * HOUR), noon) == "13 h ago (2027-02-28 23:00 UTC)"
    assert moment(Timestamp(seconds=10**15), noon) == "at an unknown time"


def test_failures_are_explained() -> None:
    """The explanation depends on the reason, else on the code; an unknown reason has none."""
    assert meaning(pb.CallFailure(code="UNAVAILABLE", reason="PEER_UNREACHABLE")).startswith("no connection")
    assert meaning(pb.CallFailure(code="UNIMPLEMENTED")).startswith("the peer does not implement the call")
    assert meaning(pb.CallFailure(code="UNIMPLEMENTED", reason="NEW_REASON")) == ""
    assert meaning(pb.CallFailure(code="ABORTED")) == ""


def test_a_certificate_ends_soon_in_the_last_quarter_of_its_life() -> None:
    """Its renewal is overdue then."""
    assert not expires_soon(certificate(), NOW)
    assert not expires_soon(certificate(), NOW + 17 * HOUR - 1)
    assert expires_soon(certificate(), NOW + 17 * HOUR + 1)


def test_a_page_without_peers_has_only_the_gateway() -> None:
    """Name, time, addresses and its own certificate."""
    assert text(reply()).splitlines()[0].startswith("gateway      home.example 1.0, started 3 h ago (")
    assert len(text(reply()).splitlines()) == 4
    assert "its own: renews in 15 h, expires in 23 h" in text(reply())


def test_many_peers_have_a_row_each_the_unhealthy_ones_first() -> None:
    """Unhealthy, then not seen, then the rest; each by name and user; a summary counts them by label."""
    peers = [peer(f"p{number}.example", user) for number in (3, 1, 2) for user in ("eve", "ada")]
    lines = text(reply(*peers, peer("x.example", seen_at=None), revoked(), offline())).splitlines()

    assert "9 peers: 6 active, 1 not seen, 1 offline, 1 revoked" in lines
    rows = [line.split("example")[0].split()[1:] for line in lines if line.startswith(("●", "◌", "○", "✕"))]
    assert [row[-1] for row in rows] == ["away.", "gone.", "x.", "p1.", "p1.", "p2.", "p2.", "p3.", "p3."]
    users = [line.split()[3] for line in lines if line.startswith("●")]
    assert users == ["ada", "eve"] * 3
    assert any("the peer revoked the grant 60 s ago" in line and "project over" in line for line in lines)


def test_the_page_does_not_depend_on_the_order_of_the_reply() -> None:
    """The same peers give the same page."""
    peers = [peer(f"p{number}.example") for number in range(5)] + [offline(), revoked()]

    assert text(reply(*peers)) == text(reply(*reversed(peers)))


@pytest.mark.parametrize("count", [1, 2, 4, 50])
@pytest.mark.parametrize("width", [80, 100, 200])
def test_state_name_and_reason_are_never_cut(count: int, width: int) -> None:
    """With the longest names and reasons, at every width, no line is wider than the screen."""
    long = "n" * 127
    reason = "because " + "of a very long story " * 14
    peers = [revoked(f"{long[:120]}-{number}", reason) for number in range(count)]
    lines = text(reply(*peers), width).splitlines()

    joined = "".join("".join(lines).split())
    assert max(map(len, lines)) <= width
    for number in range(count):
        assert f"{long[:120]}-{number}" in joined
    assert joined.count("".join(reason.split())) == count
    assert sum(line.startswith("✕ revoked") for line in lines) == count


def test_a_narrow_terminal_drops_columns() -> None:
    """State, peer and user remain; other columns are dropped from the right."""
    peers = [peer(f"p{number}.example") for number in range(4)]
    pages = [text(reply(*peers), width).splitlines() for width in (30, 48, 80, 120)]

    assert [line.split() for lines in pages for line in lines if line.startswith("STATE")] == [
        ["STATE", "PEER", "USER"],
        ["STATE", "PEER", "USER", "SEEN", "RENEWS"],
        ["STATE", "PEER", "USER", "SEEN", "RENEWS", "WATCH", "HITS", "P50", "CIRCUIT"],
        ["STATE", "PEER", "USER", "SEEN", "RENEWS", "WATCH", "HITS", "P50", "CIRCUIT", "ENDPOINT"],
    ]


def test_the_facts_of_a_peer_name_what_is_switched_off() -> None:
    """Without circuit, watch and cache, the facts say so instead of leaving them out."""
    found = facts(peer(circuit=None, watch=None, cache=None), NOW)

    assert (found["circuit"], found["cache"]) == ("switched off", "switched off")
    assert found["watch"] == "off; revocations arrive late"
    assert "last failure" not in found


def test_text_of_a_peer_cannot_control_the_terminal() -> None:
    """Control characters and line ends of a reason or a name are replaced."""
    page_text = text(reply(revoked("ev\x1bil", "a\x1b[2Jb\nc\u202e")))

    assert not {"\x1b", "\u202e"} & set(page_text)
    assert "a\N{REPLACEMENT CHARACTER}[2Jb c" in page_text


def test_served_requests_are_counted() -> None:
    """Grants by status, watchers, leases, requests by verb and outcome, and denials that were dropped."""
    serving = pb.ServingStatus(
        watches=1,
        leases=2,
        requests=[
            pb.RequestCount(verb="list", outcome="denied", count=2),
            pb.RequestCount(verb="list", outcome="ok", count=1_118),
        ],
        last_request_at=at(-3),
        audit_dropped=4,
    )
    lines = text(reply(grants=[grant()], serving=serving)).splitlines()

    assert "1 grant: 1 active; 1 watch, 2 leases; 1,120 requests, the last 3 s ago" in lines
    assert "  since the start: list 2 denied, 1,118 ok" in lines
    assert "  4 denials were too many to record individually" in lines


def test_unused_ended_grants_are_only_counted_if_there_are_many() -> None:
    """A revoked grant with recent calls is listed; many unused old grants are not."""
    old = [grant(n, status=pb.GRANT_STATUS_REVOKED, requests=0) for n in range(1, 13)]
    asked = grant(
        99, status=pb.GRANT_STATUS_REVOKED, requests=1, last_denied_at=at(-1), last_denied_reason="GRANT_REVOKED"
    )
    lines = text(reply(grants=[*old, asked, grant(100)]), 120).splitlines()

    assert "14 grants: 1 active, 13 revoked" in lines
    assert sum("0000-4000" in line for line in lines) == 2
    assert any("last denied 1 s ago" in line and line.endswith("GRANT_REVOKED") for line in lines)
    assert sum("0000-4000" in line for line in text(reply(grants=old[:3]), 120).splitlines()) == 3


@pytest.mark.parametrize("height", range(1, 40))
def test_a_screen_is_never_exceeded_and_says_what_it_hides(height: int) -> None:
    """At every height the most urgent peers come first, and hidden peers are counted."""
    peers = [peer(f"p{number:02}.example") for number in range(30)] + [offline(), revoked()]
    lines = shown(reply(*peers, grants=[grant()]), height=height)

    assert len(lines) <= height
    rows = [line for line in lines if line.startswith(("●", "○", "✕"))]
    hidden = [line for line in lines if line.startswith("…")]
    if height >= 6:
        assert rows[0].startswith("○ offline  away.example")
        assert "32 peers: 30 active, 1 offline, 1 revoked" in lines
    if hidden:
        assert int(hidden[0].split()[1]) + len(rows) == 32
    elif height >= 6:
        assert len(rows) == 32


def test_reasons_are_shown_where_there_is_room_for_them() -> None:
    """A screen with room beyond all rows shows the reasons of the first unhealthy peers."""
    peers = [peer(f"p{number}.example") for number in range(6)] + [offline()]
    without, with_reasons = shown(reply(*peers), height=10), shown(reply(*peers), height=16)

    assert sum("circuit open" in line for line in without) == 0
    assert sum("circuit open" in line for line in with_reasons) == 1


def test_warnings_are_part_of_a_screen() -> None:
    """The live screen has no standard error."""
    assert shown(reply(warnings=["look at this"]))[-1] == "warning: look at this"
    assert "look at this" not in text(reply(warnings=["look at this"]))


def lines_of(snapshot: StatusSnapshot, *, height: int = 24, now: float = 0.0) -> list[str]:
    """The text of the live view."""
    today = datetime.fromtimestamp(NOW, UTC)
    return [plain(line) for line in frame(snapshot, now, today, 80, height)]


def test_an_unreachable_gateway_is_reported_above_its_last_status() -> None:
    """The screen has the start and reason of the outage, the last status and, at every height, the footer."""
    lost = datetime.fromtimestamp(NOW - 12, UTC)
    snapshot = StatusSnapshot(reply(peer()), lost_at=lost, problem="it does not run")

    lines = lines_of(snapshot)
    assert lines[0] == f"✕ gateway not reachable since {lost:%H:%M:%S} UTC (12 s ago): it does not run"
    assert lines[1] == "last status:"
    assert any("● active" in line for line in lines)
    for height in range(1, 24):
        small = lines_of(snapshot, height=height)
        assert len(small) <= height
        assert small[-1] == plain(FOOT)


def test_a_gateway_that_hangs_is_noticed() -> None:
    """A connected gateway that sends nothing is reported; before the first status the view shows that it waits."""
    snapshot = StatusSnapshot(reply(peer()), at=100.0)

    assert lines_of(StatusSnapshot())[0] == "waiting for the gateway …"
    assert "said nothing" not in lines_of(snapshot, now=103.0)[0]
    assert lines_of(snapshot, now=107.0)[0] == "◌ no status from the gateway for 7 s"


def test_wide_characters_take_two_columns() -> None:
    """Columns stay under each other, and wrapped lines within the width."""
    assert [cells(word) for word in ("abc", "日本", "e\u0301")] == [3, 4, 1]
    first, second = columns([[span("日本"), Span("x")], [span("abcd"), Span("y")]])
    assert cells(plain(first).partition("x")[0]) == cells(plain(second).partition("y")[0])
    assert all(cells(plain(line)) <= 40 for line in wrapped("日本" * 40, 40, indent=4))
