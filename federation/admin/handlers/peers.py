"""Handlers of the RPCs on peers: enrolling, showing, renewing and removing them."""

import contextlib
from typing import Final

from federation.admin.context import AdminContext
from federation.admin.lookup import find_peer, require_user
from federation.admin.messages.peers import peer_message
from federation.admin.pagination import page_of
from federation.aio import ShieldedTasks
from federation.client.interceptors.breaking import report
from federation.client.peers.peer import Peer
from federation.enrollment.enroll import EnrolledPeer, enroll
from federation.errors import FederationError, NotFoundError
from federation.pki.enrollment_token import EnrollmentToken
from federation.v1 import admin_pb2 as pb

ARMING_TIMEOUT_S: Final = 1.0
"""Longest wait of an enrollment for the watch to be armed. Calls work without it; changes arrive later."""


class PeerHandlers:
    """Enrolls at other gateways, shows and removes peers, and records each act in the audit trail.

    An operation completes even if its caller cancels the RPC, so that memory and database agree.
    """

    def __init__(self, context: AdminContext) -> None:
        self._context = context
        self._under_way = ShieldedTasks()

    async def add(self, request: pb.AddPeerRequest) -> pb.AddPeerResponse:
        """Redeem a token for a local user. Raises what `enroll` raises, and `NotFoundError` for an unknown user."""
        token = EnrollmentToken.decode(request.token)
        await require_user(self._context, request.user)
        enrolled, peer = await self._under_way.run(self._enroll(token, request.user, request.name))
        return pb.AddPeerResponse(peer=self._message(peer), awaiting_confirmation=enrolled.awaiting_confirmation)

    async def get(self, request: pb.GetPeerRequest) -> pb.GetPeerResponse:
        """Return one peer, by its name or an unambiguous prefix. Raises what `find_peer` raises."""
        return pb.GetPeerResponse(
            peer=self._message(find_peer(self._context.federation.peers, request.name, request.user))
        )

    async def list(self, request: pb.ListPeersRequest) -> pb.ListPeersResponse:
        """Return the peers that match every filter, sorted by name and user.

        Raises `NotFoundError` with near matches for an unknown user.
        """
        peers = self._context.federation.peers.all(request.user or None)
        if request.user and not peers:
            await require_user(self._context, request.user)
        matching = [peer for peer in peers if not request.state or self._message(peer).state == request.state]
        page, token = page_of(matching, lambda peer: (peer.name, peer.user), request)
        return pb.ListPeersResponse(peers=map(self._message, page), next_page_token=token)

    async def remove(self, request: pb.RemovePeerRequest) -> pb.RemovePeerResponse:
        """Remove a peer with its key and its cached answers. Returns the peer's last status."""
        peer = self._context.federation.peers.get(request.name, request.user or None)
        before = self._message(peer)
        await self._under_way.run(self._remove(peer))
        return pb.RemovePeerResponse(peer=before)

    async def rotate(self, request: pb.RotatePeerRequest) -> pb.RotatePeerResponse:
        """Renew a peer's certificate now. Raises what `Federation.rotate` raises."""
        peer = self._context.federation.peers.get(request.name, request.user or None)
        await self._under_way.run(self._rotate(peer))
        return pb.RotatePeerResponse(peer=self._message(peer))

    async def reset(self, request: pb.ResetCircuitRequest) -> pb.ResetCircuitResponse:
        """Close a peer's circuit, and reset gRPC's connection backoff."""
        peer = self._context.federation.peers.get(request.name, request.user or None)
        transition = peer.circuit.reset()
        if transition is not None:
            report(transition, peer.name, peer.user, self._context.metrics)
        peer.channel.disconnect()
        if peer.watch is not None:
            peer.watch.wake()
        self._record("peer.reset", peer)
        return pb.ResetCircuitResponse(peer=self._message(peer))

    async def close(self) -> None:
        """Wait for operations in progress."""
        await self._under_way.join()

    async def _enroll(self, token: EnrollmentToken, user: str, name: str) -> tuple[EnrolledPeer, Peer]:
        context = self._context
        try:
            enrolled = await enroll(
                token,
                gateway_name=context.config.name,
                user=user,
                name=name,
                peers=context.peer_store,
                clock=context.clock,
            )
        except FederationError as e:
            context.audit.record_act(
                "peer.add", "error", peer=name or token.gateway, subject=user, source="admin", reason=type(e).__name__
            )
            raise
        peer = context.federation.peers.add(enrolled.record)
        self._record("peer.add", peer)
        # Arming invalidates earlier answers, so a call made before it would fill the cache in vain.
        if peer.watch is not None:
            await peer.watch.first_attempt_done(ARMING_TIMEOUT_S)
        return enrolled, peer

    async def _rotate(self, peer: Peer) -> None:
        try:
            await self._context.federation.rotate(peer.name, peer.user)
        except FederationError as e:
            self._record("peer.rotate", peer, e)
            raise
        self._record("peer.rotate", peer)

    async def _remove(self, peer: Peer) -> None:
        await self._context.peer_store.remove(peer.record.id)
        with contextlib.suppress(NotFoundError):  # a task that follows the store may have removed it
            self._context.federation.peers.remove(peer.name, peer.user)
        self._record("peer.remove", peer)

    def _message(self, peer: Peer) -> pb.PeerStatus:
        return peer_message(peer, self._context.clock)

    def _record(self, verb: str, peer: Peer, fault: FederationError | None = None) -> None:
        self._context.audit.record_peer_act(verb, peer.record, fault, source="admin")
