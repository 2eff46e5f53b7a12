"""Lines on the peers of a status: a row or a card for each peer. Pure functions."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from federation.v1 import admin_pb2 as pb
from mosaic_cli.output.errors import simplify_grpc_error
from mosaic_cli.output.layout import (
    GAP,
    Span,
    TextLine,
    cells,
    column_widths,
    columns,
    labelled,
    plain,
    plural,
    span,
    state,
    summary,
    wrapped,
)
from mosaic_cli.output.models import enum_name
from mosaic_cli.output.times import duration, moment, seconds
from mosaic_cli.status.health import (
    ORDER,
    Health,
    assess_health,
    circuit_text,
    expires_soon,
    last_seen,
    meaning,
    renewal_text,
)

NOTE: Final = 4
"""Indentation of the notes below a row."""
LABEL: Final = 14
COLUMNS: Final = ("STATE", "PEER", "USER", "SEEN", "RENEWS", "WATCH", "HITS", "P50", "CIRCUIT", "ENDPOINT")
IDENTITY: Final = 3
"""The first columns, which every row has."""
_RANK: Final = {False: 0, None: 1, True: 2}


class PeerHealth(NamedTuple):
    """A peer and the assessment of its health."""

    peer: pb.PeerStatus
    health: Health


class PeerRow(NamedTuple):
    """The lines of a peer in a list: its row, and the notes below it. `label` is that of its health."""

    row: list[TextLine]
    notes: list[TextLine]
    label: str


def assess_peers(reply: pb.StatusResponse) -> list[PeerHealth]:
    """Assess all peers. Sorted: unhealthy first, then not seen yet, then healthy; by name and user."""
    found = [PeerHealth(peer, assess_health(peer, reply.gateway)) for peer in reply.peers]
    return sorted(found, key=lambda one: (_RANK[one.health.healthy], one.peer.name, one.peer.user))


def peer_summary(peers: Sequence[PeerHealth]) -> TextLine:
    """Return `50 peers: 47 active, 2 offline, 1 revoked`."""
    return tuple(summary("peer", [one.health.label for one in peers], ORDER))


def peer_rows(peers: Sequence[PeerHealth], now: float, width: int) -> tuple[TextLine, list[PeerRow]]:
    """Return a heading, and for each peer its row with as many columns as fit.

    If state, name and user do not fit on one line, every row takes several lines, and nothing is truncated.
    """
    grid = [[Span(title, "bold") for title in COLUMNS], *(_cells(one, now) for one in peers)]
    fitting = sum(total - GAP <= width for total in accumulate(column_widths(grid)))
    if fitting < IDENTITY:
        (heading,) = columns([grid[0][:IDENTITY]])
        rows = [_stacked(one, now, width) for one in peers]
    else:
        heading, *lines = columns([row[:fitting] for row in grid])
        rows = [[line] for line in lines]
    return heading, [
        PeerRow(row, _notes(one, now, width), one.health.label) for one, row in zip(peers, rows, strict=True)
    ]


def _stacked(one: PeerHealth, now: float, width: int) -> list[TextLine]:
    first = state(one.health.label)
    name, *more = wrapped(one.peer.name, width, indent=cells(first.text) + 2)
    text = f"for {one.peer.user}, seen {last_seen(one.peer, now)}"
    return [(first, Span("  "), *name[1:]), *more, *wrapped(text, width, indent=NOTE)]


def _notes(one: PeerHealth, now: float, width: int) -> list[TextLine]:
    """Return notes on an unhealthy peer: why, the last failure, the next step. Also notes on overdue renewals."""
    peer, health = one
    lines = []
    if health.healthy is False:
        lines += wrapped(health.why, width, indent=NOTE)
        if health.label != "revoked" and peer.HasField("last_failure"):
            lines += wrapped(f"last failure {_failure(peer.last_failure, now)}", width, indent=NOTE)
    lines += [line for text in _renewal(peer, now) for line in wrapped(text, width, indent=NOTE)]
    if health.healthy is False:
        lines += wrapped(health.next_step, width, indent=NOTE, style="dim")
    return lines


def card(one: PeerHealth, now: float, width: int) -> list[TextLine]:
    """Return all facts of a peer as lines."""
    peer, health = one
    when = f"seen {last_seen(peer, now)}" if peer.HasField("seen_at") else "not seen yet"
    title: TextLine = (state(health.label), Span("  "), span(peer.name, "bold"), span(f" for {peer.user}, {when}"))
    lines = [title] if cells(plain(title)) <= width else _stacked(one, now, width)
    lines += _labelled("why", health.why, width)
    lines += [line for name, text in facts(peer, now).items() for line in _labelled(name, text, width)]
    return [*lines, *_labelled("next step", health.next_step, width)]


def facts(peer: pb.PeerStatus, now: float) -> dict[str, str]:
    """Return the facts of a peer by their names. Empty facts are omitted."""
    texts = {
        "endpoint": f"{peer.endpoint}, under grant {peer.grant_id}",
        "circuit": circuit_text(peer.circuit, now) if peer.HasField("circuit") else "switched off",
        "watch": _watch(peer, now),
        "certificate": _certificate(peer.certificate, now),
        "renewal": "; ".join(_renewal(peer, now)),
        "cache": _cache(peer),
        "latency": _latency(peer),
        "last success": moment(peer.last_success, now) if peer.HasField("last_success") else "none since the start",
        "last failure": _failure(peer.last_failure, now) if peer.HasField("last_failure") else "",
    }
    return {name: text for name, text in texts.items() if text}


def _labelled(name: str, text: str, width: int) -> list[TextLine]:
    return labelled(Span(f"  {name.ljust(LABEL)}", "dim"), text, width)


def _failure(failure: pb.CallFailure, now: float) -> str:
    name, explanation = failure.reason or failure.code, meaning(failure)
    parts = [": ".join(filter(None, (moment(failure.at, now), name)))]
    parts += [
        text for text in (explanation, f"“{simplify_grpc_error(failure.message)}”" if failure.message else "") if text
    ]
    return ", ".join(parts)


def _renewal(peer: pb.PeerStatus, now: float) -> list[str]:
    """Return the problems of the certificate in use."""
    if peer.state in {pb.PEER_STATE_REVOKED, pb.PEER_STATE_UNSPECIFIED}:
        return []
    texts = []
    if peer.state != pb.PEER_STATE_EXPIRED and expires_soon(peer.certificate, now):
        texts.append(f"its certificate expires {moment(peer.certificate.not_after, now)} and is not renewed yet")
    if peer.renewal.HasField("last_failure"):
        times = plural(peer.renewal.consecutive_failures, "time")
        again = f"next attempt {_next(peer.renewal, now)}" if peer.renewal.HasField("next_at") else "no further attempt"
        texts.append(f"renewal failed {times} in a row, {again}; last {_failure(peer.renewal.last_failure, now)}")
    return texts


def _next(renewal: pb.RenewalStatus, now: float) -> str:
    return moment(renewal.next_at, now) if seconds(renewal.next_at) > now else "now"


def _watch(peer: pb.PeerStatus, now: float) -> str:
    since = f" since {moment(peer.watch.since, now)}" if peer.watch.HasField("since") else ""
    armed = peer.watch.state == "armed"
    late = "; revocations arrive late" if not armed and peer.state == pb.PEER_STATE_ACTIVE else ""
    return f"{peer.watch.state or 'off'}{since}{late}"


def _certificate(certificate: pb.CertificateInfo, now: float) -> str:
    expired = seconds(certificate.not_after) <= now
    ends = f"{'expired' if expired else 'expires'} {moment(certificate.not_after, now)}"
    if not certificate.HasField("renews_at"):
        return f"{ends}; it will not be renewed"
    return f"{renewal_text(certificate, now)}, {ends}"


def _cache(peer: pb.PeerStatus) -> str:
    cache, lookups = peer.cache, peer.cache.hits + peer.cache.misses
    if not peer.HasField("cache"):
        return "switched off"
    stored = f"{plural(cache.entries, 'answer')} stored ({cache.bytes / 1_024:,.1f} KiB)"
    if not lookups:
        return f"no lookups; {stored}"
    return f"{_share(peer)} hits ({cache.hits:,} of {lookups:,} since the start), {stored}"


def _latency(peer: pb.PeerStatus) -> str:
    if not peer.HasField("latency"):
        return ""
    return f"p50 {_ms(peer.latency.p50_ms)}, p99 {_ms(peer.latency.p99_ms)}, of the last answers (512 at most)"


def _cells(one: PeerHealth, now: float) -> list[Span]:
    """Return the cells of a peer's row, one for each of `COLUMNS`."""
    peer, watch = one.peer, one.peer.watch.state or "off"
    return [
        state(one.health.label),
        span(peer.name),
        span(peer.user),
        Span(last_seen(peer, now)),
        _renews(peer.certificate, now),
        Span(watch, "" if watch == "armed" else "yellow"),
        Span(_share(peer)),
        Span(_ms(peer.latency.p50_ms) if peer.HasField("latency") else "-"),
        Span(enum_name(peer.circuit, "state").replace("_", "-") if peer.HasField("circuit") else "-"),
        span(peer.endpoint),
    ]


def _renews(certificate: pb.CertificateInfo, now: float) -> Span:
    if not certificate.HasField("renews_at"):
        return Span("never", "yellow")
    due = seconds(certificate.renews_at) - now
    return Span(f"in {duration(due)}") if due > 0 else Span("due", "yellow")


def _share(peer: pb.PeerStatus) -> str:
    lookups = peer.cache.hits + peer.cache.misses
    return f"{100 * peer.cache.hits // lookups}%" if lookups else "-"


def _ms(value: float) -> str:
    return f"{value:.1f} ms" if value < 100 else f"{value:,.0f} ms"  # noqa: PLR2004 - three digits suffice
