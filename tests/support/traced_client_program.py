"""A program that calls a gateway of another process inside one span; a test runs it as a process.

Arguments: a directory for its gateway, an enrollment token, the process id of the serving gateway.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
from opentelemetry import trace

from federation.bootstrap import init_gateway
from federation.config import GatewayConfig
from federation.enrollment.enroll import enroll
from federation.federation import Federation
from federation.pki.enrollment_token import EnrollmentToken
from federation.pki.sealing import Sealer
from federation.store.database import Database
from federation.store.peers import PeerStore
from federation.telemetry.setup import setup_telemetry
from federation.v1 import federation_pb2 as pb

SEARCH = pb.SearchRequest(query="task")


async def init_and_enroll(directory: Path, token: str) -> GatewayConfig:
    """Create this program's gateway and enroll it."""
    config = GatewayConfig(directory=directory, name="home.example", listen="127.0.0.1:0", enroll="127.0.0.1:0")
    await init_gateway(config)
    database = await Database.open(config.database_url)
    peers = PeerStore(database, Sealer.load(directory))
    await enroll(EnrollmentToken.decode(token), gateway_name=config.name, user="ada", peers=peers)
    await database.close()
    return config


async def failing(call: Any) -> None:
    """Await a call that may fail."""
    with suppress(grpc.aio.AioRpcError):
        await call


async def ask(stub: Any, pid: int) -> None:
    """Make one call of each outcome."""
    await stub.List(pb.ListRequest(resource="tasks"))
    await stub.List(pb.ListRequest(resource="tasks"))
    await failing(stub.Get(pb.GetRequest(resource="tasks", id="absent")))
    await failing(stub.List(pb.ListRequest(resource="credentials")))
    await failing(stub.List(pb.ListRequest(resource="tasks", page_token="forged")))
    os.kill(pid, signal.SIGSTOP)
    try:
        await failing(stub.Search(SEARCH, timeout=0.2))
        call = stub.Search(SEARCH)
        await asyncio.sleep(0.05)
        call.cancel()
        await asyncio.gather(*(failing(stub.Search(SEARCH, timeout=1.2)) for _ in range(5)))
        await failing(stub.Search(SEARCH))
    finally:
        os.kill(pid, signal.SIGCONT)


async def main(directory: str, token: str, pid: str) -> None:
    """Create and enroll the gateway, make the calls, and export the telemetry."""
    config = await init_and_enroll(Path(directory), token)
    telemetry = setup_telemetry(config.telemetry, config.name, "1.0")
    async with Federation(config, telemetry=telemetry) as fed:
        await fed.armed()
        with trace.get_tracer("program").start_as_current_span("program"):
            await ask(fed.stub("work.example", "ada"), int(pid))
        await asyncio.to_thread(telemetry.shutdown)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
