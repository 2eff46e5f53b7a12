"""`Status` and `WatchStatus`: this gateway, its peers and its grants at one instant, and again whenever they turn."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from federation.admin.context import AdminContext
from federation.admin.lookup import require_user
from federation.admin.messages.common import stamp
from federation.admin.messages.peers import own_certificate, peer_message
from federation.admin.status_warnings import warnings_of
from federation.client.peer_status import state_of
from federation.client.peers.peer import Peer
from federation.errors import NotFoundError, unknown_peer
from federation.store.grants.registry import Grant
from federation.suggest import near_matches
from federation.v1 import admin_pb2 as pb

__all__ = ["StatusDesk"]

CHUNK: Final = 32
"""Peers or grants that are looked at before other work of the gateway has its turn."""
INTERVAL_S: Final = 1.0
LEAST_INTERVAL_S: Final = 0.1
LOOK_S: Final = 0.1
"""How often a watched gateway is looked at for a change."""
SHARE: Final = 20
"""Of the time, at most one part in so many goes into looking, and as much into telling."""


class StatusDesk:
    """Answers how things stand. `close` ends the streams; those that begin later end after one message."""

    def __init__(self, parts: AdminContext) -> None:
        self._parts = parts
        self._ending = asyncio.Event()

    async def status(self, request: pb.StatusRequest) -> pb.StatusResponse:
        """Return how things stand; with `peer` what concerns that gateway, with `user` what concerns that local user.

        Raises `NotFoundError` with near matches for a peer or user of whom nothing is known.
        """
        peers, grants = await self._chosen(request.peer, request.user)
        response = pb.StatusResponse(gateway=self._gateway())
        for at, peer in enumerate(peers):
            await _give_way(at)
            response.peers.append(peer_message(peer, self._parts.clock))
        for at, grant in enumerate(grants):
            await _give_way(at)
            response.grants.append(self._parts.grant_info(grant))
        if not request.peer:
            response.warnings.extend(warnings_of(self._parts))
            response.serving.CopyFrom(self._serving())
        response.gateway.now.CopyFrom(stamp(self._parts.clock.now_us()))  # type: ignore[arg-type]
        return response

    async def watch(self, request: pb.WatchStatusRequest) -> AsyncIterator[pb.WatchStatusResponse]:
        """Yield the status at once, after each interval, and soon after a change; end when the gateway stops."""
        interval_s = max(request.interval_ms / 1_000, LEAST_INTERVAL_S) if request.interval_ms else INTERVAL_S
        wanted, loop = pb.StatusRequest(peer=request.peer, user=request.user), asyncio.get_running_loop()
        while True:
            begun, marks = loop.time(), await self._fingerprint(wanted)
            yield pb.WatchStatusResponse(status=await self.status(wanted))
            took_s = loop.time() - begun
            if await self._stand_by(wanted, marks, max(interval_s, took_s * SHARE)):
                return

    def close(self) -> None:
        """End every stream."""
        self._ending.set()

    async def _stand_by(self, wanted: pb.StatusRequest, marks: Sequence[Any], interval_s: float) -> bool:
        """Wait for a change, but no longer than an interval; true once the gateway stops."""
        loop = asyncio.get_running_loop()
        until, look_s = loop.time() + interval_s, LOOK_S
        while (left_s := until - loop.time()) > 0:
            try:
                async with asyncio.timeout(min(look_s, left_s)):
                    await self._ending.wait()
            except TimeoutError:
                begun = loop.time()
                if await self._fingerprint(wanted) != marks:
                    break
                look_s = max(LOOK_S, (loop.time() - begun) * SHARE)
            else:
                break
        return self._ending.is_set()

    async def _chosen(self, name: str, user: str) -> tuple[list[Peer], list[Grant]]:
        peers = [one for one in self._parts.federation.peers.all() if name in {"", one.name}]
        grants = [one for one in self._parts.grants.all() if name in {"", one.peer}]
        if name and not peers and not grants:
            known = {peer.name for peer in self._parts.federation.peers.all()}
            known.update(grant.peer for grant in self._parts.grants.all())
            raise unknown_peer(name, near_matches(name, known))
        if user:
            peers, grants = [one for one in peers if one.user == user], [one for one in grants if one.subject == user]
            if not peers and not grants:
                await require_user(self._parts, user)
        return peers, sorted(grants, key=lambda grant: (grant.peer, grant.subject, grant.id))

    async def _fingerprint(self, wanted: pb.StatusRequest) -> list[Any]:
        """Return what tells a change of state; figures that change with every call are not in it."""
        try:
            peers, grants = await self._chosen(wanted.peer, wanted.user)
        except NotFoundError:
            return []
        now_us, hub = self._parts.clock.now_us(), self._parts.upkeep.hub
        marks: list[Any] = []
        for at, peer in enumerate(peers):
            await _give_way(at)
            marks.append(self._mark(peer, now_us))
        for at, grant in enumerate(grants):
            await _give_way(at)
            marks.append((grant.id, grant.status_at(now_us), grant.scope, hub.count(grant.id)))
        return marks

    def _mark(self, peer: Peer, now_us: int) -> tuple[Any, ...]:
        circuit = peer.circuit.snapshot(self._parts.clock.monotonic()) if peer.circuit is not None else None
        return (
            peer.record.id,
            peer.record.certificate_pem,
            state_of(peer, circuit, now_us),
            circuit and (circuit.state, circuit.consecutive_failures),
            peer.watch and peer.watch.status,
            peer.renewal and peer.renewal.failures,
            peer.health and peer.health.seen_us is None,
        )

    def _gateway(self) -> pb.GatewayInfo:
        parts = self._parts
        federation, enrollment = parts.addresses()
        return pb.GatewayInfo(
            name=parts.config.name,
            version=parts.version,
            started_at=stamp(parts.started_at_us),
            federation_address=federation,
            enrollment_address=enrollment,
            server_certificate=own_certificate(parts.server_certificate.authority.server_certificate_pem),
        )

    def _serving(self) -> pb.ServingStatus:
        upkeep, audit = self._parts.upkeep, self._parts.audit
        totals = upkeep.counters.totals()
        return pb.ServingStatus(
            watches=sum(map(upkeep.hub.count, upkeep.hub.grants)),
            leases=upkeep.leases.total,
            requests=[
                pb.RequestCount(verb=verb, outcome=outcome, count=count)
                for (verb, outcome), count in totals.requests.items()
            ],
            last_request_at=stamp(totals.last_request_us),
            audit_dropped=audit.dropped,
        )


async def _give_way(at: int) -> None:
    if at % CHUNK == CHUNK - 1:
        await asyncio.sleep(0)
