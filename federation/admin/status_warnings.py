"""What works at this moment and needs the operator's eye all the same."""

from federation.admin.context import AdminContext
from federation.clock import from_micros
from federation.store.grants.registry import Grant, GrantStatus

__all__ = ["warnings_of"]


def warnings_of(parts: AdminContext) -> tuple[str, ...]:
    """Return sentences about the gateway's own certificates, and about grants whose peers renewed too late."""
    now_us = parts.clock.now_us()
    grants = (grant for grant in parts.grants.all() if grant.status_at(now_us) is GrantStatus.ACTIVE)
    late = (_renewed_late(grant) for grant in grants if grant.newest is not None and grant.newest.after_expiry)
    return (*parts.server_certificate.warnings, *late)


def _renewed_late(grant: Grant) -> str:
    ends = f"{from_micros(grant.newest.not_after_us):%Y-%m-%d %H:%M} UTC" if grant.newest else ""
    return (
        f"{grant.peer} renewed its certificate under grant {grant.id} only after it had expired, on the word of its "
        f"old key (the new one ends at {ends}); if that gateway was not down meanwhile, revoke the grant"
    )
