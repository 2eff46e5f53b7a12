"""The address of the admin socket, and whether a process serves it. Clients need no more than this module."""

import errno
import os
import socket
from pathlib import Path
from urllib.parse import quote

__all__ = ["answers", "target"]


def target(path: Path) -> str:
    """Return the gRPC target of a socket path. gRPC reads it as a URI, so odd characters are percent-encoded."""
    return f"unix:{quote(str(path))}"


def answers(path: Path) -> bool:
    """Tell whether something listens on the socket. Raises `PermissionError` where this user may not ask."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(os.fspath(path))
        except TimeoutError:
            return True  # its backlog is full: alive
        except PermissionError:
            raise
        except OSError as e:
            return e.errno == errno.EAGAIN
    return True
