"""The walk: every link of the way to a peer in the order in which a call needs them, each with its time."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Final

from federation.clock import SYSTEM_CLOCK, Clock
from federation.explain.checks import Link, State, Step, not_reached, tried
from federation.explain.dns_tcp import connect, resolve
from federation.explain.grant_call import list_one, look_at_grant, stub_of
from federation.explain.own_certificate import judge
from federation.explain.refusals import RateLimited, remembered_revocation
from federation.explain.tls_alerts import OwnRefused
from federation.explain.tls_handshake import client_context, do_handshake
from federation.store.peers import PeerRecord

__all__ = ["TIMEOUT_S", "walk"]

TIMEOUT_S: Final = 2.0


def walk(
    record: PeerRecord,
    *,
    resource: str = "",
    timeout_s: float = TIMEOUT_S,
    serving: bool = False,
    clock: Clock = SYSTEM_CLOCK,
) -> Iterator[Step]:
    """Yield one step a link, each as soon as it is known. It blocks, for at most `timeout_s` a step.

    `resource` is what the verb asks for, the first that the grant opens where it is empty. `serving` tells whether
    this gateway runs.
    """
    own, _ = tried(Link.CERTIFICATE, lambda: judge(record, clock, serving=serving))
    with ExitStack() as stack:
        whole = True
        for step in _connected(record, own, timeout_s, stack):
            yield step
            whole = whole and step.state is State.OK
        yield own
        if whole and own.state is State.OK:
            yield from _called(record, resource, timeout_s)
        else:
            yield _remembered(record) or not_reached(Link.GRANT)
            yield not_reached(Link.VERB)


def _connected(record: PeerRecord, own: Step, timeout_s: float, stack: ExitStack) -> Iterator[Step]:
    context = client_context(record)
    dns, addresses = tried(Link.DNS, lambda: resolve(record, timeout_s))
    yield dns
    if addresses is None:
        yield from (not_reached(Link.TCP), not_reached(Link.TLS))
        return
    tcp, connection = tried(Link.TCP, lambda: connect(record, addresses, timeout_s))
    yield tcp
    if connection is None:
        yield not_reached(Link.TLS)
        return
    stack.enter_context(closing(connection))
    tls, _ = tried(Link.TLS, lambda: do_handshake(connection, record, context, timeout_s))
    if isinstance(tls.fault, OwnRefused) and own.state is State.BROKEN:
        # The peer's side holds; what it minds is the next link, which this machine finds broken as well.
        detail = f"{record.gateway} shows its certificate, and ends the connection because of this gateway's own"
        tls = replace(tls, state=State.OK, detail=detail, fault=None)
    yield tls


def _called(record: PeerRecord, resource: str, timeout_s: float) -> Iterator[Step]:
    with stub_of(record) as stub:
        grant, opened = tried(Link.GRANT, lambda: look_at_grant(stub, record, timeout_s))
        if isinstance(grant.fault, RateLimited):
            yield _remembered(record) or not_reached(Link.GRANT, "the peer counts calls before it looks at the grant")
            yield replace(grant, link=Link.VERB)
            return
        yield (_remembered(record) or grant) if opened is not None else grant
        if opened is None or record.revoked_at_us is not None:
            yield not_reached(Link.VERB)
            return
        verb, _ = tried(Link.VERB, lambda: list_one(stub, record, opened, resource, timeout_s))
        yield verb


def _remembered(record: PeerRecord) -> Step | None:
    """Return the step of a grant of which this gateway has heard the end, however the peer is now."""
    fault = remembered_revocation(record)
    return None if fault is None else Step(Link.GRANT, State.BROKEN, None, fault.cause, fault)
