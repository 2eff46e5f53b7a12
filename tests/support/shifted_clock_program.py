"""A gateway process whose clocks are ahead by the seconds in files of its directory: `wall.ahead`, `monotonic.ahead`.

`python -m tests.support.shifted_clock_program DIR` serves like `mosaic gateway serve --gateway DIR`.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

from federation.clock import Clock
from federation.gateway import Gateway

WALL, MONOTONIC = "wall.ahead", "monotonic.ahead"


def _shifted(clock: Callable[[], float], path: Path) -> Callable[[], float]:
    def now() -> float:
        try:
            return clock() + float(path.read_text())
        except (FileNotFoundError, ValueError):  # not written yet, or just being written
            return clock()

    return now


async def serve(directory: Path) -> None:
    """Serve until a signal."""
    wall, monotonic = _shifted(time.time, directory / WALL), _shifted(time.monotonic, directory / MONOTONIC)
    async with Gateway.open(directory, clock=Clock(wall=wall, monotonic=monotonic)) as gateway:
        await gateway.start()
        await gateway.serve_forever(lambda: print(f"  admin {gateway.config.socket_path}", flush=True))


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[-1])))
