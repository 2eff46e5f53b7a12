"""Lines on the grants of a status. Pure functions."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from federation.v1 import admin_pb2 as pb
from mosaic_cli.output.layout import Span, TextLine, column_widths, columns, plural, span, state, summary, wrapped
from mosaic_cli.output.times import distance, moment, seconds

STATES: Final = {
    pb.GRANT_STATUS_PENDING: "pending",
    pb.GRANT_STATUS_ACTIVE: "active",
    pb.GRANT_STATUS_REVOKED: "revoked",
    pb.GRANT_STATUS_EXPIRED: "expired",
}
ENDED: Final = frozenset({pb.GRANT_STATUS_REVOKED, pb.GRANT_STATUS_EXPIRED})
LISTED: Final = 10
"""If there are more grants, ended grants without use are only counted."""
NOTE: Final = 4


def grant_summary(reply: pb.StatusResponse, now: float) -> TextLine:
    """Return `2 grants: 1 active, 1 revoked; 1 watch, 3 leases; 120 requests, the last 3 s ago`."""
    parts = summary("grant", [STATES.get(grant.status, "") for grant in reply.grants], STATES.values())
    if reply.HasField("serving"):
        serving = reply.serving
        parts.append(Span(f"; {plural(serving.watches, 'watch', 'watches')}, {plural(serving.leases, 'lease')}"))
        parts.append(Span(f"; {_traffic(serving, now)}"))
    return tuple(parts)


def requests_line(serving: pb.ServingStatus, width: int) -> list[TextLine]:
    """Return lines on the requests by verb and outcome since the start; no lines without requests."""
    verbs: dict[str, list[str]] = defaultdict(list)
    for one in serving.requests:
        verbs[one.verb].append(f"{one.count:,} {one.outcome}")
    counts = "; ".join(f"{verb} {', '.join(outcomes)}" for verb, outcomes in verbs.items())
    lines = wrapped(f"since the start: {counts}", width, indent=2, style="dim") if counts else []
    if serving.audit_dropped:
        dropped = f"{plural(serving.audit_dropped, 'denial')} were too many to record individually"
        lines += wrapped(dropped, width, indent=2, style="yellow")
    return lines


def shown_grants(grants: Sequence[pb.GrantInfo]) -> list[pb.GrantInfo]:
    """Return the grants to list. If there are many, ended grants without use are omitted."""
    if len(grants) <= LISTED:
        return list(grants)
    return [one for one in grants if one.status not in ENDED or one.requests or one.leases or one.watches]


def grant_lines(grants: Sequence[pb.GrantInfo], now: float, width: int) -> list[TextLine]:
    """Return a heading, and for each grant its row, id and last denial."""
    if not grants:
        return []
    titles = ("GRANT", "PEER", "AS USER", "USED", "WATCHES", "LEASES", "CALLS", "DENIED")
    grid = [[Span(title, "bold") for title in titles], *(_row(grant, now) for grant in grants)]
    beside = sum(column_widths(grid)) + max(len(one.id) for one in grants) <= width
    if beside:
        ids = [Span("ID", "bold"), *(span(grant.id) for grant in grants)]
        grid = [[*row, extra] for row, extra in zip(grid, ids, strict=True)]
    heading, *rows = columns(grid)
    lines = [heading]
    for grant, row in zip(grants, rows, strict=True):
        lines += [row] if beside else [row, (Span(" " * NOTE), span(grant.id, "dim"))]
        lines += _notes(grant, now, width)
    return lines


def _row(grant: pb.GrantInfo, now: float) -> list[Span]:
    used = distance(seconds(grant.last_used_at) - now) if grant.HasField("last_used_at") else "never"
    numbers = (grant.watches, grant.leases, grant.requests, grant.denials)
    return [
        state(STATES.get(grant.status, "unknown")),
        span(grant.peer),
        span(grant.subject),
        Span(used),
        *(Span(f"{number:,}") for number in numbers),
    ]


def _notes(grant: pb.GrantInfo, now: float, width: int) -> list[TextLine]:
    if not grant.HasField("last_denied_at"):
        return []
    return wrapped(f"last denied {moment(grant.last_denied_at, now)}: {grant.last_denied_reason}", width, indent=NOTE)


def _traffic(serving: pb.ServingStatus, now: float) -> str:
    total = sum(one.count for one in serving.requests)
    if not total:
        return "no requests since the start"
    return f"{plural(total, 'request')}, the last {distance(seconds(serving.last_request_at) - now)}"
