"""One peer as a message: its state, and everything that its chain keeps."""

from functools import lru_cache
from typing import Any, Final

from cryptography import x509

from federation.admin.messages.common import certificate_message, instant
from federation.breaker import CircuitState
from federation.client.chain.call_stats import CallFailure
from federation.client.peer_status import PeerState, PeerStatus, status_of
from federation.client.peers.peer import Peer
from federation.client.renewer import plan_of
from federation.clock import MICROSECONDS, Clock
from federation.pki.certificates import fingerprint_of, serial_of, validity_us
from federation.pki.rotation_policy import Validity, due_at_us
from federation.v1 import admin_pb2 as pb

__all__ = ["own_certificate", "peer_message"]

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
    """Return a peer as it stands now. What its chain does not keep stays absent."""
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
    _add_standing(message, status_of(peer, clock))
    return message


def _add_standing(message: pb.PeerStatus, standing: PeerStatus) -> None:
    message.state = _STATE[standing.state]
    message.watch.state = standing.watch.value
    if standing.watch_since_us is not None:
        message.watch.since.CopyFrom(instant(standing.watch_since_us))
    if (revocation := standing.revocation) is not None:
        message.revocation.CopyFrom(pb.PeerRevocation(at=instant(revocation.at_us), reason=revocation.reason))


@lru_cache(maxsize=4_096)
def own_certificate(pem: str) -> pb.CertificateInfo:
    """Return a certificate that this gateway holds, and renews by itself."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except ValueError:  # the store was tampered with; the peer shows as expired
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
        message.renewal.next_at.CopyFrom(instant(at_us))
        message.certificate.renews_at.CopyFrom(instant(at_us))


def _failure(failure: CallFailure) -> pb.CallFailure:
    return pb.CallFailure(at=instant(failure.at_us), code=failure.code, reason=failure.reason, message=failure.message)


def _add_health(message: pb.PeerStatus, health: Any) -> None:
    if health is None:
        return
    if health.last_success_us is not None:
        message.last_success.CopyFrom(instant(health.last_success_us))
    if health.seen_us is not None:
        message.seen_at.CopyFrom(instant(health.seen_us))
    if (failure := health.last_failure) is not None:
        message.last_failure.CopyFrom(_failure(failure))
    if (latency := health.latency()) is not None:
        message.latency.CopyFrom(pb.LatencyStatus(p50_ms=latency.p50_ms, p99_ms=latency.p99_ms))


def _add_circuit(message: pb.PeerStatus, circuit: Any, clock: Clock) -> None:
    if circuit is None:
        return
    seen, now_us = circuit.snapshot(clock.monotonic()), clock.now_us()
    message.circuit.state = _CIRCUIT[seen.state]
    message.circuit.consecutive_failures = seen.consecutive_failures
    if seen.opened_ago_s is not None:
        message.circuit.opened_at.CopyFrom(instant(now_us - round(seen.opened_ago_s * MICROSECONDS)))
    if seen.retry_in_s is not None:
        message.circuit.retry_at.CopyFrom(instant(now_us + round(seen.retry_in_s * MICROSECONDS)))


def _add_cache(message: pb.PeerStatus, cache: Any) -> None:
    if cache is None:
        return
    stats = cache.stats()
    message.cache.CopyFrom(
        pb.CacheStatus(entries=stats.entries, bytes=stats.bytes, hits=stats.hits, misses=stats.misses)
    )
