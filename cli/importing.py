"""`mosaic gateway import`: through the gateway where it runs, else straight into its database."""

import asyncio
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from federation.errors import InputError

__all__ = ["load"]

CHUNK: Final = 64 * 1024
"""Bytes of one message."""


def load(directory: Path, file: str) -> dict[str, int]:
    """Load a file (`-`: standard input) all or nothing, and return what was loaded by kind."""
    from federation.admin.client import is_serving
    from federation.config import GatewayConfig

    config = GatewayConfig.load(directory)
    with _opened(file) as (source, size), _progress(size) as advance:
        chunks = _chunks(source, advance)
        if is_serving(config):
            return _through_gateway(directory, chunks)
        from cli.direct import load_directly
        from federation.resources.importing import Importer

        importer = Importer()
        for chunk in chunks:  # outside the event loop, whose first Ctrl-C a blocked read would not hear
            importer.feed(chunk)
        return _counts(asyncio.run(load_directly(config, importer)))


@contextmanager
def _opened(file: str) -> Iterator[tuple[BinaryIO, int | None]]:
    if file == "-":
        # A thread of gRPC reads; a lock of the buffer that it holds when Ctrl-C ends all would be a fatal error.
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
    console = Console(file=sys.stderr)
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=size)
        yield lambda read: progress.advance(task, read)


def _chunks(source: BinaryIO, advance: Any) -> Iterator[bytes]:
    while chunk := source.read(CHUNK):
        yield chunk
        advance(len(chunk))


def _through_gateway(directory: Path, chunks: Iterable[bytes]) -> dict[str, int]:
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb

    summary = pb.ImportSummary()
    with connect(directory) as admin:
        for reply in admin.ImportRows(pb.ImportRowsRequest(lines=chunk) for chunk in chunks):
            if reply.HasField("summary"):
                summary = reply.summary
    return _counts(summary)


def _counts(summary: Any) -> dict[str, int]:
    return {kind: int(getattr(summary, kind)) for kind in ("users", "teams", "members", "rows")}
