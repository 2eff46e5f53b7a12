"""Records the calls of callers on one clock: their begin, end and result."""

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


class CallRecord(NamedTuple):
    """One call: monotonic seconds of begin and end; `reason` is empty if rows were returned."""

    began: float
    ended: float
    cached: bool
    reason: str


def effective_at(receipt: Receipt) -> float:
    """The effective time of a receipt on the monotonic clock."""
    assert receipt.effective_at_us is not None
    return receipt.effective_at_us / 1e6 - (time.time() - time.monotonic())


@dataclass
class CallLog:
    """The calls of one peer's callers until `stopped` is set."""

    seen: list[CallRecord] = field(default_factory=list)
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
            self.seen.append(CallRecord(began, time.monotonic(), cached, reason))
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
            self.seen.append(CallRecord(began, time.monotonic(), cached, reason))
            time.sleep(0.001)  # the callers of one process share one interpreter

    def served_after(self, instant: float) -> list[CallRecord]:
        """The calls that began at or after an instant and returned rows."""
        return [seen for seen in self.seen if not seen.reason and seen.began >= instant]

    def hits_before(self, instant: float) -> int:
        """The number of cache hits that began before an instant."""
        return sum(seen.cached and seen.began < instant for seen in self.seen)
