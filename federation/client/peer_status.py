"""The status of a peer in one value: for programs, and for the operator's `status`."""

from dataclasses import dataclass
from enum import StrEnum

from federation.breaker import CircuitSnapshot, CircuitState
from federation.client.chain.call_stats import CallFailure
from federation.client.peers.peer import Peer, Revocation
from federation.client.peers.watch_handle import WatchState
from federation.client.renewer import validity_of
from federation.clock import Clock


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
    circuit: CircuitSnapshot
    last_success_us: int | None
    seen_us: int | None
    """The last sign of life: an answer, or a message on the watch."""
    last_failure: CallFailure | None


def status_of(peer: Peer, clock: Clock) -> PeerStatus:
    """Return the current status of a peer."""
    watching = peer.watch.status if peer.watch is not None else None
    circuit = peer.circuit.snapshot(clock.monotonic())
    return PeerStatus(
        name=peer.name,
        user=peer.user,
        grant_id=peer.grant_id,
        state=state_of(peer, circuit, clock.now_us()),
        revocation=peer.revocation,
        watch=watching.state if watching else WatchState.OFF,
        watch_since_us=watching.since_us if watching else None,
        circuit=circuit,
        last_success_us=peer.health.last_success_us,
        seen_us=peer.health.seen_us,
        last_failure=peer.health.last_failure,
    )


def state_of(peer: Peer, circuit: CircuitSnapshot, now_us: int) -> PeerState:
    """Return the state of a peer, given the present snapshot of its circuit."""
    if peer.revocation is not None:
        return PeerState.REVOKED
    if validity_of(peer.record.certificate_pem).not_after_us <= now_us:
        return PeerState.EXPIRED
    if circuit.state is not CircuitState.CLOSED:
        return PeerState.OFFLINE
    renewal = peer.renewal
    return PeerState.DEGRADED if renewal is not None and renewal.degraded else PeerState.ACTIVE
