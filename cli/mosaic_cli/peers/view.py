"""Tables of peers: all facts of one peer, or one line for each peer."""

import time
from collections.abc import Iterable, Iterator
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from federation.v1 import admin_pb2 as pb
from mosaic_cli.output import console, models, shapes
from mosaic_cli.output.layout import plural
from mosaic_cli.output.models import CertificateWhole, Shape, ShownPeer
from mosaic_cli.output.times import dated
from mosaic_cli.status.peers import facts

KIB = 1024
SHARED: Final = {"renewal": ""} | {
    name: name for name in ("circuit", "watch", "cache", "latency", "last success", "last failure")
}
"""Facts of `status`, by their names in `peer show`. A failed renewal continues the line before it."""


def show(peer: pb.PeerStatus) -> None:
    """Print all facts of a peer."""
    status_facts = facts(peer, time.time())
    console.facts(
        (
            ("peer", peer.name),
            ("state", console.state_text(models.enum_name(peer, "state"))),
            ("user", peer.user),
            ("endpoint", peer.endpoint),
            ("grant", peer.grant_id),
            *_revocation(peer),
            *console.certificate_facts(peer.certificate),
            ("renewal", dated(peer.renewal, "next_at", "not planned")),
            *((name, status_facts[key]) for key, name in SHARED.items() if key in status_facts),
            ("last seen", dated(peer, "seen_at", "not since the gateway started")),
        )
    )


def cached(peer: pb.PeerStatus) -> str:
    """Return the size and use of the peer's cache."""
    if not peer.HasField("cache"):
        return "off"
    cache = peer.cache
    size = f"{cache.bytes} B" if cache.bytes < KIB else f"{cache.bytes / KIB:.1f} KiB"
    return f"{plural(cache.entries, 'answer')}, {size}; {cache.hits} hits, {cache.misses} misses"


def shape(peer: pb.PeerStatus) -> Shape:
    """Return the JSON object of `peer show`, with the full certificate."""
    now = Timestamp()
    now.GetCurrentTime()
    return shapes.peer(peer, now, ShownPeer, certificate=shapes.certificate(peer.certificate, now, CertificateWhole))


def table(peers: Iterable[pb.PeerStatus]) -> None:
    """Print a table with one line for each peer."""
    console.table(
        ("state", "peer", "user", "endpoint", "grant"),
        (
            (console.state_text(models.enum_name(peer, "state")), peer.name, peer.user, peer.endpoint, peer.grant_id)
            for peer in peers
        ),
        fold=("grant", "endpoint"),
    )


def _revocation(peer: pb.PeerStatus) -> Iterator[console.Fact]:
    if peer.HasField("revocation"):
        why = peer.revocation.reason or "no reason given"
        yield "revoked", f"received {dated(peer.revocation, 'at')}: {why}"
