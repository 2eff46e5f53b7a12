"""`mosaic federation peer`: add, list, show, rotate, reset and remove peers."""

from shlex import quote
from typing import Annotated

import typer

from mosaic_cli import completion
from mosaic_cli.completion import PeerName
from mosaic_cli.options import (
    PEER_STATES,
    UNSET_GATEWAY,
    Gateway,
    Json,
    command_group,
    complete_from,
    parse_choice,
    read_argument,
)


def _reject_empty(user: str | None) -> str | None:
    """Reject an empty name, as from an unset shell variable: it would match a peer of any user."""
    if user == "":
        raise typer.BadParameter("is empty; name a user, or omit the option")
    return user


PeerUser = Annotated[
    str | None,
    typer.Option(
        "--user",
        "-u",
        metavar="USER",
        callback=_reject_empty,
        help="The peer's user; required if several users have a peer of this name.",
        autocompletion=completion.users,
    ),
]


def remove(peer: PeerName, user: PeerUser = None, gateway: Gateway = UNSET_GATEWAY, *, as_json: Json = False) -> None:
    """Remove a peer: its key, certificate, connection and cached answers.

    Calls in flight fail. The grant remains valid until the peer's operator revokes it. Reading from the peer again
    requires a new token or a new grant.

    A unique prefix of the name names the peer; the full name is printed before the peer is removed.

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
    revoke_there = f"mosaic federation grant revoke {removed.grant_id}"
    if as_json:
        console.write(
            shapes.dump({"removed": removed.name, "peer": shapes.enrolled(removed), "revoke_there": revoke_there})
        )
        return
    console.message(f"removed {removed.name}, enrolled for {removed.user}: its key and certificate are deleted")
    console.message(f"also discarded: its cache ({view.cached(removed)}), circuit and counters")
    if removed.HasField("revocation"):
        console.message(f"its grant {removed.grant_id} had already been revoked by the peer")
    else:
        console.message(f"its grant is still valid; the peer's operator revokes it with: {revoke_there}")


def rotate(peer: PeerName, user: PeerUser = None, gateway: Gateway = UNSET_GATEWAY, *, as_json: Json = False) -> None:
    """Replace this gateway's certificate for a peer now, with a new key. Calls in flight continue.

    Certificates are renewed automatically at two thirds of their life. Use this command if a key may be compromised.

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
        f"calls to {after.name} now use a new key; the previous certificate was {before.certificate.serial}"
    )
    console.message("the peer refuses the previous certificate in ten minutes or sooner")


def reset(peer: PeerName, user: PeerUser = None, gateway: Gateway = UNSET_GATEWAY, *, as_json: Json = False) -> None:
    """Close a peer's circuit, so that the next call is sent at once.

    A circuit closes automatically after a successful probe. Use this command if the peer is known to be reachable.

    \b
    Examples:
      mosaic federation peer reset work.example
      mosaic federation peer reset work.example --user ada --json
    """
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.lookup import resolve_peer
    from mosaic_cli.output import console, models, shapes

    with connect(gateway) as admin:
        before = resolve_peer(admin, peer, user)
        after = admin.ResetCircuit(pb.ResetCircuitRequest(name=before.name, user=before.user)).peer
    if as_json:
        console.write(shapes.dump({"peer": shapes.enrolled(after)}))
        return
    state = models.enum_name(before.circuit, "state")
    change = (
        "was already closed" if state == "closed" else f"was {state} and is now closed: the next call is sent at once"
    )
    console.message(f"the circuit of {after.name}, enrolled for {after.user}, {change}")
    console.message(f"{after.name} is {models.enum_name(after, 'state')}")


app = command_group("Read another gateway's data as one of this gateway's users.")
FAILED = 1
User = Annotated[
    str,
    typer.Option(
        "--user", "-u", metavar="USER", help="The local user who reads from the peer.", autocompletion=completion.users
    ),
]
OfUser = Annotated[
    str, typer.Option("--user", "-u", metavar="USER", help="Only peers of this user.", autocompletion=completion.users)
]


@app.command("add")
def add(
    token: Annotated[
        str, typer.Argument(metavar="TOKEN", help="The output of `grant token`, or - for standard input.")
    ],
    user: User,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="A local name; default: the peer's own name.")
    ] = "",
    gateway: Gateway = UNSET_GATEWAY,
    *,
    as_json: Json = False,
) -> None:
    """Enroll at another gateway with a token from its operator.

    The private key is generated here and never leaves this gateway. Compare the fingerprint with the peer's operator.

    \b
    Examples:
      mosaic federation peer add --user ada mosaic1_...
      mosaic federation peer add --user ada - < token
    """
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.output import console, shapes
    from mosaic_cli.output.times import when

    secret = (read_argument(token, "token") if token == "-" else token).strip()  # noqa: S105 - standard input
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
        console.message("the grant is pending until the peer's operator confirms this fingerprint; read it to them")
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
            help="Only peers in this state.",
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
        console.message("no peer matches these filters")
    else:
        console.message("no peers yet; add one with a token: mosaic federation peer add --help")


@app.command("show")
def show(
    peer: PeerName,
    user: PeerUser = None,
    gateway: Gateway = UNSET_GATEWAY,
    *,
    live: Annotated[bool, typer.Option("--live", help="Also query the peer's capabilities now.")] = False,
    as_json: Json = False,
) -> int:
    """Show one peer: grant, certificate, renewals, circuit, watch, cache, and its last calls.

    The peer is not called, except with --live; the exit code is 1 if it does not answer then.

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
