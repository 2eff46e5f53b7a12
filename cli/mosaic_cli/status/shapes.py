"""What `status --json` prints. This shape is stable; a field is added, never changed."""

from datetime import datetime
from typing import Any

from federation.v1 import admin_pb2 as pb
from mosaic_cli.output import shapes
from mosaic_cli.output.shapes import Shape, enum_word, instant
from mosaic_cli.status.health import assess_health, meaning

__all__ = ["status", "unreachable"]


def status(message: pb.StatusResponse) -> Shape:
    """Return the whole status."""
    gateway = message.gateway
    return {
        "gateway": {
            "name": gateway.name,
            "version": gateway.version,
            "started_at": instant(gateway, "started_at"),
            "now": instant(gateway, "now"),
            "federation_address": gateway.federation_address,
            "enrollment_address": gateway.enrollment_address,
            "server_certificate": shapes.certificate(gateway.server_certificate, gateway.now),
        },
        "peers": [_peer(one, gateway) for one in message.peers],
        "grants": [_grant(one) for one in message.grants],
        "serving": _serving(message.serving) if message.HasField("serving") else None,
        "warnings": list(message.warnings),
    }


def unreachable(since: datetime, error: str) -> Shape:
    """Return the line of `--json --watch` that says that the gateway does not answer."""
    return {"unreachable": {"since": since.isoformat(timespec="milliseconds").replace("+00:00", "Z"), "message": error}}


def _peer(message: pb.PeerStatus, gateway: pb.GatewayInfo) -> Shape:
    """Return a peer: as the gateway has it, and the verdict that the table shows."""
    shape, verdict = shapes.peer(message, gateway.now), assess_health(message, gateway)
    failure = shape["last_failure"]
    if failure is not None:
        failure["meaning"] = meaning(message.last_failure) or None
    return {
        **shape,
        "seen_at": instant(message, "seen_at"),
        "healthy": verdict.healthy,
        "shown": verdict.word.replace(" ", "_"),
        "why": verdict.why or None,
        "next_step": verdict.next_step or None,
    }


def _grant(message: pb.GrantInfo) -> Shape:
    return {
        "id": message.id,
        "peer": message.peer,
        "subject": message.subject,
        "status": enum_word(message, "status"),
        "expires_at": instant(message, "expires_at"),
        "watches": message.watches,
        "leases": message.leases,
        "requests": message.requests,
        "denials": message.denials,
        "last_denied": _denied(message) if message.HasField("last_denied_at") else None,
        "last_used": instant(message, "last_used_at"),
    }


def _denied(message: pb.GrantInfo) -> Shape:
    return {"at": instant(message, "last_denied_at"), "reason": message.last_denied_reason}


def _serving(message: pb.ServingStatus) -> dict[str, Any]:
    return {
        "watches": message.watches,
        "leases": message.leases,
        "requests": [{"verb": one.verb, "outcome": one.outcome, "count": one.count} for one in message.requests],
        "last_request": instant(message, "last_request_at"),
        "audit_dropped": message.audit_dropped,
    }
