"""Runs the real command in a pseudo-terminal that the test reads, types into and resizes."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Self

from tests.support.gateway_processes import MOSAIC, environment

ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[()][A-Z0-9])")
TAKE = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""Makes standard input the session's terminal. The child does this itself: with a `preexec_fn`, this process would fork
and run gRPC's fork handlers, which can deadlock."""
HOME = "\x1b[H"
"""rich begins each full-screen drawing with it."""


class Terminal:
    """A command in a pseudo-terminal. `output` is all that it wrote, including escape sequences."""

    def __init__(self, *arguments: str, cwd: Path, columns: int = 80, rows: int = 24, **more: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._slave = slave
        self.modes = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE, *MOSAIC, *arguments],
            cwd=cwd,
            env=environment(TERM="xterm-256color", **more),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        self.output = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        os.close(self._master)
        os.close(self._slave)

    def type(self, keys: str) -> None:
        """Type keys."""
        os.write(self._master, keys.encode())

    def signal(self, number: int) -> None:
        """Send a signal to the command only."""
        self.process.send_signal(number)

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the terminal."""
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    @property
    def text(self) -> str:
        """The output without escape sequences."""
        return plain(self.output)

    @property
    def frame(self) -> list[str]:
        """The lines of the newest complete drawing of the screen."""
        drawings = self.output.split(HOME)
        return [line.rstrip() for line in plain(drawings[-2] if len(drawings) > 2 else drawings[-1]).split("\n")]

    @property
    def restored(self) -> bool:
        """Whether the terminal's modes are the original ones."""
        return termios.tcgetattr(self._slave) == self.modes

    def until(self, *words: str, timeout_s: float = 30.0) -> list[str]:
        """Read until the newest drawing contains all the texts; return it."""
        deadline = time.monotonic() + timeout_s
        while not all(any(word in line for line in self.frame) for word in words):
            assert time.monotonic() < deadline, (words, self.frame)
            self._read(0.1)
        return self.frame

    def wait(self, timeout_s: float = 30.0) -> int:
        """Read until the command ends; return its exit code."""
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.text
            self._read(0.1)
        while self._read(0.0):
            pass
        return self.process.returncode

    def stopped(self, timeout_s: float = 10.0) -> bool:
        """Read until the command is suspended."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self._read(0.05)
            state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "T":
                return True
        return False

    def goes_on(self) -> None:
        """Continue a suspended command."""
        self.process.send_signal(signal.SIGCONT)

    def _read(self, timeout_s: float) -> bool:
        ready, _, _ = select.select([self._master], (), (), timeout_s)
        if ready:
            self.output += os.read(self._master, 65_536).decode(errors="replace").replace("\r\n", "\n")
        return bool(ready)


def plain(text: str) -> str:
    """Text without escape sequences."""
    return ESCAPE.sub("", text)
