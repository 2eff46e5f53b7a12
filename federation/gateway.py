"""A serving gateway in one process: opens its components, starts its servers and stops them in order."""

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from federation.admin.context import AdminContext
from federation.admin.server import AdminServer
from federation.aio import cancel_and_wait, run_periodically
from federation.clock import SYSTEM_CLOCK, Clock
from federation.config import GatewayConfig
from federation.enrollment.issuer import Issuer
from federation.enrollment.renewal_issuer import RenewalIssuer
from federation.enrollment.servicer import EnrollmentServicer
from federation.errors import Action, ConfigError, FederationError, LockedError, Remedy
from federation.federation import Federation
from federation.pki.authority import Authority
from federation.pki.sealing import Sealer
from federation.resources.provider import ResourceProvider
from federation.resources.sql.provider import SqlProvider
from federation.server.audit.retention import AuditRetention
from federation.server.audit.trail import AuditTrail
from federation.server.pipeline.renewal_service import RenewalService
from federation.server.pipeline.rpc_spans import RpcSpanServerInterceptor
from federation.server.pipeline.service import FederationService
from federation.server.pipeline.tracing import ServerTracing
from federation.server.revocation.coordinator import InvalidationCoordinator
from federation.server.transport.server import MAX_CALLS, GatewayServer
from federation.server.transport.server_certificate import ServerCertificate
from federation.server.watch.service import MAX_STREAMS
from federation.store.audit.archive import AuditFiles
from federation.store.audit.table import AuditStore
from federation.store.database import Database
from federation.store.enrollment_tokens import TokenStore
from federation.store.grants.registry import GrantRegistry
from federation.store.identity import load_identity, save_server_certificate
from federation.store.locks import ServingLock
from federation.store.peers import PeerStore
from federation.telemetry.setup import setup_telemetry
from federation.telemetry.telemetry import Telemetry
from federation.verbs.handlers import version

LOGGER: Final = logging.getLogger(__name__)
FLUSH_S: Final = 5.0
"""Seconds between writes of the last uses of grants."""
PAGE_TOKENS: Final = "page tokens"


class Gateway:
    """A gateway that holds the serving lock. `open` creates it, `start` serves, leaving the context stops it.

    ```python
    async with Gateway.open("work/", provider=MyRows()) as gateway:
        await gateway.start()
        await gateway.serve_forever()
    ```
    """

    def __init__(
        self, parts: AdminContext, certificate: ServerCertificate, lock: ServingLock, telemetry: Telemetry
    ) -> None:
        config = parts.config
        self.config, self.federation = config, parts.federation
        self.grants, self.provider = parts.grants, parts.provider
        self._parts, self._certificate, self._lock, self._telemetry = parts, certificate, lock, telemetry
        service = FederationService(
            gateway=config.name,
            version=parts.version,
            provider=parts.provider,
            grants=parts.grants,
            audit=parts.audit,
            page_key=parts.page_key,
            clock=parts.clock,
            tracing=ServerTracing(telemetry.spans, parts.clock, telemetry.metrics),
            leases=parts.coordinator.leases,
            max_lease_ms=parts.coordinator.max_lease_ms,
            counters=parts.coordinator.counters,
            watch=parts.coordinator.watch.serve,
        )
        enrollment = EnrollmentServicer(
            parts.issuer,
            parts.renewal_issuer,
            endpoint=lambda: config.advertised(self.federation_address),
            audit=parts.audit.record_enrollment,
        )
        renewal = RenewalService(
            parts.renewal_issuer, parts.grants, audit=parts.audit.record_enrollment, clock=parts.clock
        )
        rpc_spans = config.telemetry.enabled and config.telemetry.rpc_spans
        self._server = GatewayServer(
            listen=config.listen,
            enroll=config.enroll,
            identity=certificate.authority,
            service=service,
            enrollment=enrollment,
            services=(renewal.rpc_handler(),),
            interceptors=(RpcSpanServerInterceptor(telemetry.tracer_provider),) if rpc_spans else (),
            max_calls=MAX_CALLS + MAX_STREAMS,
        )
        self._server.before_stop.append(parts.coordinator.watch.close)
        self._admin = AdminServer(config.socket_path, parts)
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        directory: GatewayConfig | Path | str,
        *,
        provider: ResourceProvider | None = None,
        clock: Clock = SYSTEM_CLOCK,
        standby: bool = False,
        waiting: Callable[[], None] | None = None,
    ) -> AsyncIterator["Gateway"]:
        """Open the gateway in `directory` and take its serving lock.

        `provider` supplies the gateway's own data; without it, the rows of its database. With `standby`, wait while
        another process serves, and call `waiting` once. Raises `ConfigError`, `LockedError`, `SealError` or
        `StoreError`, and then leaves nothing open.
        """
        config = directory if isinstance(directory, GatewayConfig) else GatewayConfig.load(Path(directory))
        async with AsyncExitStack() as stack:
            gateway = await cls._open(stack, config, provider, clock, standby=standby, waiting=waiting)
            stack.push_async_callback(gateway.stop)
            yield gateway

    @classmethod
    async def _open(
        cls,
        stack: AsyncExitStack,
        config: GatewayConfig,
        provider: ResourceProvider | None,
        clock: Clock,
        *,
        standby: bool,
        waiting: Callable[[], None] | None,
    ) -> "Gateway":
        sealer = Sealer.load(config.directory)
        lock = ServingLock(config.directory, config.name, standby=standby, waiting=waiting)
        await lock.acquire()
        stack.push_async_callback(lock.release)
        database = await Database.open(config.database_url, new=False)
        stack.push_async_callback(database.close)
        await lock.acquire_database(database)
        stack.push_async_callback(lock.release)  # closes its connection before the database closes
        certificate = ServerCertificate(
            await _authority(database, sealer, config, clock),
            (config.advertised_host,),
            lifetime_s=config.certificates.server_lifetime_s,
            save=lambda renewed: save_server_certificate(database, sealer, renewed),
            clock=clock,
        )
        await certificate.refresh()
        authority = certificate.authority
        telemetry = setup_telemetry(config.telemetry, config.name, version())
        stack.push_async_callback(asyncio.to_thread, telemetry.shutdown)
        grants = await GrantRegistry.load(database, clock)
        stack.push_async_callback(_close_grants, grants)
        audit_store, peer_store = AuditStore(database), PeerStore(database, sealer, clock)
        audit = AuditTrail(audit_store, clock, capacity=config.server.audit_queue)
        provider = provider if provider is not None else SqlProvider(database, clock)
        federation = await stack.enter_async_context(
            Federation(
                config,
                peer_store,
                clock=clock,
                telemetry=telemetry,
                provider=provider,
                on_renewal=lambda peer, fault: audit.record_peer_act(
                    "peer.renew", peer.record, fault, source="gateway"
                ),
            )
        )
        coordinator = await InvalidationCoordinator.open(
            database,
            grants,
            provider,
            audit,
            clock=clock,
            served_from=f"{socket.gethostname()}:{config.directory.absolute()}",
            max_lease_ms=round(config.server.max_lease_s * 1_000),
        )
        if telemetry.metrics is not None:
            stack.callback(telemetry.metrics.read_leases(lambda: coordinator.leases.total))
            stack.callback(telemetry.metrics.read_audit_dropped(lambda: audit.dropped))
            stack.callback(telemetry.metrics.read_certificates(lambda: [("", certificate.remaining)]))
        gateway: Gateway
        parts = AdminContext(
            config=config,
            clock=clock,
            version=version(),
            started_at_us=clock.now_us(),
            grants=grants,
            issuer=Issuer(
                authority,
                grants,
                TokenStore(database, clock),
                certificate_lifetime_s=config.certificates.client_lifetime_s,
                token_lifetime_s=config.certificates.token_lifetime_s,
                clock=clock,
            ),
            renewal_issuer=RenewalIssuer(
                authority, grants, certificate_lifetime_s=config.certificates.client_lifetime_s, clock=clock
            ),
            server_certificate=certificate,
            provider=provider,
            coordinator=coordinator,
            audit=audit,
            audit_store=audit_store,
            federation=federation,
            peer_store=peer_store,
            metrics=telemetry.metrics,
            page_key=sealer.derive(PAGE_TOKENS),
            addresses=lambda: (gateway.federation_address, gateway.enrollment_address),
        )
        gateway = cls(parts, certificate, lock, telemetry)
        return gateway

    @property
    def federation_address(self) -> str:
        """host:port of the federation service as bound; empty before `start`."""
        return self._server.federation_address

    @property
    def enrollment_address(self) -> str:
        """host:port of the enrollment service as bound; empty before `start`."""
        return self._server.enrollment_address

    @property
    def metrics_url(self) -> str:
        """URL of the Prometheus endpoint; empty before `start` and if `telemetry.prometheus` is empty."""
        page = self._telemetry.page
        return page.url if page is not None else ""

    async def start(self) -> None:
        """Serve peers and the operator. Raises `ConfigError` or `LockedError`; leave the context then."""
        if self._telemetry.page is not None:
            await asyncio.to_thread(self._telemetry.page.start)
        self._parts.audit.start()
        self._admin.claim()
        await self._parts.coordinator.start()
        await self._server.start()
        await self._admin.start()
        self._tasks = (
            asyncio.create_task(
                run_periodically(
                    FLUSH_S,
                    self.grants.flush_uses,
                    expected=FederationError,
                    logger=LOGGER,
                    failing="the registry of grants cannot be flushed",
                )
            ),
            asyncio.create_task(self._certificate.run(self._server.tls.publish)),
            asyncio.create_task(self._retention().run()),
        )
        LOGGER.info("%s serves on %s", self.config.name, self.federation_address)
        if self.metrics_url:
            LOGGER.info("%s shows its metrics on %s", self.config.name, self.metrics_url)

    async def serve_forever(self, ready: Callable[[], None] = lambda: None) -> None:
        """Wait for SIGTERM or SIGINT, then stop. Raises `LockedError` if the serving lock was lost.

        `ready` is called once the signal handlers are installed.
        """
        loop, stop_requested = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop_requested.set)
        ready()
        waits = [asyncio.create_task(event.wait()) for event in (stop_requested, self._lock.lost)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await self.stop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        if self._lock.lost.is_set():
            raise LockedError("the database closed the connection that held the serving lock; start the gateway again")

    async def stop(self) -> None:
        """Refuse new calls, wait for running ones and write pending data. Idempotent."""
        grace_s = self.config.server.graceful_stop_s
        await self._server.stop(grace_s)
        await self._parts.coordinator.stop()
        await self._admin.stop(grace_s)
        tasks, self._tasks = self._tasks, ()
        await cancel_and_wait(*tasks)
        await self._parts.audit.stop()

    def _retention(self) -> AuditRetention:
        config, parts = self.config, self._parts
        files = AuditFiles(config.audit_directory)
        return AuditRetention(parts.audit_store, files, parts.clock, retention_days=config.audit.retention_days)


async def _authority(database: Database, sealer: Sealer, config: GatewayConfig, clock: Clock) -> Authority:
    authority = await load_identity(database, sealer, clock)
    if authority is None:
        raise ConfigError(
            "store.url",
            f"the database holds no gateway, so {config.directory} cannot be served; make a gateway",
            remedy=Remedy(action=Action.INIT_GATEWAY),
        )
    if authority.name != config.name:
        raise ConfigError(
            "name", f"the database belongs to {authority.name}; set this name in gateway.toml, or another store.url"
        )
    return authority


async def _close_grants(grants: GrantRegistry) -> None:
    try:
        await grants.close()
    except FederationError as e:
        LOGGER.warning("%s", e)
