"""The state that the sessions of one federation share: peers, channels, local data, probes, and the token key."""

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
from federation.v1 import federation_pb2 as pb
from federation.wire.verbs import VERB_BY_NAME


class SessionContext:
    """One instance per federation. `peers` and `dial` raise `FederationError` if the federation is not open."""

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
        """Return the peers enrolled for a user. A session of the user sees no other peer."""
        return self._peers().all(user)

    def channel(self, peer: Peer) -> AioChannel:
        """Return the channel to a peer, which all sessions share."""
        key = (peer.name, peer.user)
        channel = self._channels.get(key)
        if channel is None or channel.peer is not peer:
            current = {(each.name, each.user): each for each in self._peers().all()}
            self._channels = {k: cached for k, cached in self._channels.items() if cached.peer is current.get(k)}
            channel = self._channels[key] = self._dial(peer)
        return channel

    def _probe(self, peer: Peer) -> FlowCall:
        budget_s = self.config.session.peer_budget_s
        return self.channel(peer).start(VERB_BY_NAME["capabilities"], pb.CapabilitiesRequest(), budget_s, None)
