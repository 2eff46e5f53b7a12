"""A gateway whose wall clock goes ahead by as many seconds as the file `ahead` in its directory says, in a process.

`python -m tests.support.ahead DIR` serves as `mosaic gateway serve --gateway DIR` does.
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
