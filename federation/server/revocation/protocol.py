"""The one order in which something is taken back: refused, durable, told, acknowledged or outlived, receipt.

Pure: what takes time is asked for, so that any driver can run it.
"""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Protocol

from federation.server.revocation.leases import LeaseTable, PendingRevocation

__all__ = ["Act", "Store", "StoreReceipt", "Wait", "revocation_steps"]

Heard = Callable[[str, int], None]


class Act(Protocol):
    """What is taken back: a whole grant, or part of its scope. All of it is done at once, without waiting."""

    def refuse(self) -> None:
        """Let no answer leave any more that holds what is taken back."""
        ...

    def watching(self) -> Iterable[str]:
        """Return the cache objects with an armed watch."""
        ...

    def tell(self, heard: Heard) -> None:
        """Send the event to every watcher; `heard` is called with each instance that acted, and the calls it failed."""
        ...


@dataclass(frozen=True, slots=True)
class Store:
    """Make the refusal durable. Where that fails the flow ends here, and the refusal stands."""

    withdrawal: PendingRevocation


@dataclass(frozen=True, slots=True)
class Wait:
    """Go on after so many seconds, or as soon as somebody was released."""

    seconds: float


@dataclass(frozen=True, slots=True)
class StoreReceipt:
    """Store the receipt: from now on nobody can serve what was taken back."""

    withdrawal: PendingRevocation


Step = Store | Wait | StoreReceipt


def revocation_steps(act: Act, leases: LeaseTable, grant_id: str, *, final: bool) -> Generator[Step, None, None]:
    """Take something back. `final`: the grant ends.

    The order is the proof. An answer leaves before the refusal, and then its lease is noted when `begin` looks, or it
    never leaves. A watcher arms before the refusal, and then it is told, or it is refused. Nothing stands between
    `refuse` and `begin`, and nobody is told before a restart would remember.
    """
    act.refuse()
    withdrawal = leases.begin(grant_id, act.watching(), final=final)
    try:
        yield Store(withdrawal)
        mark = leases.mark
        act.tell(lambda instance, failed: leases.ack(grant_id, instance, mark, failed))
        while (seconds := withdrawal.wait_s()) is not None:
            yield Wait(seconds)
        yield StoreReceipt(withdrawal)
    finally:
        leases.end(withdrawal)
