"""Measures a hundred identical concurrent calls to a slow server: their time, and the calls that reach the server."""

import asyncio
import time
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from federation.v1 import federation_pb2 as pb
from tests.bench.clients import DEADLINE_S, Clients

CALLERS: Final = 100
_NUMBERS: Final = count()


@dataclass
class SharedCalls:
    """One bare call, a hundred bare calls, and a hundred through the chain: milliseconds, and calls at the server."""

    one_ms: list[float] = field(default_factory=list)
    bare_ms: list[float] = field(default_factory=list)
    chain_ms: list[float] = field(default_factory=list)
    bare_calls: list[int] = field(default_factory=list)
    chain_calls: list[int] = field(default_factory=list)

    def round(self, clients: Clients) -> None:
        """Measure all three once."""
        clients.runner.run(self._measure(clients))

    async def _measure(self, clients: Clients) -> None:
        bare, chain = clients.bare, clients.off.aio
        took, _ = await self._timed(bare, bare, 1, timeout=DEADLINE_S)
        self.one_ms.append(took)
        took, calls = await self._timed(bare, bare, CALLERS, timeout=DEADLINE_S)
        self.bare_ms.append(took)
        self.bare_calls.append(calls)
        took, calls = await self._timed(bare, chain, CALLERS)
        self.chain_ms.append(took)
        self.chain_calls.append(calls)

    async def _timed(self, counter: Any, stub: Any, callers: int, **options: Any) -> tuple[float, int]:
        request = pb.GetRequest(resource="tasks", id=f"task-{next(_NUMBERS)}")
        before = await _gets(counter)
        begun = time.perf_counter()
        await asyncio.gather(*(_one(stub, request, options) for _ in range(callers)))
        took = time.perf_counter() - begun
        return took * 1e3, await _gets(counter) - before


async def _one(stub: Any, request: pb.GetRequest, options: dict[str, Any]) -> None:
    await stub.Get(request, **options)


async def _gets(stub: Any) -> int:
    answer = await stub.Capabilities(pb.CapabilitiesRequest())
    return int(answer.max_rows_per_query)
