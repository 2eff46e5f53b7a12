"""The JSON objects of `status`."""

from datetime import datetime

from federation.v1 import admin_pb2 as pb
from mosaic_cli.output.models import ExplainedFailure, Gateway, ServedGrant, Serving, Shape, StatusPeer, fill, instant
from mosaic_cli.output.shapes import certificate, peer
from mosaic_cli.status.health import assess_health, meaning


def status(message: pb.StatusResponse) -> Shape:
    """Return the whole status."""
    gateway, serving = message.gateway, message.serving
    last_request = instant(serving, "last_request_at")
    return {
        "gateway": fill(Gateway, gateway, server_certificate=certificate(gateway.server_certificate, gateway.now)),
        "peers": [_peer(one, gateway) for one in message.peers],
        "grants": [_grant(one) for one in message.grants],
        "serving": fill(Serving, serving, last_request=last_request) if message.HasField("serving") else None,
        "warnings": list(message.warnings),
    }


def unreachable(since: datetime, error: str) -> Shape:
    """Return the JSON object of `--json --watch` for a gateway that does not answer."""
    return {"unreachable": {"since": since.isoformat(timespec="milliseconds").replace("+00:00", "Z"), "message": error}}


def _peer(message: pb.PeerStatus, gateway: pb.GatewayInfo) -> Shape:
    """Return a peer with the assessment of its health."""
    health, failure = assess_health(message, gateway), message.last_failure
    explained = fill(ExplainedFailure, failure, meaning=meaning(failure) or None)
    return peer(
        message,
        gateway.now,
        StatusPeer,
        last_failure=explained if message.HasField("last_failure") else None,
        healthy=health.healthy,
        shown=health.label.replace(" ", "_"),
        why=health.why or None,
        next_step=health.next_step or None,
    )


def _grant(message: pb.GrantInfo) -> Shape:
    denied = {"at": instant(message, "last_denied_at"), "reason": message.last_denied_reason}
    return fill(
        ServedGrant,
        message,
        last_denied=denied if message.HasField("last_denied_at") else None,
        last_used=instant(message, "last_used_at"),
    )
