"""`init_gateway`: a gateway's directory, all of it or nothing."""

import errno
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federation import bootstrap
from federation.bootstrap import init_gateway
from federation.config import ClientConfig, GatewayConfig, SessionConfig, StoreConfig
from federation.errors import ConfigError, ConflictError, InputError, StoreError
from federation.gateway import Gateway
from federation.pki.sealing import Sealer
from federation.store.database import Database
from federation.store.identity import load_identity


@pytest.fixture
def config(tmp_path: Path) -> GatewayConfig:
    """Settings of a gateway that is still to be made."""
    return GatewayConfig(directory=tmp_path / "work", name="work.example", admin_socket="/tmp/short/admin.sock")


def leftovers(config: GatewayConfig) -> list[str]:
    """Return what stands beside and at the gateway's directory."""
    return sorted(path.name for path in config.directory.parent.iterdir())


async def test_the_directory_is_complete_and_private(config: GatewayConfig) -> None:
    """Directory, settings, key and database are there, and only their owner may read them."""
    authority = await init_gateway(config)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in config.directory.iterdir()}
    assert modes == {"gateway.toml": 0o600, "gateway.db": 0o600, "seal.key": 0o600, "run": 0o700}
    assert stat.S_IMODE(config.directory.stat().st_mode) == 0o700
    database = await Database.open(config.database_url)
    stored = await load_identity(database, Sealer.load(config.directory))
    await database.close()
    assert stored is not None
    assert (stored.name, stored.ca_certificate_pem) == ("work.example", authority.ca_certificate_pem)


async def test_the_settings_read_back_as_they_were_given(config: GatewayConfig) -> None:
    """Every setting that differs from its default stands in the file, whichever section it belongs to."""
    asked = replace(
        config,
        listen="0.0.0.0:1",
        enroll="[::1]:2",
        advertise="w.example.org",
        client=ClientConfig(watch=False),
        session=SessionConfig(request_budget_s=1.5),
    )
    await init_gateway(asked)

    assert GatewayConfig.load(config.directory) == asked


async def test_an_empty_directory_is_filled_in_place(config: GatewayConfig) -> None:
    """A directory that was made for it beforehand will do, and stays the one that a shell may stand in."""
    config.directory.mkdir(mode=0o755)
    before = config.directory.stat().st_ino

    await init_gateway(config)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in config.directory.iterdir()}
    assert modes == {"gateway.toml": 0o600, "gateway.db": 0o600, "seal.key": 0o600, "run": 0o700}
    assert config.directory.stat().st_ino == before
    assert stat.S_IMODE(config.directory.stat().st_mode) == 0o700
    assert leftovers(config) == ["work"]


async def test_a_directory_that_fills_meanwhile_keeps_what_it_got(
    config: GatewayConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two gateways made in one empty directory at once, one is refused and leaves the other's files alone."""
    config.directory.mkdir()
    save = bootstrap.save_identity

    async def taken(*args: Any) -> None:
        (config.directory / "run").mkdir()
        await save(*args)

    monkeypatch.setattr(bootstrap, "save_identity", taken)

    with pytest.raises(InputError, match="cannot make"):
        await init_gateway(config)
    assert [path.name for path in config.directory.iterdir()] == ["run"]


async def test_a_move_that_fails_is_undone(config: GatewayConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a file cannot be moved into place, the directory is empty again."""
    config.directory.mkdir()
    rename = Path.rename

    def full(path: Path, target: Path) -> Path:
        if path.name == "gateway.toml":
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", full)

    with pytest.raises(InputError, match="No space left on device"):
        await init_gateway(config)
    assert list(config.directory.iterdir()) == []


async def test_an_existing_gateway_is_left_alone(config: GatewayConfig) -> None:
    """A second init touches nothing of the first."""
    await init_gateway(config)
    before = (config.directory / "seal.key").read_bytes()

    with pytest.raises(ConflictError, match="is a gateway's directory already"):
        await init_gateway(config)
    assert (config.directory / "seal.key").read_bytes() == before


async def test_a_foreign_directory_is_left_alone(config: GatewayConfig) -> None:
    """No file is added to a directory that is not empty."""
    config.directory.mkdir()
    (config.directory / "thesis.tex").write_text("")

    with pytest.raises(ConflictError, match="not empty"):
        await init_gateway(config)
    assert [path.name for path in config.directory.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("kind", ["file", "link"])
async def test_a_path_that_is_not_a_directory_is_left_alone(config: GatewayConfig, tmp_path: Path, kind: str) -> None:
    """A file or a link in its place is refused."""
    if kind == "file":
        config.directory.write_text("precious")
    else:
        (tmp_path / "elsewhere").mkdir()
        config.directory.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ConflictError, match="is not a directory"):
        await init_gateway(config)


@pytest.mark.parametrize("socket", ["/tmp", "/" + "s" * 120])
async def test_a_socket_that_cannot_be_bound_leaves_nothing(config: GatewayConfig, socket: str) -> None:
    """An invalid socket path is reported before anything is created."""
    with pytest.raises(ConfigError, match="admin_socket: "):
        await init_gateway(replace(config, admin_socket=socket))
    assert leftovers(config) == []


async def test_a_missing_parent_is_not_made(config: GatewayConfig) -> None:
    """A mistyped path does not grow a tree."""
    with pytest.raises(InputError, match="there is no directory"):
        await init_gateway(replace(config, directory=config.directory / "deep" / "er"))
    assert leftovers(config) == []


async def test_a_failure_leaves_nothing(config: GatewayConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever breaks on the way, no half-made directory stays."""

    async def breaks(*_: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(bootstrap, "save_identity", breaks)

    with pytest.raises(StoreError):
        await init_gateway(config)
    assert leftovers(config) == []


@pytest.mark.parametrize("url", ["mysql://x", "not a url", "postgresql+asyncpg://localhost:1/x"])
async def test_a_wrong_database_leaves_nothing(config: GatewayConfig, url: str) -> None:
    """An unusable database is reported before anything is created."""
    with pytest.raises((ConfigError, StoreError)):
        await init_gateway(replace(config, store=StoreConfig(url=url)))
    assert leftovers(config) == []


async def test_a_database_belongs_to_one_gateway(config: GatewayConfig, database_url: str) -> None:
    """A second gateway on the same database is refused, and the first one keeps its identity."""
    first = await init_gateway(replace(config, store=StoreConfig(url=database_url)))

    other = replace(config, name="other.example", directory=config.directory.parent / "other")
    with pytest.raises(ConflictError, match="already holds the identity"):
        await init_gateway(replace(other, store=StoreConfig(url=database_url)))
    assert not other.directory.exists()
    database = await Database.open(database_url)
    kept = await load_identity(database, Sealer.load(config.directory))
    await database.close()
    assert kept is not None
    assert kept.ca_certificate_pem == first.ca_certificate_pem


async def test_a_failed_move_leaves_an_external_database_unused(
    config: GatewayConfig, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the directory cannot be moved into place, the identity is removed from an external database."""

    def lost(staged: Path, directory: Path) -> None:
        raise InputError("directory", "was taken meanwhile")

    asked = replace(config, store=StoreConfig(url=sqlite_url))
    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "_place", lost)
        with pytest.raises(InputError, match="taken meanwhile"):
            await init_gateway(asked)

    await init_gateway(asked)
    assert (config.directory / "gateway.toml").exists()


async def test_a_missing_database_file_is_not_created(config: GatewayConfig) -> None:
    """A gateway without its database file does not open, names the fix and creates no empty file."""
    await init_gateway(config)
    lost = config.directory / "gateway.db"
    lost.unlink()

    with pytest.raises(StoreError, match=r"gateway\.db: No such file.*; restore it from a backup"):
        async with Gateway.open(config):
            pass
    assert not lost.exists()
