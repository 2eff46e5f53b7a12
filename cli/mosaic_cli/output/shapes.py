"""JSON objects that several commands print, built from admin messages."""

from functools import partial
from typing import Any, Final

import orjson
from google.protobuf.timestamp_pb2 import Timestamp

from federation.v1 import admin_pb2 as pb
from mosaic_cli.output import models
from mosaic_cli.output.models import Shape, fill

DEEPEST: Final = 64

capabilities = partial(fill, models.Capabilities)
enrolled = partial(fill, models.EnrolledPeer)
receipt = partial(fill, models.Receipt)
audit_event = partial(fill, models.AuditEvent)


def dump(value: Shape) -> str:
    """Return a shape as indented JSON text."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def row(message: pb.QueryRow, *, search: bool = False) -> Shape:
    """Return a row with its tags."""
    return fill(
        models.Hit if search else models.Row,
        message.row,
        data=json_value(message.row.data),
        _source=message.source,
        _cached=message.cached,
        age_s=round(message.age_s, 3),
        score=message.score,
        snippet=message.snippet,
    )


def json_value(text: str) -> Any:
    """Return the value of JSON text, or the text itself if it is not valid JSON or nests deeper than `DEEPEST`."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:  # a peer may send anything
        return text
    # orjson reads deeper nesting than it can write.
    return value if text.count("{") + text.count("[") <= DEEPEST or _fits(value, DEEPEST) else text


def _fits(value: Any, levels: int) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not items or (levels > 0 and all(_fits(item, levels - 1) for item in items))


def certificate(
    message: pb.CertificateInfo, now: Timestamp, model: type[models.CertificateLife] = models.CertificateLife
) -> Shape:
    """Return a certificate with the seconds until it expires."""
    return fill(model, message, expires_in_s=message.not_after.seconds - now.seconds)


def revocation_result(message: pb.RevocationProgress | pb.RevocationReceipt) -> Shape:
    """Return a receipt. That of a revocation in progress has no `effective_at`."""
    if isinstance(message, pb.RevocationReceipt):
        return receipt(message)
    revoked = message.grant.HasField("revoked_at")
    return receipt(
        pb.RevocationReceipt(
            grant_id=message.grant.id,
            revoked_at=message.grant.revoked_at if revoked else None,
            reason=message.grant.revoked_reason,
            kind="revoked" if revoked else "narrowed",
            failed_in_flight=sum(one.failed_in_flight for one in message.awaited),
            instances=message.awaited,
        )
    )


def removal(message: pb.UserRemoval) -> Shape:
    """Return the result of removing a user, with the ids of the user's grants."""
    return fill(models.UserRemoval, message, grants=[grant.id for grant in message.grants])


def peer(message: pb.PeerStatus, now: Timestamp, model: type[models.Peer] = models.Peer, **overrides: Any) -> Shape:
    """Return a peer with all keys of its model; `overrides` overrides values."""
    latency = message.latency
    return fill(
        model,
        message,
        **{
            "certificate": certificate(message.certificate, now),
            "watch": fill(models.Watch, message.watch, state=message.watch.state or "off"),
            "latency_ms": fill(models.Latency, latency, p50=latency.p50_ms, p99=latency.p99_ms)
            if message.HasField("latency")
            else None,
            **overrides,
        },
    )
