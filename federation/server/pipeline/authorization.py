"""Authorization of a call: checks the caller's grant and certificate, from memory, at every call."""

from typing import Final

from federation.errors import Reason, Refusal
from federation.server.pipeline.identity import CallerIdentity
from federation.store.grants.model import Grant, GrantStatus

GRANT_INVALID_MESSAGE: Final = "the grant does not allow this call; ask the operator of the serving gateway"


def authorize(grant: Grant | None, caller: CallerIdentity, now_us: int) -> Grant:
    """Return the caller's grant if it is active and the certificate belongs to it.

    Raises `Refusal`: GRANT_REVOKED only for a certificate that was issued under the revoked grant, GRANT_INVALID with
    the same message for every other fault. `detail` names the fault for the gateway's audit.
    """
    if grant is None:
        raise _invalid("unknown grant")
    if grant.subject != caller.subject:
        raise _invalid("subject is not the grant's")
    record = grant.certificates.get(caller.serial)
    if record is None or record.fingerprint != caller.fingerprint:
        raise _invalid("unknown serial")
    if grant.status is GrantStatus.REVOKED:
        raise Refusal(Reason.GRANT_REVOKED, grant.revoked_text, detail="grant revoked")
    if grant.status is not GrantStatus.ACTIVE:
        raise _invalid("grant pending")
    if grant.expires_at_us is not None and grant.expires_at_us <= now_us:
        raise _invalid("grant expired")
    if record.accepted_until_us <= now_us:
        raise _invalid("retired serial")
    return grant


def _invalid(detail: str) -> Refusal:
    return Refusal(Reason.GRANT_INVALID, GRANT_INVALID_MESSAGE, detail=detail)
