"""A hundred tasks that ask the same at once, of a server that takes its time: how many calls it sees, and how long."""

import asyncio
import time
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from federation.v1 import federation_pb2 as pb
from tests.bench.world import DEADLINE_S, World

ASKERS: Final = 100
_NUMBERS: Final = count()


@dataclass
class Sharing:
    """One bare call, a hundred bare calls, and a hundred through the chain: milliseconds, and calls at the server."""

    one_ms: list[float] = field(default_factory=list)
    bare_ms: list[float] = field(default_factory=list)
    chain_ms: list[float] = field(default_factory=list)
    bare_calls: list[int] = field(default_factory=list)
    chain_calls: list[int] = field(default_factory=list)

    def round(self, world: World) -> None:
        """Let all three ask once."""
        world.runner.run(self._ask(world))

    async def _ask(self, world: World) -> None:
        bare, chain = world.bare, world.off.aio
        took, _ = await self._timed(bare, bare, 1, timeout=DEADLINE_S)
        self.one_ms.append(took)
        took, calls = await self._timed(bare, bare, ASKERS, timeout=DEADLINE_S)
        self.bare_ms.append(took)
        self.bare_calls.append(calls)
        took, calls = await self._timed(bare, chain, ASKERS)
        self.chain_ms.append(took)
        self.chain_calls.append(calls)

    async def _timed(self, counter: Any, stub: Any, askers: int, **options: Any) -> tuple[float, int]:
        request = pb.GetRequest(resource="tasks", id=f"task-{next(_NUMBERS)}")
        before = await _gets(counter)
        begun = time.perf_counter()
        await asyncio.gather(*(_one(stub, request, options) for _ in range(askers)))
        took = time.perf_counter() - begun
        return took * 1e3, await _gets(counter) - before


async def _one(stub: Any, request: pb.GetRequest, options: dict[str, Any]) -> None:
    await stub.Get(request, **options)


async def _gets(stub: Any) -> int:
    answer = await stub.Capabilities(pb.CapabilitiesRequest())
    return int(answer.max_rows_per_query)
