"""The status of one peer as a message: its state, certificate, circuit, cache, watch and renewal."""

from typing import Any, Final

from federation.breaker import CircuitSnapshot, CircuitState
from federation.cache.response_cache import Partition
from federation.client.chain.call_stats import CallFailure, PeerHealth
from federation.client.peer_status import PeerState, status_of
from federation.client.peers.peer import Peer, Revocation
from federation.client.renewer import plan_of
from federation.clock import MICROSECONDS, Clock
from federation.pki.certificates import fingerprint_of, parsed, serial_of, validity_us
from federation.v1 import admin_pb2 as pb
from federation.wire.timestamps import optional_timestamp, timestamp

_CIRCUIT: Final = {state: pb.CircuitState.Value(f"CIRCUIT_STATE_{state.name}") for state in CircuitState}
_STATE: Final = {state: pb.PeerState.Value(f"PEER_STATE_{state.name}") for state in PeerState}


def peer_message(peer: Peer, clock: Clock) -> pb.PeerStatus:
    """Return the current status of a peer."""
    plan, now_us = plan_of(peer), clock.now_us()
    status = status_of(peer, clock)
    renews_at_us = plan.next_at_us(now_us) if status.revocation is None else None
    return pb.PeerStatus(
        name=peer.name,
        endpoint=peer.record.endpoint,
        user=peer.user,
        grant_id=peer.grant_id,
        state=_STATE[status.state],
        certificate=own_certificate(peer.record.certificate_pem, renews_at_us),
        last_success=optional_timestamp(status.last_success_us),
        last_failure=_failure(status.last_failure),
        seen_at=optional_timestamp(status.seen_us),
        circuit=_circuit(status.circuit, now_us),
        cache=_cache(peer.cache),
        latency=_latency(peer.health),
        watch=pb.WatchStatus(state=status.watch.value, since=optional_timestamp(status.watch_since_us)),
        renewal=pb.RenewalStatus(
            consecutive_failures=plan.failures,
            last_failure=_failure(plan.last_failure),
            next_at=optional_timestamp(renews_at_us),
        ),
        revocation=_revocation(status.revocation),
    )


def own_certificate(pem: str, renews_at_us: int | None) -> pb.CertificateInfo:
    """Return a certificate that this gateway holds and renews."""
    try:
        certificate = parsed(pem)
    except ValueError:  # a corrupt record: the peer is shown as expired
        return pb.CertificateInfo()
    not_before_us, not_after_us = validity_us(certificate)
    return pb.CertificateInfo(
        serial=serial_of(certificate),
        fingerprint=fingerprint_of(certificate),
        not_before=timestamp(not_before_us),
        not_after=timestamp(not_after_us),
        renews_at=optional_timestamp(renews_at_us),
    )


def _circuit(circuit: CircuitSnapshot, now_us: int) -> pb.CircuitStatus:
    opened_ago_s, retry_in_s = circuit.opened_ago_s, circuit.retry_in_s
    return pb.CircuitStatus(
        state=_CIRCUIT[circuit.state],
        consecutive_failures=circuit.consecutive_failures,
        opened_at=None if opened_ago_s is None else timestamp(now_us - round(opened_ago_s * MICROSECONDS)),
        retry_at=None if retry_in_s is None else timestamp(now_us + round(retry_in_s * MICROSECONDS)),
    )


def _failure(failure: CallFailure | None) -> pb.CallFailure | None:
    if failure is None:
        return None
    return pb.CallFailure(
        at=timestamp(failure.at_us), code=failure.code, reason=failure.reason, message=failure.message
    )


def _cache(cache: Partition[Any]) -> pb.CacheStatus:
    stats = cache.stats()
    return pb.CacheStatus(entries=stats.entries, bytes=stats.bytes, hits=stats.hits, misses=stats.misses)


def _latency(health: PeerHealth) -> pb.LatencyStatus | None:
    latency = health.latency()
    return None if latency is None else pb.LatencyStatus(p50_ms=latency.p50_ms, p99_ms=latency.p99_ms)


def _revocation(revocation: Revocation | None) -> pb.PeerRevocation | None:
    return None if revocation is None else pb.PeerRevocation(at=timestamp(revocation.at_us), reason=revocation.reason)
