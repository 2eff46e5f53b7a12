"""The rules for serving the admin socket: a directory with mode 0700, one gateway per socket, no stale socket file.

Every process that can open the socket acts as the operator. gRPC does not identify the caller, so the permissions of
the directory are the only authentication.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from federation.admin.address import is_listening
from federation.errors import ConfigError, LockedError
from federation.store.locks import FileLock

LOCK_FILE: Final = "admin.lock"
_GROUP_AND_OTHERS: Final = 0o077


def prepare_directory(directory: Path) -> None:
    """Create the socket's directory with mode 0700, or check that an existing one excludes every other user.

    Raises `ConfigError` that names the remedy.
    """
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.stat(follow_symlinks=False)
    except OSError as e:
        raise ConfigError("admin_socket", f"cannot use the directory {directory}: {e.strerror}") from e
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError("admin_socket", f"{directory} is not a directory; remove it or set another path")
    if found.st_uid != os.geteuid():
        raise ConfigError(
            "admin_socket",
            f"the directory {directory} belongs to user {found.st_uid}, not to user {os.geteuid()}, which runs the "
            f"gateway; set a path in a directory of user {os.geteuid()}",
        )
    if found.st_mode & _GROUP_AND_OTHERS:
        raise ConfigError(
            "admin_socket",
            f"other users may enter the directory {directory} (mode {stat.S_IMODE(found.st_mode):04o}); "
            f"run: chmod 700 {directory}",
        )


@contextmanager
def claim_socket(path: Path) -> Iterator[None]:
    """Hold the lock that allows binding `path`, after checking its directory and removing a stale socket.

    Raises `LockedError` if another process holds the lock, `ConfigError` if the path cannot be used.
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
    """Create files inside the body with access for the user alone.

    The umask applies to the whole process: keep the body short and without `await`.
    """
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def _remove_stale(path: Path) -> None:
    """Remove the socket of a stopped gateway. gRPC alone would also replace a socket that another process serves."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError("admin_socket", f"{path} exists and is not a socket; remove it or set another path")
    if is_listening(path):
        raise LockedError(f"another process serves the admin socket {path}; stop that process first")
    path.unlink()
