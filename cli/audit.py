"""`mosaic federation audit`: who read what here."""

from typing import Annotated, Final

import typer

from cli.options import GATEWAY_HERE, Gateway, Json

__all__ = ["HELP", "audit"]

HELP: Final = """Show who read what at this gateway, newest first, and what its operator did. Never what was read.

\b
Examples:
  mosaic federation audit
  mosaic federation audit --grant GRANT --outcome denied --json
"""


def audit(
    grant: Annotated[str, typer.Option("--grant", metavar="GRANT", help="Only this grant.")] = "",
    peer: Annotated[str, typer.Option("--peer", metavar="NAME", help="Only this gateway.")] = "",
    verb: Annotated[str, typer.Option("--verb", help="Only list, get, search, … or an act such as grant.create.")] = "",
    outcome: Annotated[str, typer.Option("--outcome", help="Only ok, denied, …")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000, help="At most so many.")] = 50,
    gateway: Gateway = GATEWAY_HERE,
    *,
    as_json: Json = False,
) -> None:
    """Print audit events."""
    from cli import render, shapes
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb

    request = pb.ListAuditEventsRequest(page_size=limit, grant_id=grant, peer=peer, verb=verb, outcome=outcome)
    with connect(gateway) as admin:
        reply = admin.ListAuditEvents(request)
    if as_json:
        events = [shapes.audit_event(event) for event in reply.events]
        render.out(shapes.dump({"events": events, "next_page_token": reply.next_page_token or None}))
        return
    if not reply.events:
        render.say("nothing yet")
        return
    render.table(
        ("at", "peer", "subject", "verb", "resource", "outcome", "reason"),
        (
            (
                (shapes.instant(event, "at") or "")[:19].replace("T", " "),
                event.peer or event.source or "-",
                event.subject or "-",
                event.verb,
                event.resource or "-",
                event.outcome + (f" x{event.count}" if event.count > 1 else ""),
                event.reason or "-",
            )
            for event in reply.events
        ),
        shrink="reason",
    )
    if reply.next_page_token:
        render.say("there are more: --limit")
