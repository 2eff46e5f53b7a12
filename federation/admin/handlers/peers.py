"""The operator's acts on peers: what this gateway may read elsewhere."""

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

from federation.admin.context import AdminContext
from federation.admin.lookup import find_peer, require_user
from federation.admin.messages.peers import peer_message
from federation.admin.pagination import page_of
from federation.client.interceptors.breaking import report
from federation.client.peers.peer import Peer
from federation.enrollment.enroll import EnrolledPeer, enroll
from federation.errors import ConflictError, FederationError, NotFoundError, Refusal
from federation.pki.enrollment_token import EnrollmentToken
from federation.v1 import admin_pb2 as pb

__all__ = ["PeerDesk"]

T = TypeVar("T")
ARMING_S: Final = 1.0
"""How long an enrollment waits for the watch to stand; without it everything works, if less promptly."""


class PeerDesk:
    """Enrolls at other gateways, shows peers and forgets them, and records each act in the audit trail.

    An act that has begun goes on to its end when its caller leaves, so that memory and database agree.
    """

    def __init__(self, parts: AdminContext) -> None:
        self._parts = parts
        self._under_way: set[asyncio.Task[Any]] = set()

    async def add(self, request: pb.AddPeerRequest) -> pb.AddPeerResponse:
        """Redeem a token for a local user. Raises what `enroll` raises, and `NotFoundError` for the user."""
        token = EnrollmentToken.decode(request.token)
        await require_user(self._parts, request.user)
        enrolled, peer = await self._to_the_end(self._enroll(token, request.user, request.name))
        return pb.AddPeerResponse(peer=self._message(peer), awaiting_confirmation=enrolled.awaiting_confirmation)

    async def get(self, request: pb.GetPeerRequest) -> pb.GetPeerResponse:
        """Return one peer, also by the beginning of its name. Raises what `find_peer` raises."""
        return pb.GetPeerResponse(
            peer=self._message(find_peer(self._parts.federation.peers, request.name, request.user))
        )

    async def list(self, request: pb.ListPeersRequest) -> pb.ListPeersResponse:
        """Return peers that pass every filter, by name and user.

        Raises `NotFoundError` with near matches for a user that nothing is known of.
        """
        peers = self._parts.federation.peers.all(request.user or None)
        if request.user and not peers:
            await require_user(self._parts, request.user)
        wanted = [peer for peer in peers if not request.state or self._message(peer).state == request.state]
        page, token = page_of(wanted, lambda peer: (peer.name, peer.user), request)
        return pb.ListPeersResponse(peers=map(self._message, page), next_page_token=token)

    async def remove(self, request: pb.RemovePeerRequest) -> pb.RemovePeerResponse:
        """Forget a peer, its key and everything that was cached from it; return it as it was."""
        peer = self._parts.federation.peers.get(request.name, request.user or None)
        was = self._message(peer)
        await self._to_the_end(self._remove(peer))
        return pb.RemovePeerResponse(peer=was)

    async def rotate(self, request: pb.RotatePeerRequest) -> pb.RotatePeerResponse:
        """Replace a peer's certificate now. Raises what `Federation.rotate` raises."""
        peer = self._parts.federation.peers.get(request.name, request.user or None)
        await self._to_the_end(self._rotate(peer))
        return pb.RotatePeerResponse(peer=self._message(peer))

    async def reset(self, request: pb.ResetCircuitRequest) -> pb.ResetCircuitResponse:
        """Close a peer's circuit by hand, and have the next call dial at once, whatever gRPC waits for."""
        peer = self._parts.federation.peers.get(request.name, request.user or None)
        if peer.circuit is None:
            raise ConflictError(f"no circuit is kept for {peer.name}; it is switched off")
        transition = peer.circuit.reset()
        if transition is not None:
            report(transition, peer.name, peer.user, self._parts.metrics)
        peer.channel.disconnect()
        if peer.watch is not None:
            peer.watch.wake()
        self._record("peer.reset", peer)
        return pb.ResetCircuitResponse(peer=self._message(peer))

    def messages(self, name: str = "") -> Sequence[pb.PeerStatus]:
        """Return every peer, or those of one name, for the status. Raises `NotFoundError` with near matches."""
        peers = self._parts.federation.peers
        if name and all(peer.name != name for peer in peers.all()):
            peers.get(name)
        return [self._message(peer) for peer in peers.all() if name in {"", peer.name}]

    async def close(self) -> None:
        """Wait for the acts under way."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _enroll(self, token: EnrollmentToken, user: str, name: str) -> tuple[EnrolledPeer, Peer]:
        parts = self._parts
        try:
            enrolled = await enroll(
                token,
                gateway_name=parts.config.name,
                user=user,
                name=name,
                peers=parts.peer_store,
                clock=parts.clock,
            )
        except FederationError as e:
            parts.audit.record_act(
                "peer.add", "error", peer=name or token.gateway, subject=user, source="admin", reason=type(e).__name__
            )
            raise
        peer = parts.federation.peers.add(enrolled.record)
        self._record("peer.add", peer)
        if peer.watch is not None:  # arming drops what was fetched before it, which would puzzle whoever asks at once
            await peer.watch.first_attempt_done(ARMING_S)
        return enrolled, peer

    async def _rotate(self, peer: Peer) -> None:
        try:
            await self._parts.federation.rotate(peer.name, peer.user)
        except FederationError as e:
            self._parts.audit.record_act(
                "peer.rotate",
                "error",
                grant_id=peer.grant_id,
                peer=peer.name,
                subject=peer.user,
                source="admin",
                reason=e.reason.value if isinstance(e, Refusal) else type(e).__name__,
            )
            raise
        self._record("peer.rotate", peer)

    async def _remove(self, peer: Peer) -> None:
        await self._parts.peer_store.remove(peer.record.id)
        with contextlib.suppress(NotFoundError):  # whoever follows the store has seen it before
            self._parts.federation.peers.remove(peer.name, peer.user)
        self._record("peer.remove", peer)

    async def _to_the_end(self, act: Coroutine[Any, Any, T]) -> T:
        task = asyncio.create_task(act)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    def _message(self, peer: Peer) -> pb.PeerStatus:
        return peer_message(peer, self._parts.clock)

    def _record(self, verb: str, peer: Peer) -> None:
        self._parts.audit.record_act(verb, grant_id=peer.grant_id, peer=peer.name, subject=peer.user, source="admin")
