"""`mosaic federation grant`: create, list and show the grants of this gateway."""

import re
from typing import Annotated, Final

import typer

from mosaic_cli import completion
from mosaic_cli.completion import GrantId
from mosaic_cli.grants import enroll, revoke
from mosaic_cli.options import (
    GRANT_STATUSES,
    UNSET_GATEWAY,
    Gateway,
    Json,
    command_group,
    complete_from,
    parse_choice,
    read_argument,
)

app = command_group("Let another gateway read this gateway's data within a scope.")
UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
PAGE: Final = 100
LARGEST_PAGE: Final = 1_000
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only check the scope, and show what it would open.")]


@app.command("create")
def create(
    peer: Annotated[
        str,
        typer.Option("--peer", metavar="NAME", help="The gateway that may enroll.", autocompletion=completion.gateways),
    ],
    subject: Annotated[
        str,
        typer.Option(
            "--subject",
            metavar="USER",
            help="The local user in whose name the peer reads.",
            autocompletion=completion.users,
        ),
    ],
    scope: Annotated[str, typer.Option("--scope", metavar="FILE", help="A file, - for standard input, or the JSON.")],
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="TIME", help="Such as 90d, 12h; default: never.")
    ] = None,
    gateway: Gateway = UNSET_GATEWAY,
    *,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Create a grant. It opens nothing until its peer has enrolled with a token.

    Shows the scope in sentences, and how many rows it would open now. Warns about a team that does not exist or has
    no rows, and about a resource that holds secrets.

    \b
    Examples:
      mosaic federation grant create --peer home.example --subject ada --scope scope.json --dry-run
      mosaic federation grant create --peer home.example --subject ada --scope scope.json
      mosaic federation grant create --peer home.example --subject ada --expires 90d \\
          --scope '{"resources": ["tasks"]}'
    """
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.grants import shapes as grant_shapes
    from mosaic_cli.grants import view
    from mosaic_cli.output import console, shapes

    request = pb.CreateGrantRequest(
        peer=peer,
        subject=subject,
        scope=read_argument(scope, "scope"),
        expires_in_s=_seconds(expires),
        validate_only=dry_run,
    )
    with connect(gateway) as admin:
        reply = admin.CreateGrant(request)
    for warning in reply.warnings:
        console.message(f"warning: {warning}")
    if as_json:
        shape = {
            "grant": grant_shapes.grant(reply.grant),
            "warnings": list(reply.warnings),
            "opens": grant_shapes.opens(reply.opens),
            "created": not dry_run,
        }
        console.write(shapes.dump(shape))
        return
    view.show(reply.grant)
    view.show_opens(reply.grant, reply.opens)
    if dry_run:
        console.message("nothing was created (--dry-run)")
    else:
        console.message(f"next: mosaic federation grant token {reply.grant.id}")


@app.command("list")
def list_grants(
    peer: Annotated[
        str,
        typer.Option(
            "--peer", metavar="NAME", help="Only grants for this gateway.", autocompletion=completion.gateways
        ),
    ] = "",
    subject: Annotated[
        str,
        typer.Option(
            "--subject", metavar="USER", help="Only grants in the name of this user.", autocompletion=completion.users
        ),
    ] = "",
    status: Annotated[
        str,
        typer.Option(
            "--status",
            metavar="|".join(GRANT_STATUSES),
            help="Only grants in this state.",
            autocompletion=complete_from(GRANT_STATUSES),
        ),
    ] = "",
    page_size: Annotated[
        int, typer.Option("--page-size", min=1, max=LARGEST_PAGE, help="The most grants to list.")
    ] = PAGE,
    page_token: Annotated[
        str, typer.Option("--page-token", metavar="TOKEN", help="The token for the next page, from an earlier list.")
    ] = "",
    gateway: Gateway = UNSET_GATEWAY,
    *,
    everything: Annotated[bool, typer.Option("--all", help="List all grants.")] = False,
    as_json: Json = False,
) -> None:
    """List the grants, newest first.

    \b
    Examples:
      mosaic federation grant list
      mosaic federation grant list --peer home.example --status active
      mosaic federation grant list --subject ada --all --json
    """
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.grants import shapes as grant_shapes
    from mosaic_cli.grants import view
    from mosaic_cli.output import console, shapes

    request = pb.ListGrantsRequest(
        page_size=LARGEST_PAGE if everything else page_size, page_token=page_token, peer=peer, subject=subject
    )
    if status:
        request.status = pb.GrantStatus.Value(
            f"GRANT_STATUS_{parse_choice(status, GRANT_STATUSES, '--status').upper()}"
        )
    with connect(gateway) as admin:
        reply = admin.ListGrants(request)
        grants = list(reply.grants)
        while everything and reply.next_page_token:
            request.page_token = reply.next_page_token
            reply = admin.ListGrants(request)
            grants += reply.grants
    if as_json:
        shown = [grant_shapes.grant(grant) for grant in grants]
        console.write(shapes.dump({"grants": shown, "next_page_token": reply.next_page_token or None}))
        return
    if grants:
        view.table(grants)
    elif page_token:
        console.message("no more grants")
    elif peer or subject or status:
        console.message("no grant matches these filters")
    else:
        console.message("no grants yet; create one: mosaic federation grant create --help")
    if reply.next_page_token:
        console.message(f"more grants: --all, or --page-token {reply.next_page_token}")


@app.command("show")
def show(grant: GrantId, gateway: Gateway = UNSET_GATEWAY, *, as_json: Json = False) -> None:
    """Show one grant: its scope in sentences, the rows that it opens now, its use, and its receipts.

    A unique prefix of the id, of four characters or more, names the grant.

    \b
    Examples:
      mosaic federation grant show 6f1c2f0e-0d5c-4b8e-9f43-8c1d6c0f1a2b
      mosaic federation grant show 6f1c --json
    """
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.grants import shapes as grant_shapes
    from mosaic_cli.grants import view
    from mosaic_cli.output import console, shapes

    with connect(gateway) as admin:
        reply = admin.GetGrant(pb.GetGrantRequest(id=grant, preview=True))
    if as_json:
        shape = {
            "grant": grant_shapes.grant(reply.grant),
            "opens": grant_shapes.opens(reply.opens),
            "receipts": [shapes.receipt(receipt) for receipt in reply.receipts],
        }
        console.write(shapes.dump(shape))
        return
    view.show(reply.grant)
    view.show_opens(reply.grant, reply.opens)
    view.show_receipts(reply.receipts)


app.command("token")(enroll.token)
app.command("confirm")(enroll.confirm)
app.command("scope")(revoke.scope)
app.command("revoke")(revoke.revoke)


def _seconds(text: str | None) -> int:
    if text is None:
        return 0
    match = re.fullmatch(r"([1-9][0-9]{0,8})([smhdw])", text)
    if not match:
        raise typer.BadParameter(f"{text!r} is not a duration; use one such as 90d, 12h or 30m", param_hint="--expires")
    return int(match[1]) * UNITS[match[2]]
