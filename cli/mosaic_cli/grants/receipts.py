"""Progress and receipts of revocations: a live line on a terminal, messages otherwise."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from federation.v1 import admin_pb2 as pb
from mosaic_cli.output import console, models
from mosaic_cli.output.times import duration, seconds

SHOWN: Final = 8
"""Characters of an instance id to show."""
REFRESH: Final = 4
HOW: Final = {
    "acked": "its acknowledgement",
    "lease_ended": "the end of its lease",
    "disconnected": "its disconnect; it held no lease",
}
Reply = Any
"""A message of the gateway with the fields `progress` and `receipt`."""
RevocationResult = pb.RevocationProgress | pb.RevocationReceipt
"""The result of a command: a receipt, or the progress of a revocation that was not awaited."""


def follow(replies: Iterable[Reply], *, no_wait: bool = False) -> list[RevocationResult]:
    """Show the awaited caches while messages arrive, and return the last result of each grant.

    With `no_wait` the gateway does not wait for caches, so no progress is shown.
    """
    results: dict[str, RevocationResult] = {}
    with _progress_line() as show:
        for reply in replies:
            if reply.HasField("receipt"):
                results[reply.receipt.grant_id] = reply.receipt
                show([])
            elif reply.HasField("progress"):
                results[reply.progress.grant.id] = reply.progress
                show([] if no_wait else _awaited(reply.progress.awaited))
    return list(results.values())


@contextmanager
def interruptible(resume: str) -> Iterator[None]:
    """Print on Ctrl-C that the revocation continues. `resume` is the command that shows it again."""
    try:
        yield
    except KeyboardInterrupt:
        console.message(
            f"stopped waiting; the gateway already refuses calls and continues the revocation. To see it: {resume}"
        )
        raise


def show(result: RevocationResult) -> None:
    """Print a receipt, or the awaited caches of a revocation in progress."""
    if isinstance(result, pb.RevocationReceipt):
        _show_receipt(result)
    else:
        _show_pending(result)


def _show_pending(progress: pb.RevocationProgress) -> None:
    waiting = _awaited(progress.awaited)
    status = console.state_text(models.enum_name(progress.grant, "status"))
    console.facts((("grant", progress.grant.id), ("status", status)))
    console.message(f"in force for every new call; {_waiting_text(waiting) if waiting else 'no cache is awaited'}")


def _show_receipt(receipt: pb.RevocationReceipt) -> None:
    begun, effective = seconds(receipt.revoked_at), seconds(receipt.effective_at)
    narrowed = receipt.kind == "narrowed"
    console.facts(
        (
            ("grant", receipt.grant_id),
            ("narrowed" if narrowed else "revoked", models.instant(receipt, "revoked_at") or "-"),
            ("effective", f"{models.instant(receipt, 'effective_at') or '-'} ({_after(effective - begun)} later)"),
            ("lost" if narrowed else "reason", receipt.reason or "-"),
        )
    )
    if receipt.instances:
        console.write("")
        console.table(
            ("cache", "released by", "after", "calls failed"),
            (
                (
                    _name(one.instance_id),
                    HOW.get(one.how, one.how),
                    _after(seconds(one.at) - begun),
                    str(one.failed_in_flight),
                )
                for one in receipt.instances
            ),
        )
    served = "what the scope no longer opens" if narrowed else "anything of this grant"
    console.message(f"no cache of the peer can serve {served}")


def _awaited(instances: Iterable[pb.LeaseRelease]) -> list[pb.LeaseRelease]:
    return [one for one in instances if one.how == "awaited"]


@contextmanager
def _progress_line() -> Iterator[Callable[[list[pb.LeaseRelease]], None]]:
    """Yield a function that shows the awaited caches: in a live line on a terminal, otherwise as messages."""
    waiting: list[pb.LeaseRelease] = []
    on_terminal = sys.stderr.isatty()

    def show(awaited: list[pb.LeaseRelease]) -> None:
        changed = [one.instance_id for one in awaited] != [one.instance_id for one in waiting]
        if awaited and changed and not on_terminal:
            console.message(_waiting_text(awaited))
        waiting[:] = awaited

    def text() -> Text:
        return Text(f"{_waiting_text(waiting)}  (Ctrl-C: stop waiting; the revocation continues)" if waiting else "")

    if not on_terminal:
        yield show
        return
    terminal = Console(file=sys.stderr, highlight=False)
    with Live(get_renderable=text, console=terminal, refresh_per_second=REFRESH, transient=True):
        yield show


def _waiting_text(waiting: Sequence[pb.LeaseRelease]) -> str:
    """Return which caches are awaited, and until when at the latest."""
    until = max(seconds(one.until) for one in waiting)
    clock = datetime.fromtimestamp(until, UTC).strftime("%H:%M:%S")
    left = duration(max(0.0, until - datetime.now(UTC).timestamp()))
    names = ", ".join(_name(one.instance_id) for one in waiting[:3])
    more = f" and {len(waiting) - 3} more" if len(waiting) > 3 else ""  # noqa: PLR2004 - the number of ids shown
    caches = "one cache" if len(waiting) == 1 else f"{len(waiting)} caches"
    return f"waiting for {caches} of the peer ({names}{more}), until {clock} UTC at the latest (in {left})"


def _name(instance: str) -> str:
    return instance[:SHOWN] if instance else "all from before the last start"


def _after(seconds: float) -> str:
    return f"{seconds * 1_000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
