"""The public Python API: a gateway's peers behind generated stubs."""

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from weakref import WeakSet

import grpc

from federation.client.aio.channel import AioChannel
from federation.client.aio.interceptors import aio_interceptors
from federation.client.chain.outcomes import closed
from federation.client.peer_status import PeerStatus, status_of
from federation.client.peers.peer import Peer
from federation.client.peers.registry import PeerRegistry
from federation.client.peers.store import PeerRepository, PeerSource
from federation.client.renewer import OnRenewal
from federation.client.runtime import ClientRuntime
from federation.client.sync.channel import SyncChannel
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
from federation.store.peers import PeerStore
from federation.telemetry.telemetry import Telemetry, ambient_telemetry
from federation.v1.federation_pb2_grpc import FederationServiceStub
from federation.wire.rows import fields

if TYPE_CHECKING:
    from federation.resources.provider import ResourceProvider
    from federation.v1.federation_pb2_grpc import FederationServiceAsyncStub

__all__ = ["Federation", "fields", "sync_channel"]

SESSION_TOKENS: Final = "session page tokens"


class Federation:
    """The peers of one gateway, for asyncio programs.

    ```python
    async with Federation.open("home/") as fed:
        stub = fed.stub("work.example", user="ada")
        reply = await stub.List(pb.ListRequest(resource="tasks"))
    ```

    The federations and sync channels of one directory share cache, circuits, connections and watches within a process.
    After a fork, the child must open a federation of its own. An open federation receives revocations and changes from
    each peer on one watch stream. The watch streams and the renewal of certificates run in one background thread for
    all federations of a directory.
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
        """Create a federation that is not open yet.

        Without `peer_store`, the peers come from the gateway's database. Sessions read `provider` as `local`; without
        it, they read the rows of the gateway's database, which is opened on the first such read. Without `telemetry`,
        spans and metrics go to the program's global OpenTelemetry providers. `on_renewal` is called in the event loop
        with the result of each scheduled renewal.
        """
        self.config, self.clock = config, clock
        self._source = peer_store or PeerRepository(config)
        self._telemetry = telemetry or ambient_telemetry()
        self._runtime: ClientRuntime | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unsubscribe: Callable[[], None] = lambda: None
        self._channels: WeakSet[AioChannel] = WeakSet()
        self._provider, self._on_renewal = provider, on_renewal
        self._database: Database | None = None
        self._opening: asyncio.Task[ResourceProvider] | None = None
        self._session_context: SessionContext | None = None
        self._sessions: WeakSet[Session] = WeakSet()

    @classmethod
    def open(cls, directory: Path | str) -> Self:
        """Return the federation of a gateway's directory, for use with `async with`. Raises `ConfigError`."""
        return cls(GatewayConfig.load(Path(directory)))

    async def start(self) -> Self:
        """Load the peers and start the watches; `async with` calls it. Raises `StoreError` or `SealError`."""
        if self._runtime is None:
            runtime = ClientRuntime.share(self.config, self.clock, self._telemetry)
            try:
                if not runtime.loaded:
                    runtime.peers.load(await self._source.all())
                    runtime.loaded = True
            except BaseException:
                if runtime.release():
                    runtime.close()
                raise
            self._runtime = runtime
            self._loop = asyncio.get_running_loop()
            if not isinstance(self._source, PeerRepository):
                runtime.store.add_store(self._loop, self._source)
            runtime.watches.watch_all()
            if self._on_renewal is not None:
                self._unsubscribe = runtime.listen_to_renewals(self._loop, self._on_renewal)
            if self._is_stored():
                runtime.start_renewer()
        return self

    async def close(self, grace: float | None = None) -> None:
        """Wait up to `grace` seconds for running calls, cancel the rest and close what is not shared."""
        runtime, self._runtime = self._runtime, None
        if runtime is None:
            return
        try:
            await self._close_sessions()
            await asyncio.gather(*(channel.close(grace) for channel in list(self._channels)))
        finally:
            await self._release(runtime)

    async def _release(self, runtime: ClientRuntime) -> None:
        for peer in runtime.peers.all():
            peer.fail_calls(closed(), owner=self)
        last = runtime.release()
        if last:
            await runtime.stop_background()  # before the store is removed, which the renewer uses until then
        if self._loop is not None:
            await runtime.store.remove_store(self._loop, self._source)
        self._unsubscribe()
        loop = asyncio.get_running_loop()
        for peer in runtime.peers.all():
            if last:
                peer.channel.disconnect()
            else:
                peer.channel.disconnect_loop(loop)
            await peer.channel.wait_closed()
        if last:
            runtime.close()
            for peer in runtime.peers.all():
                await peer.channel.wait_closed()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def peers(self) -> PeerRegistry:
        """The peers by name and local user, with circuit, cache statistics and health."""
        return self._opened().peers

    @property
    def instance_id(self) -> str:
        """The random id that identifies this process's response cache to peers (`mosaic-instance`)."""
        return self._opened().cache.instance_id

    async def refresh(self) -> None:
        """Reload the peers, which another process may have added, removed or re-enrolled."""
        self._opened().peers.load(await self._source.all())

    def peer(self, name: str, user: str | None = None) -> Peer:
        """Return one peer; `user` is optional if only one user is enrolled at it.

        Raises `NotFoundError` with similar names. A peer added by another process is found only after `refresh`.
        """
        return self._opened().peers.get(name, user)

    async def rotate(self, peer: str, user: str | None = None) -> Peer:
        """Renew the certificate for a peer now, with a new key and without failing a call. Returns the peer.

        Raises `NotFoundError`; `Refusal` with the peer's reason, or with a local one if the peer is unreachable;
        `EnrollmentError` if the response fails verification; `LockedError` if another process is renewing.
        """
        found = self.peer(peer, user)
        runtime = self._opened()
        if runtime.renewer is None or not self._is_stored():
            raise FederationError("this federation's peers are not in a store, so their certificates cannot be renewed")
        await asyncio.wrap_future(runtime.background.submit(runtime.renewer.rotate(found)))
        return found

    def peer_state(self, name: str, user: str | None = None) -> PeerStatus:
        """Return the status of a peer: its state, watch, circuit and last calls.

        Raises `NotFoundError` with similar names.
        """
        return status_of(self.peer(name, user), self._opened().clock)

    async def armed(self, timeout_s: float = 5.0) -> bool:
        """Wait until the watch of every peer is armed or its first attempt has failed. Returns whether all are armed.

        Arming a watch flushes answers fetched before it, so call this first if a program relies on early cache hits.
        """
        watches = [peer.watch for peer in self.peers.all() if peer.watch is not None]
        return all(await asyncio.gather(*(watch.first_attempt_done(timeout_s) for watch in watches)))

    def channel(self, peer: str, user: str | None = None) -> AioChannel:
        """Return a `grpc.aio` channel to a peer through the client chain. Raises `NotFoundError`."""
        return self._channel_to(self._opened().peers.get(peer, user))

    def stub(self, peer: str, user: str | None = None) -> "FederationServiceAsyncStub":
        """Return the generated stub for a peer on a channel through the client chain. Raises `NotFoundError`."""
        return FederationServiceStub(self.channel(peer, user))

    def session(
        self,
        user: str,
        *,
        config: SessionConfig | None = None,
        on_signal: Callable[[PeerSignal], object] | None = None,
    ) -> Session:
        """Return a session of one of the gateway's users; close it, or use it with `async with`.

        `config` replaces the gateway's `[session]` settings. `on_signal` is called in the event loop with each signal.
        """
        self._opened()
        if self._session_context is None:
            self._session_context = self._new_session_context()
        session = Session(self._session_context, user, config or self.config.session, on_signal)
        self._sessions.add(session)
        return session

    def interceptors(self, peer: str, user: str | None = None) -> list[grpc.aio.ClientInterceptor]:
        """Return the chain as interceptors for a `grpc.aio` channel; see `federation.client.aio.interceptors`."""
        runtime = self._opened()
        deadline_s = runtime.config.client.deadline_s
        return aio_interceptors(runtime.peers.get(peer, user), clock=runtime.clock, deadline_s=deadline_s, owner=self)

    def sync_interceptors(self, peer: str, user: str | None = None) -> list[Any]:
        """Return the chain as interceptors for `grpc.intercept_channel`; see `federation.client.sync.interceptors`."""
        runtime = self._opened()
        deadline_s = runtime.config.client.deadline_s
        return sync_interceptors(runtime.peers.get(peer, user), clock=runtime.clock, deadline_s=deadline_s, owner=self)

    def _channel_to(self, peer: Peer) -> AioChannel:
        runtime = self._opened()
        channel = AioChannel(peer, clock=runtime.clock, deadline_s=runtime.config.client.deadline_s)
        self._channels.add(channel)
        return channel

    def _new_session_context(self) -> SessionContext:
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
        return await asyncio.shield(self._opening)  # cancelling one waiter must not leave the database half open

    async def _open_own_data(self) -> "ResourceProvider":
        from federation.resources.sql.provider import SqlProvider  # noqa: PLC0415 - not needed to call peers only

        try:
            self._database = await Database.open(self.config.database_url, new=False)
            self._provider = SqlProvider(self._database, self.clock)
        finally:
            self._opening = None
        return self._provider

    async def _close_sessions(self) -> None:
        for session in list(self._sessions):
            await session.close()
        context, self._session_context = self._session_context, None
        if context is not None:
            context.probes.close()
        if self._opening is not None:
            await asyncio.gather(self._opening, return_exceptions=True)
        database, self._database = self._database, None
        if database is not None:
            self._provider = None
            await database.close()

    def _is_stored(self) -> bool:
        """Tell whether the peers come from the gateway's database, not from the program."""
        return isinstance(self._source, PeerStore | PeerRepository)

    def _opened(self) -> ClientRuntime:
        if self._runtime is None:
            raise FederationError("the federation is not open; open it with `async with`")
        return self._runtime


def sync_channel(directory: Path | str, peer: str, user: str | None = None) -> SyncChannel:
    """Return a `grpc.Channel` to a peer through the client chain, for threads. Close it, or use it with `with`.

    The channel shares cache, circuits and connections with this process's federations of the same directory. Raises
    `ConfigError`, `StoreError`, `SealError`, or `NotFoundError` with similar names.
    """
    config = GatewayConfig.load(Path(directory))
    runtime = ClientRuntime.share(config, SYSTEM_CLOCK, ambient_telemetry())

    def release() -> None:
        if runtime.release():
            runtime.close()

    try:
        found = _find_peer(runtime, peer, user)
        runtime.watches.watch_peer(found)
        runtime.start_renewer()
        deadline_s = runtime.config.client.deadline_s
        return SyncChannel(found, clock=runtime.clock, deadline_s=deadline_s, on_close=release)
    except BaseException:
        release()
        raise


def _find_peer(runtime: ClientRuntime, name: str, user: str | None) -> Peer:
    """Return a peer; loads the peers from the store if they are not loaded yet or the peer is unknown."""
    if runtime.loaded:
        try:
            return runtime.peers.get(name, user)
        except NotFoundError:  # another process may have added it
            pass
    # Not `runtime.store`: an open store may belong to the loop of this thread, which blocks here.
    stored = PeerRepository(runtime.config)
    runtime.peers.load(runtime.background.submit(stored.all()).result())
    runtime.loaded = True
    return runtime.peers.get(name, user)
