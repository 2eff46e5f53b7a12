"""`mosaic federation peer`: the gateways that this one may read."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import GATEWAY_HERE, Gateway, GroupGateway, Json, read_argument

if TYPE_CHECKING:
    from federation.v1 import admin_pb2 as pb

__all__ = ["app"]

app = typer.Typer(
    help="Read another gateway's data for one of your users.", no_args_is_help=True, rich_markup_mode=None
)
PeerName = Annotated[str, typer.Argument(metavar="PEER", help="The peer's name, as `peer list` shows it.")]
PeerUser = Annotated[
    str, typer.Option("--user", "-u", metavar="USER", help="Whose peer; needed where several users have one so named.")
]


@app.callback()
def _group(gateway: GroupGateway = GATEWAY_HERE) -> None:
    """Read another gateway's data for one of your users."""


@app.command("add")
def add(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="What `grant token` printed there, or - to read it.")],
    user: Annotated[str, typer.Option("--user", "-u", metavar="USER", help="The user here who may read there.")],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Default: the other gateway's own name.")] = "",
    gateway: Gateway = GATEWAY_HERE,
    *,
    as_json: Json = False,
) -> None:
    """Enroll at another gateway with the token that its operator gave you.

    \b
    Examples:
      mosaic federation peer add --user ada mosaic1...
      cat token | mosaic federation peer add --user ada -
    """
    from cli import render, shapes
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb

    secret = (read_argument(token, "token") if token == "-" else token).strip()  # noqa: S105 - the sign for stdin
    with connect(gateway) as admin:
        reply = admin.AddPeer(pb.AddPeerRequest(token=secret, user=user, name=name))
    peer = reply.peer
    if as_json:
        shape = shapes.enrolled(peer)
        render.out(shapes.dump({"peer": shape, "awaiting_confirmation": reply.awaiting_confirmation}))
        return
    render.facts(
        (
            ("peer", peer.name),
            ("user", peer.user),
            ("endpoint", peer.endpoint),
            ("grant", peer.grant_id),
            ("certificate ends", render.when(peer.certificate, "not_after")),
            ("fingerprint", peer.certificate.fingerprint),
        )
    )
    if reply.awaiting_confirmation:
        render.say("the grant is closed until the other operator confirms this fingerprint; read it to them")
    else:
        render.say(f"next: mosaic federation query list tasks --user {peer.user} --source federated:{peer.name}")


@app.command("list")
def list_peers(gateway: Gateway = GATEWAY_HERE, *, as_json: Json = False) -> None:
    """List the peers of all users.

    \b
    Example:
      mosaic federation peer list
    """
    from cli import render, shapes
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb

    peers: list[pb.PeerStatus] = []
    with connect(gateway) as admin:
        token = ""
        while True:
            reply = admin.ListPeers(pb.ListPeersRequest(page_size=500, page_token=token))
            peers += reply.peers
            token = reply.next_page_token
            if not token:
                break
    if as_json:
        render.out(shapes.dump({"peers": [shapes.enrolled(peer) for peer in peers]}))
        return
    if not peers:
        render.say("no peers yet; add one with a token: mosaic federation peer add --help")
        return
    render.table(
        ("state", "peer", "user", "endpoint", "grant"),
        (
            (
                render.state_text(shapes.enum_word(peer, "state")),
                peer.name,
                peer.user,
                peer.endpoint,
                peer.grant_id,
            )
            for peer in peers
        ),
        fold=("grant", "endpoint"),
    )


@app.command("remove")
def remove(peer: PeerName, user: PeerUser = "", gateway: Gateway = GATEWAY_HERE, *, as_json: Json = False) -> None:
    """Forget a peer: its key, its certificate, its channel and everything cached from it.

    \b
    Example:
      mosaic federation peer remove work.example --user ada
    """
    from cli import render, shapes
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb

    with connect(gateway) as admin:
        admin.RemovePeer(pb.RemovePeerRequest(name=peer, user=user))
    if as_json:
        render.out(shapes.dump({"removed": peer}))
    else:
        render.say(f"removed {peer}; its grant still stands at the other gateway, until revoked there")


@app.command("rotate")
def rotate(peer: PeerName, user: PeerUser = "", gateway: Gateway = GATEWAY_HERE, *, as_json: Json = False) -> None:
    """Replace the certificate for a peer now, on a new key; calls under way go on.

    Certificates are renewed by themselves at two thirds of their life; this is for a key that may have been seen.

    \b
    Example:
      mosaic federation peer rotate work.example --user ada
    """
    from cli import render, shapes
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb

    with connect(gateway) as admin:
        reply = admin.RotatePeer(pb.RotatePeerRequest(name=peer, user=user))
    if as_json:
        render.out(shapes.dump({"peer": shapes.enrolled(reply.peer)}))
        return
    certificate = reply.peer.certificate
    render.facts(
        (
            ("peer", reply.peer.name),
            ("certificate ends", render.when(certificate, "not_after")),
            ("fingerprint", certificate.fingerprint),
        )
    )
    render.say("the old certificate is refused there in ten minutes, or sooner")


@app.command("reset")
def reset(peer: PeerName, user: PeerUser = "", gateway: Gateway = GATEWAY_HERE, *, as_json: Json = False) -> None:
    """Close a peer's circuit by hand, so that the next call goes out at once.

    \b
    Example:
      mosaic federation peer reset work.example
    """
    from cli import render, shapes
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb

    with connect(gateway) as admin:
        reply = admin.ResetCircuit(pb.ResetCircuitRequest(name=peer, user=user))
    if as_json:
        render.out(shapes.dump({"peer": shapes.enrolled(reply.peer)}))
    else:
        _say_state(reply.peer)


def _say_state(peer: "pb.PeerStatus") -> None:
    from cli import render, shapes

    render.say(f"{peer.name} is {shapes.enum_word(peer, 'state')}")
