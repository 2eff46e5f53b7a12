"""`mosaic federation status`: show the state of each peer, and the grants served by this gateway."""

import shutil
import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mosaic_cli import completion
from mosaic_cli.options import UNSET_GATEWAY, Gateway, Json

if TYPE_CHECKING:
    from pathlib import Path

    from federation.v1 import admin_pb2 as pb

UNHEALTHY: Final = 3
PATIENCE_S: Final = 10.0
"""Time limit of the gateway's answer. A status of a thousand peers takes a fraction of it."""
LINK_S: Final = 2.0
HELP: Final = """Show the state of each peer, and the grants that this gateway serves.

A peer is healthy if it was seen since the gateway started and has not failed since. The exit code is 0 if no peer is
unhealthy (a peer not yet seen counts as neither), 3 if one is, and 4 if the gateway does not answer. `q` or Ctrl-C
quits --watch, with exit code 0.

With --explain PEER, tests the links to one peer instead (name, connection, encryption, own certificate, grant, verb).
Names the first broken link with its cause and cure, and exits with 3 if there is one. The gateway need not run. The
last two links are tested by two calls, which the peer counts and audits like any other read; no row is shown.

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
        str, completion.peer_option("--peer", help="Only the peer of this name, and grants for this gateway.")
    ] = "",
    user: Annotated[str, completion.user_option("--user", "-u", help="Only peers and grants of this local user.")] = "",
    explain: Annotated[
        str | None,
        completion.peer_option("--explain", help="Test the links to this peer, and name the first broken one."),
    ] = None,
    resource: Annotated[
        str,
        typer.Option(
            "--resource",
            metavar="RESOURCE",
            help="With --explain: the resource to list; default: the first open one.",
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
            help=f"With --explain: time limit of each link in seconds; default: {LINK_S:g}.",
        ),
    ] = None,
    gateway: Gateway = UNSET_GATEWAY,
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Update the status until q or Ctrl-C.")] = False,
    as_json: Json = False,
) -> int:
    """Print the status. Returns 3 if a peer is unhealthy."""
    if explain is not None:
        if watch or peer:
            raise typer.BadParameter("cannot be combined with --watch or --peer", param_hint="--explain")
        from mosaic_cli.status.explain import explain_peer

        limit_s = timeout or LINK_S
        return explain_peer(gateway, explain, user=user, resource=resource, timeout_s=limit_s, as_json=as_json)
    for option, value in (("--resource", resource), ("--timeout", timeout)):
        if value:
            raise typer.BadParameter("needs --explain", param_hint=option)
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
    """Return whether no peer is unhealthy. A peer that was not seen yet does not count as unhealthy."""
    from mosaic_cli.status.health import assess_health

    return all(assess_health(peer, reply.gateway).healthy is not False for peer in reply.peers)


def _show(reply: "pb.StatusResponse") -> None:
    from mosaic_cli.output.errors import clean
    from mosaic_cli.output.layout import WIDE, print_lines
    from mosaic_cli.status.page import page

    print_lines(page(reply, shutil.get_terminal_size((WIDE, 0)).columns))
    messages = [f"warning: {warning}" for warning in reply.warnings]
    if not reply.peers and not reply.grants:
        messages.append("no peers and no grants yet; create a grant: mosaic federation grant create --help")
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
