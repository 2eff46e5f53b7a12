"""What `--json` prints: admin messages as plain values. These shapes are stable; a field is added, never changed."""

from typing import Any, Final

import orjson
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from federation.v1 import admin_pb2 as pb
from federation.v1 import federation_pb2

__all__ = [
    "audit_event",
    "capabilities",
    "certificate",
    "dump",
    "enrolled",
    "enum_word",
    "full_grant",
    "instant",
    "peer",
    "receipt",
    "removal",
    "row",
    "taken",
]

DEEPEST: Final = 64
Shape = dict[str, Any]


def dump(value: Shape) -> str:
    """Return a shape as indented JSON text."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def instant(message: Message, field: str) -> str | None:
    """Return a timestamp field as RFC 3339 text in UTC with milliseconds, or `None` where it is absent."""
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    try:
        return stamp.ToDatetime().isoformat(timespec="milliseconds") + "Z"
    except (OverflowError, ValueError):  # a peer's row may hold any number
        return None


def enum_word(message: Message, field: str) -> str:
    """Return an enum field as its word in lower case, without the prefix that proto style gives it."""
    kind = message.DESCRIPTOR.fields_by_name[field].enum_type
    assert kind is not None  # noqa: S101 - callers name enum fields
    prefix = "".join(f"_{c}" if c.isupper() else c for c in kind.name).strip("_").upper() + "_"
    value = kind.values_by_number.get(getattr(message, field))
    return value.name.removeprefix(prefix).lower() if value else "unspecified"


def row(message: pb.QueryRow, *, search: bool = False) -> Shape:
    """Return a row with its tags."""
    inner = message.row
    shape = {
        "id": inner.id,
        "resource": inner.resource,
        "owner": inner.owner,
        "team": inner.team,
        "created_at": instant(inner, "created_at"),
        "updated_at": instant(inner, "updated_at"),
        "data": _data(inner.data),
        "_source": message.source,
        "_cached": message.cached,
        "age_s": round(message.age_s, 3),
    }
    return {**shape, "score": message.score, "snippet": message.snippet} if search else shape


def _data(text: str) -> Any:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:  # a peer may send anything
        return text
    # What nests deeper than anything that a gateway stores could be read, but not be written again.
    return value if text.count("{") + text.count("[") <= DEEPEST or _fits(value, DEEPEST) else text


def _fits(value: Any, levels: int) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not items or (levels > 0 and all(_fits(item, levels - 1) for item in items))


def capabilities(message: federation_pb2.CapabilitiesResponse) -> Shape:
    """Return what a grant opens."""
    return {
        "resources": list(message.resources),
        "excluded_resources": list(message.excluded_resources),
        "max_rows_per_query": message.max_rows_per_query,
        "verbs": list(message.verbs),
        "gateway": message.gateway,
        "gateway_version": message.gateway_version,
    }


def certificate(message: pb.CertificateInfo, now: Timestamp | None = None) -> Shape:
    """Return a certificate; with `now` also the seconds until it ends."""
    shape: Shape = {"serial": message.serial, "not_after": instant(message, "not_after")}
    if now is not None:
        shape["expires_in_s"] = message.not_after.seconds - now.seconds
        shape["renews_at"] = instant(message, "renews_at")
    else:
        shape["not_before"] = instant(message, "not_before")
        shape["fingerprint"] = message.fingerprint
    return shape


def full_grant(message: pb.GrantInfo) -> Shape:
    """Return a grant with its scope document."""
    return {
        "id": message.id,
        "peer": message.peer,
        "subject": message.subject,
        "status": enum_word(message, "status"),
        "scope": _data(message.scope),
        "created_at": instant(message, "created_at"),
        "expires_at": instant(message, "expires_at"),
        "revoked_at": instant(message, "revoked_at"),
        "revoked_reason": message.revoked_reason or None,
        "certificate": certificate(message.certificate) if message.HasField("certificate") else None,
        "last_used": instant(message, "last_used_at"),
    }


def receipt(message: pb.RevocationReceipt) -> Shape:
    """Return a revocation's receipt."""
    return {
        "grant_id": message.grant_id,
        "revoked_at": instant(message, "revoked_at"),
        "effective_at": instant(message, "effective_at"),
        "reason": message.reason or None,
        "kind": message.kind,
        "failed_in_flight": message.failed_in_flight,
        "instances": [_release(one) for one in message.instances],
    }


def taken(message: pb.RevocationProgress | pb.RevocationReceipt) -> Shape:
    """Return a receipt; of what is still awaited, one without the instant from which it is effective."""
    if isinstance(message, pb.RevocationReceipt):
        return receipt(message)
    grant = message.grant
    return {
        "grant_id": grant.id,
        "revoked_at": instant(grant, "revoked_at"),
        "effective_at": None,
        "reason": grant.revoked_reason or None,
        "kind": "revoked" if grant.HasField("revoked_at") else "narrowed",
        "failed_in_flight": sum(one.failed_in_flight for one in message.awaited),
        "instances": [_release(one) for one in message.awaited],
    }


def removal(message: pb.UserRemoval) -> Shape:
    """Return what the removal of a user took."""
    return {
        "user": message.user,
        "grants": [grant.id for grant in message.grants],
        "teams": list(message.teams),
        "owned_rows": message.owned_rows,
        "from_data": message.from_data,
        "peers": list(message.peers),
    }


def _release(message: pb.LeaseRelease) -> Shape:
    return {
        "instance_id": message.instance_id or None,
        "how": message.how,
        "at": instant(message, "at"),
        "until": instant(message, "until"),
        "failed_in_flight": message.failed_in_flight,
    }


def enrolled(message: pb.PeerStatus) -> Shape:
    """Return a peer as `peer add` and `peer list` show it."""
    return {
        "name": message.name,
        "user": message.user,
        "endpoint": message.endpoint,
        "grant_id": message.grant_id,
        "state": enum_word(message, "state"),
        "certificate": certificate(message.certificate),
    }


def peer(message: pb.PeerStatus, now: Timestamp) -> Shape:
    """Return a peer as `status` shows it."""
    return {
        "name": message.name,
        "endpoint": message.endpoint,
        "user": message.user,
        "grant_id": message.grant_id,
        "state": enum_word(message, "state"),
        "certificate": certificate(message.certificate, now),
        "last_success": instant(message, "last_success"),
        "last_failure": _failure(message.last_failure) if message.HasField("last_failure") else None,
        "circuit": _circuit(message.circuit) if message.HasField("circuit") else None,
        "cache": _numbers(message.cache) if message.HasField("cache") else None,
        "watch": {"state": message.watch.state or "off", "since": instant(message.watch, "since")},
        "revocation": {"at": instant(message.revocation, "at"), "reason": message.revocation.reason or None}
        if message.HasField("revocation")
        else None,
        "renewal": _renewal(message.renewal) if message.HasField("renewal") else None,
        "latency_ms": {"p50": message.latency.p50_ms, "p99": message.latency.p99_ms}
        if message.HasField("latency")
        else None,
    }


def _failure(message: pb.CallFailure) -> Shape:
    return {
        "at": instant(message, "at"),
        "code": message.code,
        "reason": message.reason or None,
        "message": message.message,
    }


def _renewal(message: pb.RenewalStatus) -> Shape:
    return {
        "consecutive_failures": message.consecutive_failures,
        "last_failure": _failure(message.last_failure) if message.HasField("last_failure") else None,
        "next_at": instant(message, "next_at"),
    }


def _circuit(message: pb.CircuitStatus) -> Shape:
    return {
        "state": enum_word(message, "state"),
        "consecutive_failures": message.consecutive_failures,
        "opened_at": instant(message, "opened_at"),
        "retry_at": instant(message, "retry_at"),
    }


def _numbers(message: pb.CacheStatus) -> Shape:
    return {"entries": message.entries, "bytes": message.bytes, "hits": message.hits, "misses": message.misses}


def audit_event(message: pb.AuditEvent) -> Shape:
    """Return one audit event."""
    return {
        "id": message.id,
        "at": instant(message, "at"),
        "grant_id": message.grant_id or None,
        "peer": message.peer or None,
        "subject": message.subject or None,
        "verb": message.verb,
        "resource": message.resource or None,
        "query_hash": message.query_hash or None,
        "outcome": message.outcome,
        "reason": message.reason or None,
        "bytes_out": message.bytes_out,
        "latency_ms": message.latency_ms,
        "trace_id": message.trace_id or None,
        "count": message.count,
        "source": message.source or None,
    }
