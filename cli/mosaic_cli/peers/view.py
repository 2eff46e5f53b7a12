"""Peers for people: one as a whole, and what an act did to it."""

from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from federation.v1 import admin_pb2 as pb
from mosaic_cli.output import console as render
from mosaic_cli.output import shapes
from mosaic_cli.output.errors import duration
from mosaic_cli.output.models import CertificateWhole, Shape, ShownPeer
from mosaic_cli.output.times import moment

__all__ = ["cached", "certificate", "shape", "show", "table"]

Fact = tuple[str, render.Cell]
KIB = 1024


def show(peer: pb.PeerStatus) -> None:
    """Print everything that is known of a peer."""
    render.facts(
        (
            ("peer", peer.name),
            ("state", render.state_text(shapes.enum_word(peer, "state"))),
            ("user", peer.user),
            ("endpoint", peer.endpoint),
            ("grant", peer.grant_id),
            *_revocation(peer),
            *certificate(peer.certificate),
            *_renewal(peer),
            *_circuit(peer),
            ("watch", f"{peer.watch.state or 'off'}{_since(peer.watch)}"),
            ("cache", cached(peer)),
            *_calls(peer),
        )
    )


def certificate(message: pb.CertificateInfo) -> Iterator[Fact]:
    """Yield what there is to know of a certificate."""
    life = message.not_after.seconds - message.not_before.seconds
    yield "certificate", f"{message.serial}, for {duration(life)}" if message.serial else "cannot be read"
    yield "fingerprint", message.fingerprint or "-"
    yield "valid from", moment(message, "not_before")
    yield "ends", moment(message, "not_after")


def cached(peer: pb.PeerStatus) -> str:
    """Return what is kept of the peer's answers."""
    if not peer.HasField("cache"):
        return "off"
    kept = peer.cache
    size = f"{kept.bytes} B" if kept.bytes < KIB else f"{kept.bytes / KIB:.1f} KiB"
    answers = "1 answer" if kept.entries == 1 else f"{kept.entries} answers"
    return f"{answers}, {size}; {kept.hits} from memory, {kept.misses} asked there"


def shape(peer: pb.PeerStatus) -> Shape:
    """Return the JSON object of a peer for `peer show`, with its whole certificate."""
    now = Timestamp()
    now.GetCurrentTime()
    return shapes.peer(peer, now, ShownPeer, certificate=shapes.certificate(peer.certificate, now, CertificateWhole))


def table(peers: Iterable[pb.PeerStatus]) -> None:
    """Print one line a peer."""
    render.table(
        ("state", "peer", "user", "endpoint", "grant"),
        (
            (render.state_text(shapes.enum_word(peer, "state")), peer.name, peer.user, peer.endpoint, peer.grant_id)
            for peer in peers
        ),
        fold=("grant", "endpoint"),
    )


def _revocation(peer: pb.PeerStatus) -> Iterator[Fact]:
    if peer.HasField("revocation"):
        why = peer.revocation.reason or "no reason given"
        yield "revoked there", f"heard {moment(peer.revocation, 'at')}: {why}"


def _renewal(peer: pb.PeerStatus) -> Iterator[Fact]:
    if not peer.HasField("renewal"):
        yield "renewal", "off"
        return
    renewal = peer.renewal
    yield "renewal", moment(renewal, "next_at", "none to come")
    if renewal.HasField("last_failure"):
        times = "once" if renewal.consecutive_failures == 1 else f"{renewal.consecutive_failures} times in a row"
        yield "", f"failed {times}, {_failure(renewal.last_failure)}"


def _circuit(peer: pb.PeerStatus) -> Iterator[Fact]:
    if not peer.HasField("circuit"):
        yield "circuit", "off"
        return
    circuit = peer.circuit
    yield "circuit", render.state_text(shapes.enum_word(circuit, "state"))
    if circuit.consecutive_failures:
        yield "", f"{circuit.consecutive_failures} failures in a row"
    if circuit.HasField("opened_at"):
        yield (
            "",
            f"opened {moment(circuit, 'opened_at')}, tried again {moment(circuit, 'retry_at', 'by the next call')}",
        )


def _calls(peer: pb.PeerStatus) -> Iterator[Fact]:
    yield "last success", moment(peer, "last_success", "none since the gateway started")
    failed = _failure(peer.last_failure) if peer.HasField("last_failure") else "none since the gateway started"
    yield "last failure", failed
    if peer.HasField("seen_at"):
        yield "last heard of", moment(peer, "seen_at")
    if peer.HasField("latency"):
        yield "latency", f"{peer.latency.p50_ms:.1f} ms, 99 % below {peer.latency.p99_ms:.1f} ms"


def _failure(failure: pb.CallFailure) -> str:
    return f"{moment(failure, 'at')}: {failure.reason or failure.code}: {failure.message}"


def _since(message: Any) -> str:
    return f" since {moment(message, 'since')}" if message.HasField("since") else ""
