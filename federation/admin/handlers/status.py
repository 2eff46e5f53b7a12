"""Handlers of `Status` and `WatchStatus`: this gateway, its peers and its grants, once or as a stream of snapshots."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from federation.admin.context import AdminContext
from federation.admin.lookup import require_user
from federation.admin.messages.peers import own_certificate, peer_message
from federation.admin.status_warnings import status_warnings
from federation.client.peer_status import state_of
from federation.client.peers.peer import Peer
from federation.errors import NotFoundError, unknown_peer
from federation.pki.rotation_policy import due_at_us
from federation.store.grants.model import Grant
from federation.suggest import near_matches
from federation.v1 import admin_pb2 as pb
from federation.wire.timestamps import optional_timestamp, timestamp

CHUNK: Final = 32
"""Peers or grants that are processed before control returns to the event loop."""
INTERVAL_S: Final = 1.0
MIN_INTERVAL_S: Final = 0.1
POLL_S: Final = 0.1
"""Interval in seconds at which a stream checks for a change."""
MIN_PAUSE_RATIO: Final = 20
"""Minimum ratio of a pause to the preceding check, so that checks use at most 1/20 of the time."""


class StatusHandlers:
    """Answers status requests. `close` ends the streams; a stream opened later ends after one message."""

    def __init__(self, context: AdminContext) -> None:
        self._context = context
        self._stopping = asyncio.Event()

    async def status(self, request: pb.StatusRequest) -> pb.StatusResponse:
        """Return the current status, limited to one gateway by `peer` and to one local user by `user`.

        Raises `NotFoundError` with near matches for an unknown peer or user.
        """
        peers, grants = await self._select(request.peer, request.user)
        response = pb.StatusResponse(gateway=self._gateway())
        for index, peer in enumerate(peers):
            await _yield_to_loop(index)
            response.peers.append(peer_message(peer, self._context.clock))
        for index, grant in enumerate(grants):
            await _yield_to_loop(index)
            response.grants.append(self._context.grant_info(grant))
        if not request.peer:
            response.warnings.extend(status_warnings(self._context))
            response.serving.CopyFrom(self._serving())
        response.gateway.now.CopyFrom(timestamp(self._context.clock.now_us()))
        return response

    async def watch(self, request: pb.WatchStatusRequest) -> AsyncIterator[pb.WatchStatusResponse]:
        """Yield the status at once, after each interval, and soon after a change, until the gateway stops."""
        interval_s = max(request.interval_ms / 1_000, MIN_INTERVAL_S) if request.interval_ms else INTERVAL_S
        selection, loop = pb.StatusRequest(peer=request.peer, user=request.user), asyncio.get_running_loop()
        while True:
            started, fingerprint = loop.time(), await self._fingerprint(selection)
            yield pb.WatchStatusResponse(status=await self.status(selection))
            took_s = loop.time() - started
            if await self._wait_for_change(selection, fingerprint, max(interval_s, took_s * MIN_PAUSE_RATIO)):
                return

    def close(self) -> None:
        """End every stream."""
        self._stopping.set()

    async def _wait_for_change(
        self, selection: pb.StatusRequest, fingerprint: Sequence[Any], interval_s: float
    ) -> bool:
        """Wait for a change for at most `interval_s`. Returns whether the gateway is stopping."""
        loop = asyncio.get_running_loop()
        until, poll_s = loop.time() + interval_s, POLL_S
        while (left_s := until - loop.time()) > 0:
            try:
                async with asyncio.timeout(min(poll_s, left_s)):
                    await self._stopping.wait()
            except TimeoutError:
                started = loop.time()
                if await self._fingerprint(selection) != fingerprint:
                    break
                poll_s = max(POLL_S, (loop.time() - started) * MIN_PAUSE_RATIO)
            else:
                break
        return self._stopping.is_set()

    async def _select(self, name: str, user: str) -> tuple[list[Peer], list[Grant]]:
        peers = [one for one in self._context.federation.peers.all() if name in {"", one.name}]
        grants = [one for one in self._context.grants.all() if name in {"", one.peer}]
        if name and not peers and not grants:
            known = {peer.name for peer in self._context.federation.peers.all()}
            known.update(grant.peer for grant in self._context.grants.all())
            raise unknown_peer(name, near_matches(name, known))
        if user:
            peers, grants = [one for one in peers if one.user == user], [one for one in grants if one.subject == user]
            if not peers and not grants:
                await require_user(self._context, user)
        return peers, sorted(grants, key=lambda grant: (grant.peer, grant.subject, grant.id))

    async def _fingerprint(self, selection: pb.StatusRequest) -> list[Any]:
        """Return a value that changes with every change of state, but not with the counters of calls."""
        try:
            peers, grants = await self._select(selection.peer, selection.user)
        except NotFoundError:
            return []
        now_us, subscriptions = self._context.clock.now_us(), self._context.coordinator.subscriptions
        fingerprint: list[Any] = []
        for index, peer in enumerate(peers):
            await _yield_to_loop(index)
            fingerprint.append(self._peer_fingerprint(peer, now_us))
        for index, grant in enumerate(grants):
            await _yield_to_loop(index)
            fingerprint.append((grant.id, grant.status_at(now_us), grant.scope, subscriptions.count(grant.id)))
        return fingerprint

    def _peer_fingerprint(self, peer: Peer, now_us: int) -> tuple[Any, ...]:
        circuit = peer.circuit.snapshot(self._context.clock.monotonic())
        return (
            peer.record.id,
            peer.record.certificate_pem,
            state_of(peer, circuit, now_us),
            (circuit.state, circuit.consecutive_failures),
            peer.watch and peer.watch.status,
            peer.renewal and peer.renewal.failures,
            peer.health.seen_us is None,
        )

    def _gateway(self) -> pb.GatewayInfo:
        context, certificate = self._context, self._context.server_certificate
        federation, enrollment = context.addresses()
        return pb.GatewayInfo(
            name=context.config.name,
            version=context.version,
            started_at=timestamp(context.started_at_us),
            federation_address=federation,
            enrollment_address=enrollment,
            server_certificate=own_certificate(
                certificate.authority.server_certificate_pem, due_at_us(certificate.validity)
            ),
        )

    def _serving(self) -> pb.ServingStatus:
        coordinator, audit = self._context.coordinator, self._context.audit
        totals = coordinator.counters.totals()
        return pb.ServingStatus(
            watches=sum(map(coordinator.subscriptions.count, coordinator.subscriptions.grants)),
            leases=coordinator.leases.total,
            requests=[
                pb.RequestCount(verb=verb, outcome=outcome, count=count)
                for (verb, outcome), count in totals.requests.items()
            ],
            last_request_at=optional_timestamp(totals.last_request_us),
            audit_dropped=audit.dropped,
        )


async def _yield_to_loop(index: int) -> None:
    if index % CHUNK == CHUNK - 1:
        await asyncio.sleep(0)
