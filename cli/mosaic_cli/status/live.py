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
    with _pipe() as (heard, wake), Feed(directory, request, wake) as feed:
        while _drawn(feed, heard, wake):
            os.kill(os.getpid(), signal.SIGSTOP)
    if feed.board.fault is not None:
        raise feed.board.fault
    return 0


def frame(board: StatusSnapshot, now: float, today: datetime, width: int, height: int) -> list[Line]:
    """Return what the screen shows: `now` is on the board's clock, `today` on the wall's. The last line is the foot."""
    head: list[Line] = []
    if board.lost_at is not None:
        ago = duration((today - board.lost_at).total_seconds())
        text = f"✕ gateway not reachable since {board.lost_at:%H:%M:%S} UTC ({ago} ago): {clean(board.trouble)}"
        head = wrapped(text, width, style="bold red")
    elif board.reply is None:
        head = [(Span("waiting for the gateway …"),)]
    elif now - board.at > SILENT_S:
        head = wrapped(f"◌ the gateway has said nothing for {duration(now - board.at)}", width, style="bold yellow")
    room = height - 1 - len(head)
    if board.reply is not None and room > 0:
        if head and room > 1:
            head = [*head, (Span("what it said last:", "dim"),)]
        head += screen(board.reply, width, height - 1 - len(head))
    return [*head[: height - 1], FOOT]


def _drawn(feed: Feed, heard: int, wake: int) -> bool:
    """Draw until the operator quits (false) or suspends the process (true)."""
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    with ExitStack() as held:
        suspended = held.enter_context(_signals(wake))
        keys = held.enter_context(_keys())
        live = held.enter_context(Live(console=console, screen=True, auto_refresh=False))
        sources = [heard, *keys]
        while feed.board.fault is None:
            lines = frame(feed.board, time.monotonic(), datetime.now(UTC), *console.size)
            live.update(Text("\n", no_wrap=True, overflow="crop").join(Text.assemble(*line) for line in lines))
            live.refresh()
            ready, _, _ = select.select(sources, (), (), TICK_S)
            if heard in ready:
                os.read(heard, 4_096)
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
    heard, wake = os.pipe()
    os.set_blocking(wake, False)
    try:
        yield heard, wake
    finally:
        os.close(heard)
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
    """Let Ctrl-C quit, a suspension be noted in what is yielded, and every other end leave by way of the contexts."""
    noted: list[int] = []

    def end(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    kinds = {signal.SIGTSTP: lambda number, _: noted.append(number), signal.SIGTERM: end, signal.SIGHUP: end}
    before = {number: signal.signal(number, handler) for number, handler in kinds.items()}
    before_wake = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        yield noted
    except KeyboardInterrupt:
        noted.clear()
    finally:
        signal.set_wakeup_fd(before_wake)
        for number, handler in before.items():
            signal.signal(number, handler)
