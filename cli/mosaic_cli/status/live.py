"""`status --watch` on a terminal: a page that is drawn anew, until q or Ctrl-C; the terminal is left as it was."""

import os
import select
import signal
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
from mosaic_cli.output.layout import Line, Span, wrapped
from mosaic_cli.output.times import duration
from mosaic_cli.status.page import screen
from mosaic_cli.status.stream import Feed, StatusSnapshot

__all__ = ["frame", "watch"]

TICK_S: Final = 0.5
SILENT_S: Final = 4.0
"""The gateway tells something every second; after so many without a word it hangs."""
FOOT: Final[Line] = (Span("q quits", "dim"),)
QUIT: Final = frozenset(b"qQ\x03\x04")


def watch(directory: Path, request: pb.WatchStatusRequest) -> int:
    """Show the status until the operator quits; return the exit code.

    Raises `FederationError` for what waiting cannot mend. A terminal that was suspended is drawn anew.
    """
    with _pipe() as (wake_read, wake), Feed(directory, request, wake) as feed:
        while _drawn(feed, wake_read, wake):
            os.kill(os.getpid(), signal.SIGSTOP)
    if feed.snapshot.error is not None:
        raise feed.snapshot.error
    return 0


def frame(snapshot: StatusSnapshot, now: float, today: datetime, width: int, height: int) -> list[Line]:
    """Return what the screen shows: `now` is on the snapshot's clock, `today` on the wall's. The last line is the foot."""
    head: list[Line] = []
    if snapshot.lost_at is not None:
        ago = duration((today - snapshot.lost_at).total_seconds())
        text = f"✕ gateway not reachable since {snapshot.lost_at:%H:%M:%S} UTC ({ago} ago): {clean(snapshot.problem)}"
        head = wrapped(text, width, style="bold red")
    elif snapshot.reply is None:
        head = [(Span("waiting for the gateway …"),)]
    elif now - snapshot.at > SILENT_S:
        head = wrapped(f"◌ the gateway has said nothing for {duration(now - snapshot.at)}", width, style="bold yellow")
    room = height - 1 - len(head)
    if snapshot.reply is not None and room > 0:
        if head and room > 1:
            head = [*head, (Span("what it said last:", "dim"),)]
        head += screen(snapshot.reply, width, height - 1 - len(head))
    return [*head[: height - 1], FOOT]


def _drawn(feed: Feed, wake_read: int, wake: int) -> bool:
    """Draw until the operator quits (false) or suspends the process (true)."""
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
                if not pressed:  # whoever typed there is gone
                    sources.remove(key)
            if suspended:
                return True
    return False


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    wake_read, wake = os.pipe()
    os.set_blocking(wake, False)
    try:
        yield wake_read, wake
    finally:
        os.close(wake_read)
        os.close(wake)


@contextmanager
def _keys() -> Iterator[list[int]]:
    """Yield where keys come from, each as it is pressed and unseen; nowhere where standard input is no terminal."""
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
    """Let Ctrl-C quit, a suspension be suspensions in what is yielded, and every other end leave by way of the contexts."""
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
