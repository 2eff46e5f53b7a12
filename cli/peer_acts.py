"""`peer rotate`, `peer reset` and `peer remove`: what the operator does to one peer."""

from typing import Annotated

import typer

from cli import completion
from cli.completion import PeerName
from cli.options import GATEWAY_HERE, Gateway, Json

__all__ = ["PeerUser", "remove", "reset", "rotate"]


def _given(user: str | None) -> str | None:
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
        callback=_given,
        help="Whose peer; needed where several users have one so named.",
        autocompletion=completion.users,
    ),
]


def remove(peer: PeerName, user: PeerUser = None, gateway: Gateway = GATEWAY_HERE, *, as_json: Json = False) -> None:
    """Forget a peer: its key, its certificate, its channel and everything cached from it.

    Calls to it that are under way fail. Its grant remains at the other gateway until its operator revokes it there;
    reading there again takes a new grant or a new token.

    The beginning of a name stands for it where no other peer begins so; the whole name is told before it is removed.

    \b
    Examples:
      mosaic federation peer remove work.example --user ada
      mosaic federation peer remove work --json
    """
    from cli import peer_view, render, shapes
    from cli.naming import the_peer
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb

    with connect(gateway) as admin:
        known = the_peer(admin, peer, user)
        gone = admin.RemovePeer(pb.RemovePeerRequest(name=known.name, user=known.user)).peer
    there = f"mosaic federation grant revoke {gone.grant_id}"
    if as_json:
        render.out(shapes.dump({"removed": gone.name, "peer": shapes.enrolled(gone), "revoke_there": there}))
        return
    render.say(f"removed {gone.name}, enrolled for {gone.user}: its key and certificate are gone")
    render.say(f"lost with it: {peer_view.cached(gone)}, and what its circuit and counters knew")
    if gone.HasField("revocation"):
        render.say(f"its grant {gone.grant_id} was revoked there before")
    else:
        render.say(f"its grant still stands at the other gateway; its operator ends it with: {there}")


def rotate(peer: PeerName, user: PeerUser = None, gateway: Gateway = GATEWAY_HERE, *, as_json: Json = False) -> None:
    """Replace the certificate for a peer now, on a new key; calls under way go on.

    Certificates are renewed by themselves at two thirds of their life; this is for a key that may have been seen.

    \b
    Examples:
      mosaic federation peer rotate work.example
      mosaic federation peer rotate work.example --user ada --json
    """
    from cli import peer_view, render, shapes
    from cli.naming import the_peer
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb

    with connect(gateway) as admin:
        before = the_peer(admin, peer, user)
        after = admin.RotatePeer(pb.RotatePeerRequest(name=before.name, user=before.user)).peer
    if as_json:
        render.out(shapes.dump({"peer": shapes.enrolled(after)}))
        return
    render.facts((("peer", after.name), ("user", after.user), *peer_view.certificate(after.certificate)))
    render.say(
        f"{after.name} is read with a new key from now on; the certificate before was {before.certificate.serial}"
    )
    render.say("the old certificate is refused there in ten minutes, or sooner")


def reset(peer: PeerName, user: PeerUser = None, gateway: Gateway = GATEWAY_HERE, *, as_json: Json = False) -> None:
    """Close a peer's circuit by hand, so that the next call goes out at once.

    A circuit closes by itself once a probe succeeds; this is for whoever knows sooner that the peer is back.

    \b
    Examples:
      mosaic federation peer reset work.example
      mosaic federation peer reset work.example --user ada --json
    """
    from cli import render, shapes
    from cli.naming import the_peer
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb

    with connect(gateway) as admin:
        before = the_peer(admin, peer, user)
        after = admin.ResetCircuit(pb.ResetCircuitRequest(name=before.name, user=before.user)).peer
    if as_json:
        render.out(shapes.dump({"peer": shapes.enrolled(after)}))
        return
    was = shapes.enum_word(before.circuit, "state")
    words = "was closed already" if was == "closed" else f"was {was}, and is closed now: the next call goes out at once"
    render.say(f"the circuit of {after.name}, enrolled for {after.user}, {words}")
    render.say(f"{after.name} is {shapes.enum_word(after, 'state')}")
