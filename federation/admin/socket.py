"""The serving side's rules for the admin socket: a directory for its user alone, one gateway, no stale file.

Whoever can open the socket is the operator; gRPC cannot tell who that is, so the directory is the authentication.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from federation.admin.address import answers
from federation.errors import ConfigError, LockedError
from federation.store.locks import FileLock

__all__ = ["claimed", "prepare_directory", "private_umask"]


LOCK_FILE: Final = "admin.lock"
_OTHERS: Final = 0o077


def prepare_directory(directory: Path) -> None:
    """Make the socket's directory, mode 0700, or check that the one that exists keeps everybody else out.

    Raises `ConfigError` that names the cure.
    """
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.stat(follow_symlinks=False)
    except OSError as e:
        raise ConfigError("admin_socket", f"cannot use the directory {directory}: {e.strerror}") from e
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError("admin_socket", f"{directory} is not a directory; remove it, or name another path")
    if found.st_uid != os.geteuid():
        raise ConfigError(
            "admin_socket",
            f"the directory {directory} belongs to user {found.st_uid}, not to {os.geteuid()} who runs the gateway; "
            f"use a directory of your own",
        )
    if found.st_mode & _OTHERS:
        raise ConfigError(
            "admin_socket",
            f"others may enter the directory {directory} (mode {stat.S_IMODE(found.st_mode):04o}); "
            f"run: chmod 700 {directory}",
        )


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Hold the right to bind `path`: its directory checked, its lock taken, a stale socket removed.

    Raises `LockedError` where another process holds it, `ConfigError` where the path cannot serve.
    """
    prepare_directory(path.parent)
    lock = FileLock(path.parent / LOCK_FILE, f"the admin socket {path} is held")
    lock.acquire()
    try:
        _remove_stale(path)
        yield
        path.unlink(missing_ok=True)
    finally:
        lock.release()


@contextmanager
def private_umask() -> Iterator[None]:
    """Let files made inside be the user's alone. The umask is the process's: keep the body short, without `await`."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def _remove_stale(path: Path) -> None:
    """Remove what an ended gateway left. gRPC itself would also replace a socket that another process serves."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError("admin_socket", f"{path} exists and is not a socket; remove it, or name another path")
    if answers(path):
        raise LockedError(f"another process serves the admin socket {path}; stop that process first")
    path.unlink()
