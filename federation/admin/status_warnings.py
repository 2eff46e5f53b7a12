"""Warnings of the status: conditions that need the operator's attention although everything works."""

from federation.admin.context import AdminContext
from federation.clock import from_micros
from federation.store.grants.model import Grant, GrantStatus


def status_warnings(context: AdminContext) -> tuple[str, ...]:
    """Return warnings about the gateway's own certificates, and about grants whose peers renewed after expiry."""
    now_us = context.clock.now_us()
    grants = (grant for grant in context.grants.all() if grant.status_at(now_us) is GrantStatus.ACTIVE)
    late = (_renewed_late(grant) for grant in grants if grant.newest is not None and grant.newest.after_expiry)
    return (*context.server_certificate.warnings, *late)


def _renewed_late(grant: Grant) -> str:
    ends = f"{from_micros(grant.newest.not_after_us):%Y-%m-%d %H:%M} UTC" if grant.newest else ""
    return (
        f"{grant.peer} renewed its certificate under grant {grant.id} only after it had expired, signed with its "
        f"old key (the new certificate ends at {ends}); if that gateway was not down meanwhile, revoke the grant"
    )
