"""`peer rotate`, `peer reset` and `peer remove`: what the operator does to one peer."""

from shlex import quote
from typing import Annotated

import typer

from mosaic_cli import completion
from mosaic_cli.completion import PeerName
from mosaic_cli.options import (
    PEER_STATES,
    UNSET_GATEWAY,
    Gateway,
    GroupGateway,
    Json,
    complete_from,
    parse_choice,
    read_argument,
)

__all__ = ["PeerUser", "app", "remove", "reset", "rotate"]


def _reject_empty(user: str | None) -> str | None:
    """Refuse a name that is empty, as a variable without a value is: it would stand for whoever has such a peer."""
    if user == "":
        raise typer.BadParameter("is empty; name a user, or leave the option out")
    return user


PeerUser = Annotated[
    str | None,
    typer.Option(
        "--user",
        "-u",
        metavar="USER",
        callback=_reject_empty,
        help="Whose peer; needed where several users have one so named.",
        autocompletion=completion.users,
    ),
]


def remove(peer: PeerName, user: PeerUser = None, gateway: Gateway = UNSET_GATEWAY, *, as_json: Json = False) -> None:
    """Forget a peer: its key, its certificate, its channel and everything cached from it.

    Calls to it that are under way fail. Its grant remains at the other gateway until its operator revokes it there;
    reading there again takes a new grant or a new token.

    The beginning of a name stands for it where no other peer begins so; the whole name is told before it is removed.

    \b
    Examples:
      mosaic federation peer remove work.example --user ada
      mosaic federation peer remove work --json
    """
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.lookup import resolve_peer
    from mosaic_cli.output import console, shapes
    from mosaic_cli.peers import view

    with connect(gateway) as admin:
        known = resolve_peer(admin, peer, user)
        removed = admin.RemovePeer(pb.RemovePeerRequest(name=known.name, user=known.user)).peer
    there = f"mosaic federation grant revoke {removed.grant_id}"
    if as_json:
        console.write(shapes.dump({"removed": removed.name, "peer": shapes.enrolled(removed), "revoke_there": there}))
        return
    console.message(f"removed {removed.name}, enrolled for {removed.user}: its key and certificate are gone")
    console.message(f"lost with it: {view.cached(removed)}, and what its circuit and counters knew")
    if removed.HasField("revocation"):
        console.message(f"its grant {removed.grant_id} was revoked there before")
    else:
        console.message(f"its grant still stands at the other gateway; its operator ends it with: {there}")


def rotate(peer: PeerName, user: PeerUser = None, gateway: Gateway = UNSET_GATEWAY, *, as_json: Json = False) -> None:
    """Replace the certificate for a peer now, on a new key; calls under way go on.

    Certificates are renewed by themselves at two thirds of their life; this is for a key that may have been seen.

    \b
    Examples:
      mosaic federation peer rotate work.example
      mosaic federation peer rotate work.example --user ada --json
    """
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.lookup import resolve_peer
    from mosaic_cli.output import console, shapes
    from mosaic_cli.peers import view

    with connect(gateway) as admin:
        before = resolve_peer(admin, peer, user)
        after = admin.RotatePeer(pb.RotatePeerRequest(name=before.name, user=before.user)).peer
    if as_json:
        console.write(shapes.dump({"peer": shapes.enrolled(after)}))
        return
    console.facts((("peer", after.name), ("user", after.user), *view.certificate(after.certificate)))
    console.message(
        f"{after.name} is read with a new key from now on; the certificate before was {before.certificate.serial}"
    )
    console.message("the old certificate is refused there in ten minutes, or sooner")


def reset(peer: PeerName, user: PeerUser = None, gateway: Gateway = UNSET_GATEWAY, *, as_json: Json = False) -> None:
    """Close a peer's circuit by hand, so that the next call goes out at once.

    A circuit closes by itself once a probe succeeds; this is for whoever knows sooner that the peer is back.

    \b
    Examples:
      mosaic federation peer reset work.example
      mosaic federation peer reset work.example --user ada --json
    """
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.lookup import resolve_peer
    from mosaic_cli.output import console, shapes

    with connect(gateway) as admin:
        before = resolve_peer(admin, peer, user)
        after = admin.ResetCircuit(pb.ResetCircuitRequest(name=before.name, user=before.user)).peer
    if as_json:
        console.write(shapes.dump({"peer": shapes.enrolled(after)}))
        return
    state = shapes.enum_name(before.circuit, "state")
    change = (
        "was closed already" if state == "closed" else f"was {state}, and is closed now: the next call goes out at once"
    )
    console.message(f"the circuit of {after.name}, enrolled for {after.user}, {change}")
    console.message(f"{after.name} is {shapes.enum_name(after, 'state')}")


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
def _group(gateway: GroupGateway = UNSET_GATEWAY) -> None:
    """Read another gateway's data for one of your users."""


@app.command("add")
def add(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="What `grant token` printed there, or - to read it.")],
    user: User,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Default: the other gateway's own name.")] = "",
    gateway: Gateway = UNSET_GATEWAY,
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
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.output import console, shapes
    from mosaic_cli.output.times import when

    secret = (read_argument(token, "token") if token == "-" else token).strip()  # noqa: S105 - the sign for stdin
    with connect(gateway) as admin:
        reply = admin.AddPeer(pb.AddPeerRequest(token=secret, user=user, name=name))
    peer = reply.peer
    if as_json:
        shape = shapes.enrolled(peer)
        console.write(shapes.dump({"peer": shape, "awaiting_confirmation": reply.awaiting_confirmation}))
        return
    console.facts(
        (
            ("peer", peer.name),
            ("user", peer.user),
            ("endpoint", peer.endpoint),
            ("grant", peer.grant_id),
            ("certificate ends", when(peer.certificate, "not_after")),
            ("fingerprint", peer.certificate.fingerprint),
        )
    )
    if reply.awaiting_confirmation:
        console.message("the grant is closed until the other operator confirms this fingerprint; read it to them")
    else:
        user, source = quote(peer.user), quote(f"federated:{peer.name}")
        console.message(f"next: mosaic federation query list tasks --user {user} --source {source}")


@app.command("list")
def list_peers(
    user: OfUser = "",
    state: Annotated[
        str,
        typer.Option(
            "--state",
            metavar="|".join(PEER_STATES),
            help="Only those that are so.",
            autocompletion=complete_from(PEER_STATES),
        ),
    ] = "",
    gateway: Gateway = UNSET_GATEWAY,
    *,
    as_json: Json = False,
) -> None:
    """List the peers of all users, by name.

    \b
    Examples:
      mosaic federation peer list
      mosaic federation peer list --user ada --state offline --json
    """
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.output import console, shapes
    from mosaic_cli.peers import view

    request = pb.ListPeersRequest(page_size=500, user=user)
    if state:
        request.state = pb.PeerState.Value(f"PEER_STATE_{parse_choice(state, PEER_STATES, '--state').upper()}")
    peers: list[pb.PeerStatus] = []
    with connect(gateway) as admin:
        while True:
            reply = admin.ListPeers(request)
            peers += reply.peers
            request.page_token = reply.next_page_token
            if not reply.next_page_token:
                break
    if as_json:
        console.write(shapes.dump({"peers": [shapes.enrolled(peer) for peer in peers]}))
    elif peers:
        view.table(peers)
    elif user or state:
        console.message("no peer is like that")
    else:
        console.message("no peers yet; add one with a token: mosaic federation peer add --help")


@app.command("show")
def show(
    peer: PeerName,
    user: PeerUser = None,
    gateway: Gateway = UNSET_GATEWAY,
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
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.output import console, shapes
    from mosaic_cli.peers import view
    from mosaic_cli.query import live_probe

    answer = None
    with connect(gateway) as admin:
        known = admin.GetPeer(pb.GetPeerRequest(name=peer, user=user or "")).peer
        if live:
            answer = live_probe.probe(admin, known)
            known = admin.GetPeer(pb.GetPeerRequest(name=known.name, user=known.user)).peer
    if as_json:
        console.write(shapes.dump({"peer": view.shape(known), "live": answer.shape() if answer else None}))
    else:
        view.show(known)
        if answer is not None:
            answer.show()
    return FAILED if answer is not None and answer.capabilities is None else 0


app.command("rotate")(rotate)
app.command("reset")(reset)
app.command("remove")(remove)
