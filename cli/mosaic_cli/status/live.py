"""`status --watch` on a terminal: redraws the status until q or Ctrl-C, and restores the terminal."""

import os
import select
import signal
import socket
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from federation.v1 import admin_pb2 as pb
from mosaic_cli.output.errors import clean
from mosaic_cli.output.layout import Span, TextLine, wrapped
from mosaic_cli.output.times import duration
from mosaic_cli.status.page import screen
from mosaic_cli.status.stream import Feed, StatusSnapshot

TICK_S: Final = 0.5
SILENT_S: Final = 4.0
"""The gateway sends a status every second. After this time without one it is reported as silent."""
FOOT: Final[TextLine] = (Span("q quits", "dim"),)
QUIT: Final = frozenset(b"qQ\x03\x04")


def watch(directory: Path, request: pb.WatchStatusRequest) -> int:
    """Show the status until the operator quits, and return the exit code. Redraws after a suspension (Ctrl-Z).

    Raises `FederationError` for errors that waiting does not mend.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    with receiver, sender, Feed(directory, request, sender.fileno()) as feed:
        while _draw(feed, receiver.fileno(), sender.fileno()):
            os.kill(os.getpid(), signal.SIGSTOP)
    if feed.snapshot.error is not None:
        raise feed.snapshot.error
    return 0


def frame(snapshot: StatusSnapshot, now: float, today: datetime, width: int, height: int) -> list[TextLine]:
    """Return the lines of the screen, the last of which is the footer.

    `now` is monotonic time in seconds, as `StatusSnapshot.at`; `today` is the time in UTC.
    """
    head: list[TextLine] = []
    if snapshot.lost_at is not None:
        ago = duration((today - snapshot.lost_at).total_seconds())
        text = f"✕ gateway not reachable since {snapshot.lost_at:%H:%M:%S} UTC ({ago} ago): {clean(snapshot.problem)}"
        head = wrapped(text, width, style="bold red")
    elif snapshot.reply is None:
        head = [(Span("waiting for the gateway …"),)]
    elif now - snapshot.at > SILENT_S:
        head = wrapped(f"◌ no status from the gateway for {duration(now - snapshot.at)}", width, style="bold yellow")
    room = height - 1 - len(head)
    if snapshot.reply is not None and room > 0:
        if head and room > 1:
            head = [*head, (Span("last status:", "dim"),)]
        head += screen(snapshot.reply, width, height - 1 - len(head))
    return [*head[: height - 1], FOOT]


def _draw(feed: Feed, wake_read: int, wake: int) -> bool:
    """Draw until the operator quits (returns false) or suspends the process (returns true)."""
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    with ExitStack() as stack:
        suspended = stack.enter_context(_signals(wake))
        keys = stack.enter_context(_keys())
        live = stack.enter_context(Live(console=console, screen=True, auto_refresh=False))
        sources = [wake_read, *keys]
        while feed.snapshot.error is None:
            lines = frame(feed.snapshot, time.monotonic(), datetime.now(UTC), *console.size)
            live.update(Text("\n", no_wrap=True, overflow="crop").join(Text.assemble(*line) for line in lines))
            live.refresh()
            ready, _, _ = select.select(sources, (), (), TICK_S)
            if wake_read in ready:
                os.read(wake_read, 4_096)
            for key in set(ready) & set(keys):
                pressed = os.read(key, 64)
                if QUIT & set(pressed):
                    return False
                if not pressed:  # end of input
                    sources.remove(key)
            if suspended:
                return True
    return False


@contextmanager
def _keys() -> Iterator[list[int]]:
    """Yield the descriptor of a terminal on standard input in cbreak mode, or no descriptor."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield []
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield [terminal]
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


@contextmanager
def _signals(wake: int) -> Iterator[list[int]]:
    """Yield a list of the suspensions (SIGTSTP). Ctrl-C quits, and SIGTERM and SIGHUP exit through the contexts."""
    suspensions: list[int] = []

    def end(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    kinds = {signal.SIGTSTP: lambda number, _: suspensions.append(number), signal.SIGTERM: end, signal.SIGHUP: end}
    before = {number: signal.signal(number, handler) for number, handler in kinds.items()}
    before_wake = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        yield suspensions
    except KeyboardInterrupt:
        suspensions.clear()
    finally:
        signal.set_wakeup_fd(before_wake)
        for number, handler in before.items():
            signal.signal(number, handler)
