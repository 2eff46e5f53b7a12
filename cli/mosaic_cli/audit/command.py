"""`mosaic federation audit`: show the audit trail of this gateway."""

from typing import Annotated, Any, Final

import typer

from mosaic_cli import completion
from mosaic_cli.options import UNSET_GATEWAY, Gateway
from mosaic_cli.output.times import FORMS

HELP: Final = """Show the audit trail, newest first: calls of peers and acts of the operator, without the rows read.

Refused calls are included; repeated refusals of one kind are counted together. Times are UTC.

\b
Examples:
  mosaic federation audit
  mosaic federation audit --outcome denied --since 2h
  mosaic federation audit --grant GRANT --since 2026-05-03 --until 2026-05-04 --json
  mosaic federation audit --verb grant.revoke --history
  mosaic federation audit --follow --peer home.example

--follow waits for new events until Ctrl-C, also across restarts of the gateway, and shows each event exactly once.
--history also searches the files of events that the database no longer has; a file that cannot be read is named, and
the exit code is 1.
"""
SHOWN: Final = 50
SHOWN_FIRST: Final = 10
MOST: Final = 10_000


def audit(
    context: typer.Context,
    *,
    grant: Annotated[
        str,
        typer.Option("--grant", metavar="GRANT", help="Only events of this grant.", autocompletion=completion.grants),
    ] = "",
    peer: Annotated[
        str,
        typer.Option("--peer", metavar="NAME", help="Only events of this gateway.", autocompletion=completion.gateways),
    ] = "",
    verb: Annotated[
        str,
        typer.Option(
            "--verb",
            help="Only this verb: list, get, search, … or an act such as grant.revoke.",
            autocompletion=completion.verbs,
        ),
    ] = "",
    outcome: Annotated[
        str, typer.Option("--outcome", help="Only this outcome: ok, denied, …", autocompletion=completion.outcomes)
    ] = "",
    since: Annotated[
        str, typer.Option("--since", metavar="WHEN", help=f"Only events from this time on: {FORMS}.")
    ] = "",
    until: Annotated[str, typer.Option("--until", metavar="WHEN", help="Only events before this time.")] = "",
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            "--page-size",
            min=1,
            max=MOST,
            show_default=False,
            help=f"The most events; default: {SHOWN}. With --follow, the first events; default: {SHOWN_FIRST}.",
        ),
    ] = None,
    page_token: Annotated[
        str, typer.Option("--page-token", metavar="TOKEN", help="The token for the next page; needs the same filters.")
    ] = "",
    gateway: Gateway = UNSET_GATEWAY,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new events as they are written.")] = False,
    history: Annotated[bool, typer.Option("--history", help="Also search the files of older events.")] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object; with --follow one JSON object on a line for each event."),
    ] = False,
) -> None:
    """Print audit events."""
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.audit import tail

    for name, value in (("--until", until), ("--history", history), ("--page-token", page_token)):
        if follow and value:
            raise typer.BadParameter(f"{name} and --follow cannot be combined")
    request = pb.ListAuditEventsRequest(
        grant_id=grant, peer=peer, verb=verb, outcome=outcome, page_token=page_token, history=history
    )
    _set_instant(context, request.since, "since", since)
    _set_instant(context, request.until, "until", until)
    if since and until and request.since.ToNanoseconds() >= request.until.ToNanoseconds():
        raise typer.BadParameter("--since must be before --until")
    if follow:
        tail.follow(gateway, request, limit or SHOWN_FIRST, as_json=as_json)
    else:
        tail.page(gateway, request, limit or SHOWN, as_json=as_json)


def _set_instant(context: typer.Context, field: Any, name: str, text: str) -> None:
    if not text:
        return
    from datetime import UTC, datetime

    from mosaic_cli.output.times import parse_instant

    try:
        field.FromDatetime(parse_instant(text, datetime.now(UTC)))
    except ValueError as e:
        raise typer.BadParameter(str(e), context, param_hint=f"'--{name}'") from None
