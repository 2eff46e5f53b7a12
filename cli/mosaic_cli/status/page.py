"""Layout of a status as a page of lines, and as a screen of limited height. Pure functions."""

from collections import Counter
from typing import Final

from federation.v1 import admin_pb2 as pb
from mosaic_cli.output.layout import Span, TextLine, labelled, span, wrapped
from mosaic_cli.output.times import moment, seconds
from mosaic_cli.status.grants import grant_lines, grant_summary, requests_line, shown_grants
from mosaic_cli.status.health import ORDER, expires_soon, renewal_text
from mosaic_cli.status.peers import PeerRow, assess_peers, card, peer_rows, peer_summary

CARDS: Final = 3
"""Up to this number, each peer has a card with all its facts; more peers have one row each."""
BLANK: Final[TextLine] = ()


def page(reply: pb.StatusResponse, width: int) -> list[TextLine]:
    """Return the complete status. Nothing is omitted or truncated."""
    now, peers = seconds(reply.gateway.now), assess_peers(reply)
    lines = _gateway(reply.gateway, now, width)
    if peers:
        lines += [BLANK, peer_summary(peers)]
        if len(peers) <= CARDS:
            for one in peers:
                lines += [BLANK, *card(one, now, width)]
        else:
            heading, rows = peer_rows(peers, now, width)
            lines += [BLANK, heading, *(line for one in rows for line in (*one.row, *one.notes))]
    if reply.grants or reply.serving.requests:
        lines += [BLANK, grant_summary(reply, now), *requests_line(reply.serving, width)]
    if reply.grants:
        lines += [BLANK, *grant_lines(shown_grants(reply.grants), now, width)]
    return lines


def screen(reply: pb.StatusResponse, width: int, height: int) -> list[TextLine]:
    """Return at most `height` lines: the most urgent first, and the number of hidden peers."""
    whole = page(reply, width)
    whole += [line for text in reply.warnings for line in (BLANK, *wrapped(f"warning: {text}", width, style="yellow"))]
    if len(whole) <= height:
        return whole
    now, peers = seconds(reply.gateway.now), assess_peers(reply)
    gateway = reply.gateway
    lines: list[TextLine] = [(span(gateway.name, "bold"), Span(f", as of {_clock(gateway)}"))]
    if reply.grants and height > 4:  # noqa: PLR2004 - fewer lines have room only for peers
        lines.append(grant_summary(reply, now))
    if not peers:
        return lines[:height]
    lines.append(peer_summary(peers))
    heading, rows = peer_rows(peers, now, width)
    return [*lines, *_bounded(heading, rows, height - len(lines))][:height]


def _bounded(heading: TextLine, rows: list[PeerRow], room: int) -> list[TextLine]:
    """Return rows in order. Notes are added if all rows fit; otherwise hidden rows are counted in one line."""
    if room <= 1:
        return []
    room -= 1  # the heading
    if sum(len(one.row) for one in rows) > room:
        fits = max(room - 1, 0) // max(len(one.row) for one in rows)
        shown, hidden = rows[:fits], rows[fits:]
        counts = Counter(one.label for one in hidden)
        summary = ", ".join(f"{counts[label]} {label}" for label in ORDER if counts[label])
        return [
            heading,
            *(line for one in shown for line in one.row),
            (Span(f"… {len(hidden)} more hidden: {summary}", "bold"),),
        ]
    spare, lines = room - sum(len(one.row) for one in rows), [heading]
    for one in rows:
        shown_notes = one.notes if len(one.notes) <= spare else []
        spare -= len(shown_notes)
        lines += [*one.row, *shown_notes]
    return lines


def _gateway(gateway: pb.GatewayInfo, now: float, width: int) -> list[TextLine]:
    certificate = gateway.server_certificate
    renews = renewal_text(certificate, now)
    ends_soon_style = "yellow" if expires_soon(certificate, now) else ""
    facts = (
        ("gateway", f"{gateway.name} {gateway.version}, started {moment(gateway.started_at, now)}", ""),
        ("as of", _clock(gateway), ""),
        ("listens", f"{gateway.federation_address} for peers, {gateway.enrollment_address} for enrollment", ""),
        ("certificate", f"its own: {renews}, expires {moment(certificate.not_after, now)}", ends_soon_style),
    )
    return [line for name, text, style in facts for line in labelled(Span(name.ljust(13), "bold"), text, width, style)]


def _clock(gateway: pb.GatewayInfo) -> str:
    return f"{gateway.now.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"
