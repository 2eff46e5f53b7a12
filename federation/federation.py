"""The face of the package for programs: a gateway's peers, behind generated stubs."""

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, Self
from weakref import WeakSet

import grpc

from federation.client.aio.channel import AioChannel
from federation.client.aio.interceptors import aio_interceptors
from federation.client.chain.outcomes import closed
from federation.client.peer_status import PeerStatus, status_of
from federation.client.peers.peer import Peer
from federation.client.peers.registry import PeerRegistry
from federation.client.peers.store import PeerRepository
from federation.client.renewer import OnRenewal
from federation.client.runtime import ClientRuntime
from federation.client.sync.channel import SyncChannel
from federation.client.sync.drivers import Wire
from federation.client.sync.interceptors import sync_interceptors
from federation.clock import SYSTEM_CLOCK, Clock
from federation.config import GatewayConfig, SessionConfig
from federation.errors import FederationError, NotFoundError
from federation.pki.sealing import Sealer
from federation.session.context import SessionContext
from federation.session.local import LocalData
from federation.session.session import Session
from federation.session.signals import PeerSignal
from federation.store.database import Database
from federation.store.peers import PeerRecord, PeerStore
from federation.telemetry.telemetry import Telemetry, ambient_telemetry
from federation.v1.federation_pb2_grpc import FederationServiceStub
from federation.wire.rows import fields

if TYPE_CHECKING:
    from federation.resources.provider import ResourceProvider
    from federation.v1.federation_pb2_grpc import FederationServiceAsyncStub

__all__ = ["Federation", "fields", "sync_channel"]

SESSION_TOKENS: Final = "session page tokens"


class PeerSource(Protocol):
    """Where the enrollments of a gateway are kept; a `PeerStore` is one."""

    async def all(self) -> tuple[PeerRecord, ...]:
        """Return every peer."""
        ...

    async def revoke(self, peer_id: str, at_us: int, reason: str) -> None:
        """Remember that a peer has revoked its grant."""
        ...


class Federation:
    """The peers of one gateway, for programs that run asyncio.

    ```python
    async with Federation.open("home/") as fed:
        stub = fed.stub("work.example", user="ada")
        reply = await stub.List(pb.ListRequest(resource="tasks"))
    ```

    Federations and sync channels on one directory share cache, circuits, connections and watches within a process.
    After a fork the child must open its own. While it is open, one stream a peer brings revocations and changes. These
    streams and the renewal of certificates run in one background thread, which the federations of a directory share.
    """

    def __init__(
        self,
        config: GatewayConfig,
        peer_store: PeerSource | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
        telemetry: Telemetry | None = None,
        provider: "ResourceProvider | None" = None,
        on_renewal: OnRenewal | None = None,
    ) -> None:
        """Take settings, and for a gateway that has them open its peer store and telemetry.

        `provider` is what sessions read as `local`; without one, the rows in the gateway's database, which is opened
        for reading when a session first asks. Without `telemetry`, spans and metrics go to whatever OpenTelemetry
        providers the program has installed. `on_renewal` is called on the loop with each renewal that was due.
        """
        self.config, self.clock = config, clock
        self._source = peer_store or PeerRepository(config)
        self._telemetry = telemetry or ambient_telemetry()
        self._home: ClientRuntime | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._deafen: Callable[[], None] = lambda: None
        self._channels: WeakSet[AioChannel] = WeakSet()
        self._provider, self._on_renewal = provider, on_renewal
        self._database: Database | None = None
        self._opening: asyncio.Task[ResourceProvider] | None = None
        self._reach: SessionContext | None = None
        self._sessions: WeakSet[Session] = WeakSet()

    @classmethod
    def open(cls, directory: Path | str) -> Self:
        """Return the federation of a gateway's directory, to be entered by `async with`. Raises `ConfigError`."""
        return cls(GatewayConfig.load(Path(directory)))

    async def start(self) -> Self:
        """Read the peers. `async with` does this. Raises `StoreError` or `SealError`."""
        if self._home is None:
            home = ClientRuntime.share(self.config, self.clock, self._telemetry)
            try:
                if not home.loaded:
                    home.peers.load(await self._source.all())
                    home.loaded = True
            except BaseException:
                if home.release():
                    home.close()
                raise
            self._home = home
            self._loop = asyncio.get_running_loop()
            home.watches.watch_all(self._loop, self._source)
            if self._on_renewal is not None:
                self._deafen = home.listen_to_renewals(self._loop, self._on_renewal)
            if self._is_stored():
                home.start_renewer(PeerRepository(self.config, self.clock))
        return self

    async def close(self, grace: float | None = None) -> None:
        """Wait up to `grace` seconds for this federation's calls, end the rest, and give up what nobody else uses."""
        home, self._home = self._home, None
        if home is None:
            return
        await self._end_sessions()
        await asyncio.gather(*(channel.close(grace) for channel in list(self._channels)))
        if self._loop is not None:
            await home.watches.remove_store(self._loop, self._source)
        for peer in home.peers.all():
            peer.fail_calls(closed(), owner=self)
        last = home.release()
        if last:
            await home.stop_background()
        self._deafen()
        loop = asyncio.get_running_loop()
        for peer in home.peers.all():
            if last:
                peer.channel.disconnect()
            else:
                peer.channel.disconnect_loop(loop)
            await peer.channel.wait_closed()
        if last:
            home.close()
            for peer in home.peers.all():
                await peer.channel.wait_closed()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def peers(self) -> PeerRegistry:
        """Every peer by name and local user, with circuit, cache figures and health."""
        return self._opened().peers

    @property
    def instance_id(self) -> str:
        """The random id by which peers know this process's cache of their answers."""
        return self._opened().cache.instance_id

    async def refresh(self) -> None:
        """Read the peers again: another process may have added, removed or re-enrolled some."""
        self._opened().peers.load(await self._source.all())

    def peer(self, name: str, user: str | None = None) -> Peer:
        """Return one peer; `user` may be left out where only one is enrolled there.

        Raises `NotFoundError` with near matches. A peer that another process has just added is there after `refresh`.
        """
        return self._opened().peers.get(name, user)

    async def rotate(self, peer: str, user: str | None = None) -> Peer:
        """Replace the certificate for a peer now, on a new key, without failing a call; return the peer.

        Raises `NotFoundError`; `Refusal` with the peer's reason, or a local one where it cannot be reached;
        `EnrollmentError` for an answer that does not hold; `LockedError` while others on the directory keep at it.
        """
        found = self.peer(peer, user)
        home = self._opened()
        if home.renewer is None or not self._is_stored():
            raise FederationError("this federation's peers are not in a store, so their certificates cannot be renewed")
        await asyncio.wrap_future(home.background.submit(home.renewer.rotate(found)))
        return found

    def peer_state(self, name: str, user: str | None = None) -> PeerStatus:
        """Return how a peer stands: active, offline, degraded, revoked or expired; its watch, circuit and last calls.

        Raises `NotFoundError` with near matches.
        """
        return status_of(self.peer(name, user), self._opened().clock)

    async def armed(self, timeout_s: float = 5.0) -> bool:
        """Wait until every peer's watch stands, or has failed its first attempt; tell whether all stand.

        Arming drops what was fetched before it, so a program that counts on hits from the start waits for this.
        """
        watches = [peer.watch for peer in self.peers.all() if peer.watch is not None]
        return all(await asyncio.gather(*(watch.first_attempt_done(timeout_s) for watch in watches)))

    def channel(self, peer: str, user: str | None = None) -> AioChannel:
        """Return a channel to a peer through the chain. Raises `NotFoundError`."""
        return self._channel_to(self._opened().peers.get(peer, user))

    def stub(self, peer: str, user: str | None = None) -> "FederationServiceAsyncStub":
        """Return the generated stub over the chain to a peer. Raises `NotFoundError`."""
        return FederationServiceStub(self.channel(peer, user))

    def session(
        self,
        user: str,
        *,
        config: SessionConfig | None = None,
        on_signal: Callable[[PeerSignal], object] | None = None,
    ) -> Session:
        """Return a session of one of the gateway's users; close it, or use it by `async with`.

        `config` stands for the gateway's own `[session]`. `on_signal` is called on the loop with each signal.
        """
        self._opened()
        if self._reach is None:
            self._reach = self._new_reach()
        session = Session(self._reach, user, config or self.config.session, on_signal)
        self._sessions.add(session)
        return session

    def interceptors(self, peer: str, user: str | None = None) -> list[grpc.aio.ClientInterceptor]:
        """Return the chain as interceptors for a `grpc.aio` channel; see `federation.client.aio.interceptors`."""
        home = self._opened()
        deadline_s = home.config.client.deadline_s
        return aio_interceptors(home.peers.get(peer, user), clock=home.clock, deadline_s=deadline_s, owner=self)

    def sync_interceptors(self, peer: str, user: str | None = None) -> list[Any]:
        """Return the chain as interceptors for `grpc.intercept_channel`; see `federation.client.sync.interceptors`."""
        home = self._opened()
        found = home.peers.get(peer, user)
        wire = Wire(found.channel, home.background, home.clock.monotonic)
        return sync_interceptors(found, wire, deadline_s=home.config.client.deadline_s, owner=self)

    def _channel_to(self, peer: Peer) -> AioChannel:
        home = self._opened()
        channel = AioChannel(peer, clock=home.clock, deadline_s=home.config.client.deadline_s)
        self._channels.add(channel)
        return channel

    def _new_reach(self) -> SessionContext:
        key = (
            Sealer.load(self.config.directory).derive(SESSION_TOKENS) if self._is_stored() else secrets.token_bytes(32)
        )
        return SessionContext(
            self.config,
            self.clock,
            peers=lambda: self._opened().peers,
            dial=self._channel_to,
            local=LocalData(self._own_data, self.config.name, key),
            token_key=key,
        )

    async def _own_data(self) -> "ResourceProvider":
        if self._provider is not None:
            return self._provider
        if self._opening is None:
            self._opening = asyncio.create_task(self._open_own_data())
        return await asyncio.shield(self._opening)  # whoever stops waiting leaves no database half open

    async def _open_own_data(self) -> "ResourceProvider":
        from federation.resources.sql.provider import SqlProvider  # noqa: PLC0415 - not for those who ask peers alone

        try:
            self._database = await Database.open(self.config.database_url, new=False)
            self._provider = SqlProvider(self._database, self.clock)
        finally:
            self._opening = None
        return self._provider

    async def _end_sessions(self) -> None:
        for session in list(self._sessions):
            await session.close()
        reach, self._reach = self._reach, None
        if reach is not None:
            reach.probes.close()
        if self._opening is not None:
            await asyncio.gather(self._opening, return_exceptions=True)
        database, self._database = self._database, None
        if database is not None:
            self._provider = None
            await database.close()

    def _is_stored(self) -> bool:
        """Whether the peers are in the gateway's database, not in a list that a program made."""
        return isinstance(self._source, PeerStore | PeerRepository)

    def _opened(self) -> ClientRuntime:
        if self._home is None:
            raise FederationError("the federation is not open; enter it by `async with`")
        return self._home


def sync_channel(directory: Path | str, peer: str, user: str | None = None) -> SyncChannel:
    """Return a `grpc.Channel` to a peer through the chain, for threads. Close it, or use it by `with`.

    It shares cache, circuits and connections with every federation of this process on the directory. Raises
    `ConfigError`, `StoreError`, `SealError`, or `NotFoundError` with near matches.
    """
    config = GatewayConfig.load(Path(directory))
    home = ClientRuntime.share(config, SYSTEM_CLOCK, ambient_telemetry())

    def release() -> None:
        if home.release():
            home.close()

    try:
        stored = PeerRepository(config)
        found = _found(home, stored, peer, user)
        home.watches.watch_peer(found, stored)
        home.start_renewer(stored)
        wire = Wire(found.channel, home.background, home.clock.monotonic)
        return SyncChannel(found, wire, deadline_s=home.config.client.deadline_s, on_close=release)
    except BaseException:
        release()
        raise


def _found(home: ClientRuntime, stored: PeerRepository, name: str, user: str | None) -> Peer:
    """Return a peer, reading the store when the home has not, or does not know it."""
    if home.loaded:
        try:
            return home.peers.get(name, user)
        except NotFoundError:  # another process may have added it
            pass
    home.peers.load(home.background.submit(stored.all()).result())
    home.loaded = True
    return home.peers.get(name, user)
