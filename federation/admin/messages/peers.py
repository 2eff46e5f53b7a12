"""The status of one peer as a message: its state, certificate, circuit, cache, watch and renewal."""

from typing import Any, Final

from federation.admin.messages.common import certificate_message
from federation.breaker import CircuitState
from federation.client.chain.call_stats import CallFailure
from federation.client.peer_status import PeerState, PeerStatus, status_of
from federation.client.peers.peer import Peer
from federation.client.renewer import plan_of
from federation.clock import MICROSECONDS, Clock
from federation.pki.certificates import fingerprint_of, parsed, serial_of, validity_us
from federation.pki.rotation_policy import Validity, due_at_us
from federation.v1 import admin_pb2 as pb
from federation.wire.timestamps import timestamp

_CIRCUIT: Final = {
    CircuitState.CLOSED: pb.CIRCUIT_STATE_CLOSED,
    CircuitState.OPEN: pb.CIRCUIT_STATE_OPEN,
    CircuitState.HALF_OPEN: pb.CIRCUIT_STATE_HALF_OPEN,
}

_STATE: Final = {
    PeerState.ACTIVE: pb.PEER_STATE_ACTIVE,
    PeerState.OFFLINE: pb.PEER_STATE_OFFLINE,
    PeerState.DEGRADED: pb.PEER_STATE_DEGRADED,
    PeerState.REVOKED: pb.PEER_STATE_REVOKED,
    PeerState.EXPIRED: pb.PEER_STATE_EXPIRED,
}


def peer_message(peer: Peer, clock: Clock) -> pb.PeerStatus:
    """Return the current status of a peer. Fields of an interceptor that is switched off stay absent."""
    certificate = own_certificate(peer.record.certificate_pem)
    message = pb.PeerStatus(
        name=peer.name,
        endpoint=peer.record.endpoint,
        user=peer.user,
        grant_id=peer.grant_id,
        certificate=certificate,
    )
    _add_health(message, peer.health)
    _add_circuit(message, peer.circuit, clock)
    _add_cache(message, peer.cache)
    _add_renewal(message, peer, clock)
    _add_status(message, status_of(peer, clock))
    return message


def _add_status(message: pb.PeerStatus, status: PeerStatus) -> None:
    message.state = _STATE[status.state]
    message.watch.state = status.watch.value
    if status.watch_since_us is not None:
        message.watch.since.CopyFrom(timestamp(status.watch_since_us))
    if (revocation := status.revocation) is not None:
        message.revocation.CopyFrom(pb.PeerRevocation(at=timestamp(revocation.at_us), reason=revocation.reason))


def own_certificate(pem: str) -> pb.CertificateInfo:
    """Return a certificate that this gateway holds and renews."""
    try:
        certificate = parsed(pem)
    except ValueError:  # a corrupt record: the peer is shown as expired
        return pb.CertificateInfo()
    validity = Validity(*validity_us(certificate), fingerprint_of(certificate))
    return certificate_message(
        serial_of(certificate), validity.name, (validity.not_before_us, validity.not_after_us), due_at_us(validity)
    )


def _add_renewal(message: pb.PeerStatus, peer: Peer, clock: Clock) -> None:
    plan = plan_of(peer)
    message.renewal.consecutive_failures = plan.failures
    if (failure := plan.last_failure) is not None:
        message.renewal.last_failure.CopyFrom(_failure(failure))
    at_us = None if peer.revocation is not None else plan.next_at_us(clock.now_us())
    message.certificate.ClearField("renews_at")
    if at_us is not None:
        message.renewal.next_at.CopyFrom(timestamp(at_us))
        message.certificate.renews_at.CopyFrom(timestamp(at_us))


def _failure(failure: CallFailure) -> pb.CallFailure:
    return pb.CallFailure(
        at=timestamp(failure.at_us), code=failure.code, reason=failure.reason, message=failure.message
    )


def _add_health(message: pb.PeerStatus, health: Any) -> None:
    if health is None:
        return
    if health.last_success_us is not None:
        message.last_success.CopyFrom(timestamp(health.last_success_us))
    if health.seen_us is not None:
        message.seen_at.CopyFrom(timestamp(health.seen_us))
    if (failure := health.last_failure) is not None:
        message.last_failure.CopyFrom(_failure(failure))
    if (latency := health.latency()) is not None:
        message.latency.CopyFrom(pb.LatencyStatus(p50_ms=latency.p50_ms, p99_ms=latency.p99_ms))


def _add_circuit(message: pb.PeerStatus, circuit: Any, clock: Clock) -> None:
    if circuit is None:
        return
    snapshot, now_us = circuit.snapshot(clock.monotonic()), clock.now_us()
    message.circuit.state = _CIRCUIT[snapshot.state]
    message.circuit.consecutive_failures = snapshot.consecutive_failures
    if snapshot.opened_ago_s is not None:
        message.circuit.opened_at.CopyFrom(timestamp(now_us - round(snapshot.opened_ago_s * MICROSECONDS)))
    if snapshot.retry_in_s is not None:
        message.circuit.retry_at.CopyFrom(timestamp(now_us + round(snapshot.retry_in_s * MICROSECONDS)))


def _add_cache(message: pb.PeerStatus, cache: Any) -> None:
    if cache is None:
        return
    stats = cache.stats()
    message.cache.CopyFrom(
        pb.CacheStatus(entries=stats.entries, bytes=stats.bytes, hits=stats.hits, misses=stats.misses)
    )
