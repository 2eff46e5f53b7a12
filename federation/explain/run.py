"""Runs the checks of a peer: every link, in the order in which a call needs them, with its time."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Final

from federation.clock import SYSTEM_CLOCK, Clock
from federation.explain.checks import CheckResult, Link, LinkState, not_reached, run_check
from federation.explain.dns_tcp import connect, resolve
from federation.explain.grant_call import check_grant, check_verb, stub_of
from federation.explain.own_certificate import check_own_certificate
from federation.explain.refusals import RateLimited, stored_revocation
from federation.explain.tls_alerts import OwnCertificateRefused
from federation.explain.tls_handshake import client_context, do_handshake
from federation.store.peers import PeerRecord

TIMEOUT_S: Final = 2.0


def run_checks(
    record: PeerRecord,
    *,
    resource: str = "",
    timeout_s: float = TIMEOUT_S,
    serving: bool = False,
    clock: Clock = SYSTEM_CLOCK,
) -> Iterator[CheckResult]:
    """Yield one result per link, each as soon as it is known. Blocks for at most `timeout_s` per link.

    `resource` is listed as the check of the verb, by default the first resource that the grant opens. `serving` tells
    whether this gateway is running.
    """
    own, _ = run_check(Link.CERTIFICATE, lambda: check_own_certificate(record, clock, serving=serving))
    with ExitStack() as stack:
        reachable = True
        for result in _check_connection(record, own, timeout_s, stack):
            yield result
            reachable = reachable and result.state is LinkState.OK
        yield own
        if reachable and own.state is LinkState.OK:
            yield from _check_call(record, resource, timeout_s)
        else:
            yield _stored_revocation(record) or not_reached(Link.GRANT)
            yield not_reached(Link.VERB)


def _check_connection(
    record: PeerRecord, own: CheckResult, timeout_s: float, stack: ExitStack
) -> Iterator[CheckResult]:
    context = client_context(record)
    dns, addresses = run_check(Link.DNS, lambda: resolve(record, timeout_s))
    yield dns
    if addresses is None:
        yield from (not_reached(Link.TCP), not_reached(Link.TLS))
        return
    tcp, connection = run_check(Link.TCP, lambda: connect(record, addresses, timeout_s))
    yield tcp
    if connection is None:
        yield not_reached(Link.TLS)
        return
    stack.enter_context(closing(connection))
    tls, _ = run_check(Link.TLS, lambda: do_handshake(connection, record, context, timeout_s))
    if isinstance(tls.fault, OwnCertificateRefused) and own.state is LinkState.BROKEN:
        # The peer's TLS works: the peer rejects the own certificate, which is the next link and broken here as well.
        detail = (
            f"{record.gateway} shows its certificate, but closes the connection because of this gateway's certificate"
        )
        tls = replace(tls, state=LinkState.OK, detail=detail, fault=None)
    yield tls


def _check_call(record: PeerRecord, resource: str, timeout_s: float) -> Iterator[CheckResult]:
    with stub_of(record) as stub:
        grant, opened = run_check(Link.GRANT, lambda: check_grant(stub, record, timeout_s))
        if isinstance(grant.fault, RateLimited):
            yield _stored_revocation(record) or not_reached(
                Link.GRANT, "the peer applies its rate limit before it checks the grant"
            )
            yield replace(grant, link=Link.VERB)
            return
        yield (_stored_revocation(record) or grant) if opened is not None else grant
        if opened is None or record.revoked_at_us is not None:
            yield not_reached(Link.VERB)
            return
        verb, _ = run_check(Link.VERB, lambda: check_verb(stub, record, opened, resource, timeout_s))
        yield verb


def _stored_revocation(record: PeerRecord) -> CheckResult | None:
    """Return the broken grant link if this gateway has stored a revocation, `None` otherwise."""
    fault = stored_revocation(record)
    return None if fault is None else CheckResult(Link.GRANT, LinkState.BROKEN, None, fault.cause, fault)
