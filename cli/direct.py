"""Rows imported straight into the database of a gateway that does not run."""

from contextlib import AsyncExitStack

from federation.admin.importing import IMPORT_ACT
from federation.clock import SYSTEM_CLOCK
from federation.config import GatewayConfig
from federation.resources.importing import Importer, ImportSummary
from federation.resources.sql import SqlProvider
from federation.store.audit import AuditEvent, AuditStore
from federation.store.database import Database
from federation.store.serving import ServingLock

__all__ = ["load_directly"]


async def load_directly(config: GatewayConfig, importer: Importer) -> ImportSummary:
    """Load what was read, all or nothing, holding the right to serve meanwhile. Raises what an import raises."""
    lock = ServingLock(config.directory, config.name)
    async with AsyncExitStack() as stack:
        await lock.acquire()
        stack.push_async_callback(lock.release)
        database = await Database.open(config.database_url, new=False)
        stack.push_async_callback(database.close)
        await lock.acquire_database(database)
        stack.push_async_callback(lock.release)
        summary = await importer.commit(SqlProvider(database))
        act = AuditEvent(at_us=SYSTEM_CLOCK.now_us(), verb=IMPORT_ACT, outcome="ok", source="admin")
        await AuditStore(database).insert_many([act])
    return summary
