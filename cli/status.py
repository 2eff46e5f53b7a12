"""`mosaic federation status`: how each peer is, and who reads here."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli.options import GATEWAY_HERE, Gateway, Json

if TYPE_CHECKING:
    from federation.v1 import admin_pb2 as pb

__all__ = ["HELP", "status"]

UNHEALTHY: Final = 3
HELP: Final = """Show the state of each peer, and the grants served here.

Ends with exit code 3 where a peer is not active, and with 4 where the gateway does not run.

With --explain PEER it walks the way to one peer instead (name, connection, encryption, own certificate, grant, verb),
names the first broken link with its cause and its cure, and ends with 3 where there is one. The gateway need not run.
The last two links are asked for by two calls, which the peer counts and audits like any other read; no row is shown.

\b
Examples:
  mosaic federation status
  mosaic federation status --peer work.example --json
  mosaic federation status --explain work.example --user ada --resource tasks
"""


def status(
    peer: Annotated[str, typer.Option("--peer", metavar="PEER", help="Only this one.")] = "",
    explain: Annotated[
        str, typer.Option("--explain", metavar="PEER", help="Why this one cannot be read, link by link.")
    ] = "",
    user: Annotated[str, typer.Option("--user", "-u", metavar="USER", help="With --explain: whose peer.")] = "",
    resource: Annotated[
        str, typer.Option("--resource", metavar="RESOURCE", help="With --explain: what to list; default: the first.")
    ] = "",
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", min=0.1, max=60, help="With --explain: seconds for each link.")
    ] = 2.0,
    gateway: Gateway = GATEWAY_HERE,
    *,
    as_json: Json = False,
) -> int:
    """Print the status; return 3 where a peer is not active."""
    if explain:
        from cli import explain as link_by_link

        return link_by_link.explain(gateway, explain, user=user, resource=resource, timeout_s=timeout, as_json=as_json)
    from cli import render, shapes
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb

    with connect(gateway) as admin:
        reply = admin.Status(pb.StatusRequest(peer=peer))
    if as_json:
        render.out(shapes.dump(shapes.status(reply)))
    else:
        _show(reply)
    healthy = all(one.state == pb.PEER_STATE_ACTIVE for one in reply.peers)
    return 0 if healthy else UNHEALTHY


def _show(reply: "pb.StatusResponse") -> None:
    from cli import render, shapes

    gateway = reply.gateway
    started = render.when(gateway, "started_at")
    render.facts(
        (("gateway", f"{gateway.name} {gateway.version}, started {started}"), ("listens", gateway.federation_address))
    )
    if reply.peers:
        render.out("")
        _show_peers(reply)
    if reply.grants:
        render.out("")
        render.table(
            ("grant", "id", "peer", "subject", "last used"),
            (
                (
                    render.state_text(shapes.enum_word(grant, "status")),
                    grant.id,
                    grant.peer,
                    grant.subject,
                    render.when(grant, "last_used_at", "never"),
                )
                for grant in reply.grants
            ),
            fold=("id",),
        )
    for warning in reply.warnings:
        render.say(f"warning: {warning}")
    if not reply.peers and not reply.grants:
        render.say("neither peers nor grants yet: mosaic federation grant create --help")


def _show_peers(reply: "pb.StatusResponse") -> None:
    from cli import render, shapes
    from cli.words import clean

    render.table(
        ("peer", "name", "user", "circuit", "watch", "cert ends", "success", "hits", "p50"),
        (
            (
                render.state_text(shapes.enum_word(peer, "state")),
                peer.name,
                peer.user,
                shapes.enum_word(peer.circuit, "state") if peer.HasField("circuit") else "-",
                peer.watch.state or "off",
                render.when(peer.certificate, "not_after"),
                render.when(peer, "last_success", "none yet"),
                f"{peer.cache.hits}/{peer.cache.hits + peer.cache.misses}" if peer.HasField("cache") else "-",
                f"{peer.latency.p50_ms:.1f} ms" if peer.HasField("latency") else "-",
            )
            for peer in reply.peers
        ),
        fold=("name",),
    )
    for peer in reply.peers:
        if peer.HasField("revocation"):
            at, why = render.when(peer.revocation, "at"), peer.revocation.reason or "no reason given"
            render.out(clean(f"  {peer.name} ({peer.user}): it revoked the grant {at}: {why}"))
            continue
        if peer.HasField("last_failure"):
            failure = peer.last_failure
            word = failure.reason or failure.code
            at = render.when(peer.last_failure, "at")
            render.out(clean(f"  {peer.name} ({peer.user}): {word} {at}: {failure.message}"))
        if peer.renewal.HasField("last_failure"):
            failure, tries = peer.renewal.last_failure, peer.renewal.consecutive_failures
            again = (
                f"tried again {render.when(peer.renewal, 'next_at')}" if peer.renewal.HasField("next_at") else "over"
            )
            render.out(
                clean(f"  {peer.name} ({peer.user}): renewal failed {tries} times in a row, {again}: {failure.message}")
            )
