"""The address of the admin socket, and whether a process serves it. Clients need no more than this module."""

import errno
import os
import socket
from pathlib import Path
from urllib.parse import quote


def target(path: Path) -> str:
    """Return the gRPC target of a socket path: a URI, with special characters percent-encoded."""
    return f"unix:{quote(str(path))}"


def is_listening(path: Path) -> bool:
    """Tell whether a process listens on the socket. Raises `PermissionError` without permission to connect."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(os.fspath(path))
        except TimeoutError:
            return True  # a full backlog: the process is alive
        except PermissionError:
            raise
        except OSError as e:
            return e.errno == errno.EAGAIN
    return True
