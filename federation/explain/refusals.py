"""The cause and the remedy of a refused call, by its reason, for the operator of the calling gateway."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc

from federation.client.chain.outcomes import from_wire
from federation.clock import instant
from federation.errors import Action, Actor, Reason, Remedy
from federation.explain.checks import BrokenLink
from federation.explain.own_certificate import COMPARE_CLOCKS, REPLACE_HINT, re_enroll_hint
from federation.sanitize import printable
from federation.store.peers import PeerRecord
from federation.wire.status import error_detail

PROXIES: Final = ("grpc_proxy", "https_proxy", "http_proxy")
"""gRPC connects through the proxy in the first of these variables that is set; a plain TCP connection does not."""


class RateLimited(BrokenLink):
    """The peer limits the calls under the grant. It applies the limit before it checks the grant."""


class OutOfScope(BrokenLink):
    """The grant is valid, but does not open the resource."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A received refusal, with its message made printable."""

    record: PeerRecord
    message: str
    retry_after_s: float | None
    timeout_s: float

    @property
    def operator(self) -> str:
        return f"the operator of {self.record.gateway}"


def explain_error(record: PeerRecord, error: grpc.RpcError, timeout_s: float) -> BrokenLink:
    """Return the cause and the remedy of a failed call: an `OutOfScope`, a `RateLimited`, or another `BrokenLink`."""
    rpc_error: Any = error
    trailing = tuple((key, value) for key, value in rpc_error.trailing_metadata() or ())
    outcome = from_wire(rpc_error.code(), b"", rpc_error.details() or "", (), trailing)
    detail = error_detail(outcome.trailing)
    refused = _Refusal(record, printable(outcome.details), detail.retry_after_s, timeout_s)
    if detail.reason in _MEANINGS:
        return _MEANINGS[Reason(detail.reason)](refused)
    if outcome.code is grpc.StatusCode.UNIMPLEMENTED:
        return BrokenLink(
            f"{record.endpoint} is a gRPC server, but does not serve the federation",
            f"ask {refused.operator} for the address of its federation port (`listen` in gateway.toml, not `enroll`)",
        )
    return BrokenLink(f"{record.gateway} answered {outcome.code.name}: {refused.message}", f"tell {refused.operator}")


def stored_revocation(record: PeerRecord) -> BrokenLink | None:
    """Return the stored revocation of the grant, if any. A revoked peer gets no more calls from this gateway."""
    if record.revoked_at_us is None:
        return None
    why = f": {record.revoked_reason}" if record.revoked_reason else ""
    return BrokenLink(
        f"{record.gateway} revoked the grant {record.grant_id} (received at {instant(record.revoked_at_us)}){why}",
        _new_grant_hint(record),
        record.remedy(Action.REPLACE_PEER),
    )


def widen_hint(record: PeerRecord) -> str:
    """Return the instruction to widen a grant; its act is `widen_remedy`."""
    return f"ask the operator of {record.gateway} to widen the grant"


def widen_remedy(record: PeerRecord) -> Remedy:
    """Return the remedy that the peer's operator edits the scope of the grant."""
    return Remedy(action=Action.EDIT_SCOPE, actor=Actor.PEER_OPERATOR, grant_id=record.grant_id)


def _new_grant_hint(record: PeerRecord) -> str:
    ask = f"ask the operator of {record.gateway} for a new grant and its token"
    return f"the revocation is final; {ask}, then {REPLACE_HINT}"


def _revoked(refused: _Refusal) -> BrokenLink:
    record = refused.record
    cause = f"{record.gateway} has revoked the grant {record.grant_id}: {refused.message}"
    return BrokenLink(cause, _new_grant_hint(record), record.remedy(Action.REPLACE_PEER))


def _invalid(refused: _Refusal) -> BrokenLink:
    record = refused.record
    return BrokenLink(
        f"{record.gateway} does not accept the grant {record.grant_id}: the grant awaits its confirmation, has ended, "
        "is unknown, or belongs to another certificate; only the operator there can see which",
        f"ask {refused.operator} to look at the grant and at its audit trail",
        Remedy(action=Action.SHOW_GRANT, actor=Actor.PEER_OPERATOR, grant_id=record.grant_id),
    )


def _certificate(refused: _Refusal) -> BrokenLink:
    record = refused.record
    return BrokenLink(
        f"{record.gateway} does not accept this gateway's own certificate: {refused.message}",
        f"by this machine's clock it is valid: {COMPARE_CLOCKS}; if both are right, {re_enroll_hint(record)}",
        record.remedy(Action.ENROLL_AGAIN),
    )


def _limited(refused: _Refusal) -> BrokenLink:
    record, wait = refused.record, refused.retry_after_s
    again = f"wait {max(wait, 0.1):.1f} s" if wait is not None else "wait a minute"
    return RateLimited(
        f"{record.gateway} limits the calls under the grant {record.grant_id}: {refused.message}",
        f"{again}; if the limit is too low, ask {refused.operator} to raise `rate_limit_per_minute`",
        widen_remedy(record),
    )


def _incident(refused: _Refusal) -> BrokenLink:
    return BrokenLink(
        f"{refused.record.gateway} had an internal error: {refused.message}",
        f"tell {refused.operator}: the log of that gateway has the cause, under the incident's id",
    )


def _malformed(refused: _Refusal) -> BrokenLink:
    cause = f"{refused.record.gateway} rejects the request as malformed: {refused.message}"
    return BrokenLink(cause, "name no resource, or one that the grant opens", Remedy(action=Action.CHOOSE_RESOURCE))


def _timeout(refused: _Refusal) -> BrokenLink:
    return BrokenLink(
        f"{refused.record.gateway} did not answer the call within {refused.timeout_s:g} s",
        f"ask {refused.operator} whether its gateway is overloaded, or allow more time",
        Remedy(action=Action.ALLOW_MORE_TIME),
    )


def _unreachable(refused: _Refusal) -> BrokenLink:
    endpoint = refused.record.endpoint
    cause = f"gRPC cannot reach {endpoint}, although a plain connection can: {refused.message}"
    proxy = next((name for name in PROXIES if os.environ.get(name)), None)
    if proxy:
        host = endpoint.rpartition(":")[0].strip("[]")
        return BrokenLink(cause, f"gRPC goes through the proxy in ${proxy}: set no_proxy={host} for the gateway")
    return BrokenLink(cause, f"try again; ask {refused.operator} whether its gateway is being stopped")


def _out_of_scope(refused: _Refusal) -> BrokenLink:
    record = refused.record
    cause = f"the grant {record.grant_id} does not open the resource: {refused.message}"
    return OutOfScope(cause, widen_hint(record), widen_remedy(record))


_MEANINGS: Final[Mapping[str, Callable[[_Refusal], BrokenLink]]] = {
    Reason.GRANT_REVOKED: _revoked,
    Reason.GRANT_INVALID: _invalid,
    Reason.CERTIFICATE_INVALID: _certificate,
    Reason.SCOPE_VIOLATION: _out_of_scope,
    Reason.RATE_LIMITED: _limited,
    Reason.INVALID_REQUEST: _malformed,
    Reason.INTERNAL: _incident,
    Reason.PEER_TIMEOUT: _timeout,
    Reason.PEER_UNREACHABLE: _unreachable,
}
