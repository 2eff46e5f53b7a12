"""`mosaic federation peer`: the gateways that this one may read. Added and looked at here; acted upon next door."""

from shlex import quote
from typing import Annotated

import typer

from cli import completion, peer_acts
from cli.choices import PEER_STATES, one_of, suggesting
from cli.completion import PeerName
from cli.options import GATEWAY_HERE, Gateway, GroupGateway, Json, read_argument
from cli.peer_acts import PeerUser

__all__ = ["app"]

app = typer.Typer(
    help="Read another gateway's data for one of your users.", no_args_is_help=True, rich_markup_mode=None
)
FAILED = 1
User = Annotated[
    str,
    typer.Option(
        "--user", "-u", metavar="USER", help="The user here who may read there.", autocompletion=completion.users
    ),
]
OfUser = Annotated[
    str, typer.Option("--user", "-u", metavar="USER", help="Only this user's.", autocompletion=completion.users)
]


@app.callback()
def _group(gateway: GroupGateway = GATEWAY_HERE) -> None:
    """Read another gateway's data for one of your users."""


@app.command("add")
def add(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="What `grant token` printed there, or - to read it.")],
    user: User,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Default: the other gateway's own name.")] = "",
    gateway: Gateway = GATEWAY_HERE,
    *,
    as_json: Json = False,
) -> None:
    """Enroll at another gateway with the token that its operator gave you.

    The key is made here and stays here. Compare the fingerprint with what the other operator sees.

    \b
    Examples:
      mosaic federation peer add --user ada mosaic1_...
      mosaic federation peer add --user ada - < token
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
        user, source = quote(peer.user), quote(f"federated:{peer.name}")
        render.say(f"next: mosaic federation query list tasks --user {user} --source {source}")


@app.command("list")
def list_peers(
    user: OfUser = "",
    state: Annotated[
        str,
        typer.Option(
            "--state",
            metavar="|".join(PEER_STATES),
            help="Only those that are so.",
            autocompletion=suggesting(PEER_STATES),
        ),
    ] = "",
    gateway: Gateway = GATEWAY_HERE,
    *,
    as_json: Json = False,
) -> None:
    """List the peers of all users, by name.

    \b
    Examples:
      mosaic federation peer list
      mosaic federation peer list --user ada --state offline --json
    """
    from cli import peer_view, render, shapes
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb

    request = pb.ListPeersRequest(page_size=500, user=user)
    if state:
        request.state = pb.PeerState.Value(f"PEER_STATE_{one_of(state, PEER_STATES, '--state').upper()}")
    peers: list[pb.PeerStatus] = []
    with connect(gateway) as admin:
        while True:
            reply = admin.ListPeers(request)
            peers += reply.peers
            request.page_token = reply.next_page_token
            if not reply.next_page_token:
                break
    if as_json:
        render.out(shapes.dump({"peers": [shapes.enrolled(peer) for peer in peers]}))
    elif peers:
        peer_view.table(peers)
    elif user or state:
        render.say("no peer is like that")
    else:
        render.say("no peers yet; add one with a token: mosaic federation peer add --help")


@app.command("show")
def show(
    peer: PeerName,
    user: PeerUser = None,
    gateway: Gateway = GATEWAY_HERE,
    *,
    live: Annotated[bool, typer.Option("--live", help="Also ask the peer what it opens, now.")] = False,
    as_json: Json = False,
) -> int:
    """Show everything of one peer: grant, certificate, renewals, circuit, watch, cache, and its last calls.

    Nothing is asked of the peer, unless --live is given; then exit code 1 tells that it did not answer.

    \b
    Examples:
      mosaic federation peer show work.example
      mosaic federation peer show work.example --user ada --live
      mosaic federation peer show work --json
    """
    from cli import asked_now, peer_view, render, shapes
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb

    told = None
    with connect(gateway) as admin:
        known = admin.GetPeer(pb.GetPeerRequest(name=peer, user=user or "")).peer
        if live:
            told = asked_now.ask(admin, known)
            known = admin.GetPeer(pb.GetPeerRequest(name=known.name, user=known.user)).peer
    if as_json:
        render.out(shapes.dump({"peer": peer_view.shape(known), "live": told.shape() if told else None}))
    else:
        peer_view.show(known)
        if told is not None:
            told.show()
    return FAILED if told is not None and told.opens is None else 0


app.command("rotate")(peer_acts.rotate)
app.command("reset")(peer_acts.reset)
app.command("remove")(peer_acts.remove)
