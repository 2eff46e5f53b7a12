"""Records the calls of callers on one clock: when each look-up began and how it ended."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc

from federation.client.chain.flow import Cancelled
from federation.store.receipts import Receipt
from federation.v1 import federation_pb2 as pb
from federation.wire.metadata import CACHED
from federation.wire.status import error_detail_of


class Seen(NamedTuple):
    """One call: monotonic seconds of its beginning and end; `reason` is empty where rows came."""

    began: float
    ended: float
    cached: bool
    reason: str


def effective_at(receipt: Receipt) -> float:
    """The instant of a receipt on the monotonic clock."""
    assert receipt.effective_at_us is not None
    return receipt.effective_at_us / 1e6 - (time.time() - time.monotonic())


@dataclass
class History:
    """The calls of one peer's callers until they are told to stop."""

    seen: list[Seen] = field(default_factory=list)
    stopped: bool = False

    async def listing(self, stub: Any, requests: Callable[[], pb.ListRequest]) -> None:
        """List in a loop, as a task."""
        while not self.stopped:
            began = time.monotonic()
            call = stub.List(requests())
            try:
                await call
                cached, reason = (await call.trailing_metadata())[CACHED] == "true", ""
            except grpc.RpcError as error:
                cached, reason = False, error_detail_of(error).reason or "?"
            self.seen.append(Seen(began, time.monotonic(), cached, reason))
            await asyncio.sleep(0.001 if reason else 0)

    def listing_in_thread(self, stub: Any, requests: Callable[[], pb.ListRequest]) -> None:
        """List in a loop, as a thread."""
        while not self.stopped:
            began = time.monotonic()
            try:
                call: Any = stub.List.with_call(requests())[1]
                cached, reason = dict(call.trailing_metadata())[CACHED] == "true", ""
            except grpc.RpcError as error:
                cached, reason = False, error_detail_of(error).reason or "?"
            except Cancelled:
                return
            self.seen.append(Seen(began, time.monotonic(), cached, reason))
            time.sleep(0.001)  # the callers of one process share one interpreter

    def served_after(self, instant: float) -> list[Seen]:
        """The calls that brought rows though they began at or after an instant."""
        return [seen for seen in self.seen if not seen.reason and seen.began >= instant]

    def hits_before(self, instant: float) -> int:
        """How many calls were answered from the cache before an instant."""
        return sum(seen.cached and seen.began < instant for seen in self.seen)
