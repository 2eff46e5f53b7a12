"""`mosaic gateway import`: through the running gateway, or directly into its database."""

import asyncio
import sys
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from federation.admin.client import connect, is_serving
from federation.admin.handlers.import_rows import IMPORT_ACT
from federation.clock import SYSTEM_CLOCK
from federation.config import GatewayConfig
from federation.errors import InputError
from federation.resources.importing.importer import Importer, ImportSummary
from federation.resources.sql.provider import SqlProvider
from federation.store.audit.model import AuditEvent
from federation.store.audit.table import AuditStore
from federation.store.database import Database
from federation.store.locks import ServingLock
from federation.v1 import admin_pb2 as pb

CHUNK: Final = 64 * 1024
"""Bytes in one message."""


def load(directory: Path, file: str) -> dict[str, int]:
    """Import a file (`-`: standard input) atomically, and return the number of objects of each kind."""
    config = GatewayConfig.load(directory)
    with _open(file) as (source, size), _progress(size) as advance:
        chunks = _chunks(source, advance)
        summary = _load_through_gateway(directory, chunks) if is_serving(config) else _load_directly(config, chunks)
    return {kind: getattr(summary, kind) for kind in ("users", "teams", "members", "rows")}


@contextmanager
def _open(file: str) -> Iterator[tuple[BinaryIO, int | None]]:
    if file == "-":
        # A gRPC thread reads. Exiting by Ctrl-C while it holds the buffer's lock would be a fatal error of Python.
        yield getattr(sys.stdin.buffer, "raw", sys.stdin.buffer), None
        return
    path = Path(file)
    try:
        with path.open("rb", buffering=0) as source:
            yield source, path.stat().st_size
    except FileNotFoundError:
        raise InputError("FILE", f"there is no file {file}") from None
    except IsADirectoryError:
        raise InputError("FILE", f"{file} is a directory; name a file of JSON lines") from None
    except PermissionError:
        raise InputError("FILE", f"this user may not read {file}") from None


@contextmanager
def _progress(size: int | None) -> Iterator[Any]:
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=size)
        yield lambda read: progress.advance(task, read)


def _chunks(source: BinaryIO, advance: Any) -> Iterator[bytes]:
    while chunk := source.read(CHUNK):
        yield chunk
        advance(len(chunk))


def _load_through_gateway(directory: Path, chunks: Iterable[bytes]) -> pb.ImportSummary:
    with connect(directory) as admin:
        *_, last = admin.ImportRows(pb.ImportRowsRequest(lines=chunk) for chunk in chunks)
    return last.summary


def _load_directly(config: GatewayConfig, chunks: Iterable[bytes]) -> ImportSummary:
    importer = Importer()
    for chunk in chunks:  # outside the event loop, where Ctrl-C would not interrupt a blocked read
        importer.feed(chunk)
    return asyncio.run(_commit(config, importer))


async def _commit(config: GatewayConfig, importer: Importer) -> ImportSummary:
    """Import the parsed lines atomically into the database, while holding the serving lock.

    Raises `LockedError` if another process serves the gateway, and the errors of `Importer.commit`.
    """
    lock = ServingLock(config.directory, config.name)
    async with AsyncExitStack() as stack:
        await lock.acquire()
        stack.push_async_callback(lock.release)
        database = await Database.open(config.database_url, new=False)
        stack.push_async_callback(database.close)
        await lock.acquire_database(database)
        stack.push_async_callback(lock.release)
        summary = await importer.commit(SqlProvider(database))
        event = AuditEvent(at_us=SYSTEM_CLOCK.now_us(), verb=IMPORT_ACT, outcome="ok", source="admin")
        await AuditStore(database).insert_many([event])
    return summary
