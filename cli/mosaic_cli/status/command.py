"""`mosaic federation status`: how each peer is, and who reads here."""

import shutil
import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mosaic_cli import completion
from mosaic_cli.options import UNSET_GATEWAY, Gateway, Json

if TYPE_CHECKING:
    from pathlib import Path

    from federation.v1 import admin_pb2 as pb

__all__ = ["HELP", "healthy", "status"]

UNHEALTHY: Final = 3
PATIENCE_S: Final = 10.0
"""A gateway that takes longer hangs; of a thousand peers it tells in a fraction of that."""
LINK_S: Final = 2.0
WIDE: Final = 110
"""Columns of a page that no terminal bounds."""
HELP: Final = """Show the state of each peer, and the grants served here.

A peer is healthy where it was seen since the gateway started and nothing speaks against it since. Ends with exit code
0 where no peer is unhealthy (one that was not seen yet is neither), with 3 where one is, and with 4 where the gateway
does not answer. `q` or Ctrl-C ends --watch, with 0.

With --explain PEER it walks the way to one peer instead (name, connection, encryption, own certificate, grant, verb),
names the first broken link with its cause and its cure, and ends with 3 where there is one. The gateway need not run.
The last two links are asked for by two calls, which the peer counts and audits like any other read; no row is shown.

\b
Examples:
  mosaic federation status
  mosaic federation status --peer work.example --json
  mosaic federation status --user ada --watch
  mosaic federation status --watch --json | jq -c .peers
  mosaic federation status --explain work.example --user ada --resource tasks
"""


def status(
    peer: Annotated[
        str,
        typer.Option(
            "--peer",
            metavar="PEER",
            help="Only what concerns this gateway, as peer or as reader.",
            autocompletion=completion.peers,
        ),
    ] = "",
    user: Annotated[
        str,
        typer.Option(
            "--user", "-u", metavar="USER", help="Only what concerns this local user.", autocompletion=completion.users
        ),
    ] = "",
    explain: Annotated[
        str | None,
        typer.Option(
            "--explain",
            metavar="PEER",
            help="Why this one cannot be read, link by link.",
            autocompletion=completion.peers,
        ),
    ] = None,
    resource: Annotated[
        str,
        typer.Option(
            "--resource",
            metavar="RESOURCE",
            help="With --explain: what to list; default: the first.",
            autocompletion=completion.resources,
        ),
    ] = "",
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="S",
            min=0.1,
            max=60,
            help=f"With --explain: seconds for each link; default: {LINK_S:g}.",
        ),
    ] = None,
    gateway: Gateway = UNSET_GATEWAY,
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it anew whenever it changes.")] = False,
    as_json: Json = False,
) -> int:
    """Print the status; return 3 where a peer is unhealthy."""
    if explain is not None:
        if watch or peer:
            raise typer.BadParameter("goes with neither --watch nor --peer", param_hint="--explain")
        from mosaic_cli.status.explain import explain_peer

        limit_s = timeout or LINK_S
        return explain_peer(gateway, explain, user=user, resource=resource, timeout_s=limit_s, as_json=as_json)
    for option, value in (("--resource", resource), ("--timeout", timeout)):
        if value:
            raise typer.BadParameter("goes with --explain only", param_hint=option)
    if watch:
        return _watch(gateway, peer, user, as_json=as_json)
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb

    with connect(gateway) as admin:
        reply = admin.Status(pb.StatusRequest(peer=peer, user=user), timeout=PATIENCE_S)
    if as_json:
        from mosaic_cli.output import shapes
        from mosaic_cli.status import shapes as status_shapes

        sys.stdout.write(f"{shapes.dump(status_shapes.status(reply))}\n")
    else:
        _show(reply)
    return 0 if healthy(reply) else UNHEALTHY


def healthy(reply: "pb.StatusResponse") -> bool:
    """Tell whether nothing unhealthy was seen; a peer that was not seen yet is no fault."""
    from mosaic_cli.status.health import assess_health

    return all(assess_health(peer, reply.gateway).healthy is not False for peer in reply.peers)


def _show(reply: "pb.StatusResponse") -> None:
    from mosaic_cli.output.errors import clean
    from mosaic_cli.output.layout import print_lines
    from mosaic_cli.status.page import page

    print_lines(page(reply, shutil.get_terminal_size((WIDE, 0)).columns))
    messages = [f"warning: {warning}" for warning in reply.warnings]
    if not reply.peers and not reply.grants:
        messages.append("neither peers nor grants yet: mosaic federation grant create --help")
    sys.stdout.flush()
    sys.stderr.write("".join(f"{clean(text)}\n" for text in messages))


def _watch(gateway: "Path", peer: str, user: str, *, as_json: bool) -> int:
    from federation.v1 import admin_pb2 as pb

    request = pb.WatchStatusRequest(peer=peer, user=user)
    if as_json:
        from mosaic_cli.status.stream import json_lines

        return json_lines(gateway, request)
    if not sys.stdout.isatty():
        raise typer.BadParameter("needs a terminal; with --json it prints one JSON object a line", param_hint="--watch")
    from mosaic_cli.status.live import watch

    return watch(gateway, request)
