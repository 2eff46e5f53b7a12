"""Grants, peers and audit events as messages of the admin service."""

from typing import Final

from federation.config import GatewayConfig, parse_address
from federation.pki.rotation_policy import renewal_point_us
from federation.server.call_stats import UNUSED, GrantUse
from federation.store.audit.model import AuditEvent
from federation.store.grants.model import CertificateRecord, Grant, GrantStatus
from federation.v1 import admin_pb2 as pb
from federation.wire.timestamps import optional_timestamp

_STATUS: Final = {
    GrantStatus.PENDING: pb.GRANT_STATUS_PENDING,
    GrantStatus.ACTIVE: pb.GRANT_STATUS_ACTIVE,
    GrantStatus.REVOKED: pb.GRANT_STATUS_REVOKED,
    GrantStatus.EXPIRED: pb.GRANT_STATUS_EXPIRED,
}


def advertised(config: GatewayConfig, bound: str, name: str) -> str:
    """Return the advertised host:port of an address that this gateway has bound."""
    _, port = parse_address(bound, name)
    host = config.advertised_host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def grant_message(
    grant: Grant, now_us: int, *, leases: int = 0, watches: int = 0, use: GrantUse = UNUSED
) -> pb.GrantInfo:
    """Return a grant with its status at an instant, its number of leases and armed watches, and its call counts."""
    return pb.GrantInfo(
        id=grant.id,
        peer=grant.peer,
        subject=grant.subject,
        status=status_value(grant, now_us),
        scope=grant.scope.to_json(),
        created_at=optional_timestamp(grant.created_at_us),
        expires_at=optional_timestamp(grant.expires_at_us),
        revoked_at=optional_timestamp(grant.revoked_at_us),
        revoked_reason=grant.revoked_reason,
        certificate=_issued(grant.newest),
        last_used_at=optional_timestamp(grant.last_used_at_us),
        leases=leases,
        watches=watches,
        requests=use.requests,
        denials=use.denials,
        last_denied_at=optional_timestamp(use.last_denied_at_us),
        last_denied_reason=use.last_denied_reason,
    )


def status_value(grant: Grant, now_us: int) -> pb.GrantStatus.ValueType:
    """Return the status of a grant at an instant."""
    return _STATUS[grant.status_at(now_us)]


def _issued(certificate: CertificateRecord | None) -> pb.CertificateInfo | None:
    if certificate is None:
        return None
    message = certificate_message(
        certificate.serial,
        certificate.fingerprint,
        (certificate.not_before_us, certificate.not_after_us),
        # An estimate: the peer chooses the exact instant of its renewal.
        renewal_point_us(certificate.not_before_us, certificate.not_after_us),
    )
    message.after_expiry = certificate.after_expiry
    return message


def certificate_message(
    serial: str, fingerprint: str, validity_us: tuple[int, int], renews_at_us: int
) -> pb.CertificateInfo:
    """Return a certificate as a message, with the instant at which its renewal is due."""
    not_before_us, not_after_us = validity_us
    return pb.CertificateInfo(
        serial=serial,
        fingerprint=fingerprint,
        not_before=optional_timestamp(not_before_us),
        not_after=optional_timestamp(not_after_us),
        renews_at=optional_timestamp(renews_at_us),
    )


def audit_message(event: AuditEvent) -> pb.AuditEvent:
    """Return one audit event as a message."""
    return pb.AuditEvent(
        id=event.id,
        at=optional_timestamp(event.at_us),
        grant_id=event.grant_id or "",
        peer=event.peer,
        subject=event.subject,
        verb=event.verb,
        resource=event.resource,
        query_hash=event.query_hash,
        outcome=event.outcome,
        reason=event.reason,
        bytes_out=event.bytes_out,
        latency_ms=event.latency_ms,
        trace_id=event.trace_id,
        count=event.count,
        source=event.source,
    )
