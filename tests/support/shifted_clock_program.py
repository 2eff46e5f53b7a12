"""A gateway process whose wall clock is ahead by the number of seconds in the file `ahead` of its directory.

`python -m tests.support.shifted_clock_program DIR` serves like `mosaic gateway serve --gateway DIR`.
"""

import asyncio
import sys
import time
from pathlib import Path

from federation.clock import Clock
from federation.gateway import Gateway

AHEAD = "ahead"


async def serve(directory: Path) -> None:
    """Serve until a signal."""

    def wall() -> float:
        try:
            return time.time() + float((directory / AHEAD).read_text())
        except (FileNotFoundError, ValueError):  # not written yet, or just being written
            return time.time()

    async with Gateway.open(directory, clock=Clock(wall=wall)) as gateway:
        await gateway.start()
        await gateway.serve_forever(lambda: print(f"  admin {gateway.config.socket_path}", flush=True))


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[-1])))
