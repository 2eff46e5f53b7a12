"""The status of a peer in one value: for programs, and for the operator's `status`."""

from dataclasses import dataclass
from enum import StrEnum

from federation.breaker import CircuitSnapshot, CircuitState
from federation.client.chain.call_stats import CallFailure
from federation.client.peers.peer import Peer, Revocation
from federation.client.peers.watch_handle import WatchState
from federation.clock import Clock, to_micros
from federation.pki.certificates import parsed


class PeerState(StrEnum):
    """The state of a peer. Where several apply, the first of this order counts: revoked, expired, offline, degraded."""

    ACTIVE = "active"
    OFFLINE = "offline"
    """The circuit is not closed."""
    DEGRADED = "degraded"
    """The peer works, but its certificate could not be renewed and will expire."""
    REVOKED = "revoked"
    """The peer has revoked the grant. Final."""
    EXPIRED = "expired"
    """This gateway's own certificate for the peer has expired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """A peer at one instant. `*_us` are Unix microseconds; `None` where the process does not know yet."""

    name: str
    user: str
    grant_id: str
    state: PeerState
    revocation: Revocation | None
    """When and why the peer revoked the grant, if it has."""
    watch: WatchState
    watch_since_us: int | None
    circuit: CircuitSnapshot | None
    last_success_us: int | None
    seen_us: int | None
    """The last sign of life: an answer, or a message on the watch."""
    last_failure: CallFailure | None


def status_of(peer: Peer, clock: Clock) -> PeerStatus:
    """Return the current status of a peer."""
    watch, health = peer.watch, peer.health
    watching = watch.status if watch is not None else None
    circuit = peer.circuit.snapshot(clock.monotonic()) if peer.circuit is not None else None
    return PeerStatus(
        name=peer.name,
        user=peer.user,
        grant_id=peer.grant_id,
        state=state_of(peer, circuit, clock.now_us()),
        revocation=peer.revocation,
        watch=watching.state if watching else WatchState.OFF,
        watch_since_us=watching.since_us if watching else None,
        circuit=circuit,
        last_success_us=health.last_success_us if health is not None else None,
        seen_us=health.seen_us if health is not None else None,
        last_failure=health.last_failure if health is not None else None,
    )


def state_of(peer: Peer, circuit: CircuitSnapshot | None, now_us: int) -> PeerState:
    """Return the state of a peer, given the present snapshot of its circuit."""
    if peer.revocation is not None:
        return PeerState.REVOKED
    if _not_after_us(peer.record.certificate_pem) <= now_us:
        return PeerState.EXPIRED
    if circuit is not None and circuit.state is not CircuitState.CLOSED:
        return PeerState.OFFLINE
    renewal = peer.renewal
    return PeerState.DEGRADED if renewal is not None and renewal.degraded else PeerState.ACTIVE


def _not_after_us(pem: str) -> int:
    try:
        return to_micros(parsed(pem).not_valid_after_utc)
    except ValueError:  # the store was tampered with; the peer shows as expired
        return 0
