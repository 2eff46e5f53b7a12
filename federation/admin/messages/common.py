"""Grants, receipts and audit events as messages of the admin service."""

from typing import Final

from federation.pki.rotation_policy import renewal_point_us
from federation.server.call_stats import GrantUse
from federation.server.revocation.leases import Release
from federation.store.audit.model import AuditEvent
from federation.store.grants.model import CertificateRecord, Grant, GrantStatus
from federation.store.receipts import InstanceRecord, Receipt
from federation.v1 import admin_pb2 as pb
from federation.wire.timestamps import optional_timestamp, timestamp

_STATUS: Final = {status: pb.GrantStatus.Value(f"GRANT_STATUS_{status.name}") for status in GrantStatus}
MAX_COUNT: Final = 2**32 - 1
"""The largest number that a receipt can hold. Peers report how many calls they failed, possibly with a false number."""


def grant_message(grant: Grant, now_us: int, *, leases: int, watches: int, use: GrantUse) -> pb.GrantInfo:
    """Return a grant with its status at an instant, its number of leases and armed watches, and its call counts."""
    return pb.GrantInfo(
        id=grant.id,
        peer=grant.peer,
        subject=grant.subject,
        status=status_value(grant, now_us),
        scope=grant.scope.to_json(),
        created_at=timestamp(grant.created_at_us),
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
    return pb.CertificateInfo(
        serial=certificate.serial,
        fingerprint=certificate.fingerprint,
        not_before=timestamp(certificate.not_before_us),
        not_after=timestamp(certificate.not_after_us),
        # An estimate: the peer chooses the exact instant of its renewal.
        renews_at=timestamp(renewal_point_us(certificate.not_before_us, certificate.not_after_us)),
        after_expiry=certificate.after_expiry,
    )


def receipt_message(receipt: Receipt) -> pb.RevocationReceipt:
    """Return a receipt as a message."""
    return pb.RevocationReceipt(
        grant_id=receipt.grant_id,
        kind=receipt.kind.value,
        revoked_at=timestamp(receipt.begun_at_us),
        effective_at=optional_timestamp(receipt.effective_at_us),
        reason=receipt.reason,
        instances=map(release_message, receipt.instances),
        failed_in_flight=min(MAX_COUNT, sum(release.failed_in_flight for release in receipt.instances)),
    )


def release_message(release: InstanceRecord | Release) -> pb.LeaseRelease:
    """Return the state of one cache object, in a receipt or in a revocation that runs, as a message."""
    return pb.LeaseRelease(
        instance_id=release.instance,
        how=release.how,
        at=optional_timestamp(release.at_us),
        failed_in_flight=release.failed_in_flight,
        until=optional_timestamp(release.until_us) if isinstance(release, Release) else None,
    )


def audit_message(event: AuditEvent) -> pb.AuditEvent:
    """Return one audit event as a message."""
    return pb.AuditEvent(
        id=event.id,
        at=timestamp(event.at_us),
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
