"""What the sessions of one federation share: its peers and channels, its own data, its probes, its token key."""

from collections.abc import Callable

from federation.client.aio.call import FlowCall
from federation.client.aio.channel import AioChannel
from federation.client.peers.peer import Peer
from federation.client.peers.registry import PeerRegistry
from federation.clock import Clock
from federation.config import GatewayConfig
from federation.session.availability.probes import Probes
from federation.session.local import LocalData
from federation.session.paging.cursors import CursorTokens
from federation.session.peer_request import method_for
from federation.v1 import federation_pb2 as pb

__all__ = ["SessionContext"]


class SessionContext:
    """Made once a federation. `peers` and `dial` raise `FederationError` where it is not open."""

    def __init__(
        self,
        config: GatewayConfig,
        clock: Clock,
        *,
        peers: Callable[[], PeerRegistry],
        dial: Callable[[Peer], AioChannel],
        local: LocalData,
        token_key: bytes,
    ) -> None:
        self.config, self.clock = config, clock
        self.local, self.tokens = local, CursorTokens(token_key)
        self.probes = Probes(self._probe, clock, config.circuit.cooldown_s)
        self._peers, self._dial = peers, dial
        self._channels: dict[tuple[str, str], AioChannel] = {}

    def peers(self, user: str) -> tuple[Peer, ...]:
        """Return the peers that are enrolled for a user: a session sees no other."""
        return self._peers().all(user)

    def channel(self, peer: Peer) -> AioChannel:
        """Return the channel to a peer that all sessions use."""
        key = (peer.name, peer.user)
        channel = self._channels.get(key)
        if channel is None or channel.peer is not peer:
            known = {(each.name, each.user): each for each in self._peers().all()}
            self._channels = {k: kept for k, kept in self._channels.items() if kept.peer is known.get(k)}
            channel = self._channels[key] = self._dial(peer)
        return channel

    def _probe(self, peer: Peer) -> FlowCall:
        budget_s = self.config.session.peer_budget_s
        return self.channel(peer).start(method_for("capabilities"), pb.CapabilitiesRequest(), budget_s, None)
