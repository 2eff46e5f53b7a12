"""Atomic creation of a gateway directory: settings, seal key, database and certificate authority."""

import shutil
import tempfile
from pathlib import Path

from sqlalchemy import delete

from federation.clock import SYSTEM_CLOCK, Clock
from federation.config import CONFIG_FILE, GatewayConfig
from federation.config_template import render_config
from federation.errors import ConfigError, ConflictError, InputError
from federation.pki.authority import Authority
from federation.pki.sealing import Sealer
from federation.store.database import Database
from federation.store.identity import save_identity
from federation.store.schema import gateway_identity


async def init_gateway(config: GatewayConfig, *, clock: Clock = SYSTEM_CLOCK) -> Authority:
    """Create the directory of `config` (mode 0700) with all that a gateway needs. Returns its certificate authority.

    A new directory appears only when it is complete. An existing empty directory is filled in place, because a volume
    may be mounted on it; `gateway.toml` is moved in last. Raises `ConflictError` if the directory is not empty or the
    database belongs to another gateway, `ConfigError` for a setting that cannot work, `InputError` if the directory
    cannot be written.
    """
    directory = config.directory.absolute()
    _check_free(directory, config.socket_path)
    parent = directory if directory.is_dir() else directory.parent
    try:
        staged = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=parent))
    except OSError as e:
        raise InputError("directory", f"cannot write in {parent}: {e.strerror}") from e
    try:
        authority = await _fill(staged, config, clock)
        try:
            _place(staged, directory)
        except InputError:
            await _remove_identity(config)
            raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return authority


def _check_free(directory: Path, socket_path: Path) -> None:
    if (directory / CONFIG_FILE).exists():
        raise ConflictError(f"{directory} is a gateway's directory already; choose another one")
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise ConflictError(f"{directory} exists and is not a directory; choose another path")
    if directory.is_dir() and any(directory.iterdir()):
        raise ConflictError(f"{directory} is not empty and not a gateway's; name a new or an empty directory")
    if socket_path.is_dir():
        raise ConfigError("admin_socket", f"{socket_path} is a directory; name the file of a socket")
    if not directory.parent.is_dir():
        raise InputError("directory", f"there is no directory {directory.parent}; create it first")


async def _fill(staged: Path, config: GatewayConfig, clock: Clock) -> Authority:
    (staged / "run").mkdir(mode=0o700)
    (staged / CONFIG_FILE).write_text(render_config(config), encoding="utf-8")
    (staged / CONFIG_FILE).chmod(0o600)
    sealer = Sealer.create(staged)
    url = config.store.url or f"sqlite+aiosqlite:///{staged / 'gateway.db'}"
    database = await Database.open(url)
    try:
        authority = Authority.create(
            config.name, (config.advertised_host,), clock, config.certificates.server_lifetime_s
        )
        await save_identity(database, sealer, authority)
    finally:
        await database.close()
    return authority


def _place(staged: Path, directory: Path) -> None:
    try:
        if staged.parent == directory:
            _move_up(staged)
        else:
            staged.replace(directory)
    except OSError as e:
        raise InputError("directory", f"cannot make {directory}: {e.strerror}") from e


def _move_up(staged: Path) -> None:
    """Move all files one directory up, the settings last: a directory counts as a gateway once it has settings."""
    directory = staged.parent
    (staged / "run").rmdir()
    (directory / "run").mkdir(mode=0o700)  # of two concurrent calls, one fails here
    moved = [directory / "run"]
    try:
        directory.chmod(0o700)
        for path in sorted(staged.iterdir(), key=lambda path: path.name == CONFIG_FILE):
            path.rename(directory / path.name)
            moved.append(directory / path.name)
    except OSError:
        for path in reversed(moved):
            path.rmdir() if path.is_dir() else path.unlink()
        raise


async def _remove_identity(config: GatewayConfig) -> None:
    """Remove the identity from a database outside the staged directory."""
    if config.store.url:
        database = await Database.open(config.store.url, new=False)
        try:
            async with database.write() as connection:
                await connection.execute(delete(gateway_identity))
        finally:
            await database.close()
