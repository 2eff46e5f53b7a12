"""A program that closes an event loop during the probe of a half-open circuit, then continues in threads.

A test runs it as a separate process, because gRPC's tasks of a closed loop warn when they are collected.
"""

import asyncio
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import grpc

from federation.client.aio.channel import AioChannel
from federation.config import CircuitConfig
from federation.v1 import federation_pb2 as pb
from federation.v1.federation_pb2_grpc import FederationServiceStub
from federation.wire.status import error_detail_of
from tests.support.federations import shared_runtime, sync_channel_of
from tests.support.pki import Pki
from tests.support.scripted import Reply, ScriptedPeer

REQUESTS: dict[str, Any] = {"Search": pb.SearchRequest(query="x"), "List": pb.ListRequest(resource="tasks")}
BUDGET_S = 0.3
CIRCUIT = CircuitConfig(failure_threshold=1, cooldown_s=0.01, jitter=0.0)


def outcome_of(stub: Any, verb: str) -> str:
    """The reason of a failed call, or OK."""
    try:
        getattr(stub, verb)(REQUESTS[verb])
    except grpc.RpcError as e:
        return error_detail_of(e).reason
    return "OK"


def main(verb: str) -> None:
    """Print the circuit's state during the probe, the outcomes of a call during and after it, and the final state."""
    peer = ScriptedPeer(Pki())
    peer.start()
    with (
        tempfile.TemporaryDirectory() as directory,
        shared_runtime(Path(directory), peer.record(), circuit=CIRCUIT) as home,
    ):
        called, channel = home.peers.all()[0], sync_channel_of(home)
        stub = FederationServiceStub(channel)
        peer.service.script(verb.lower(), Reply(code=grpc.StatusCode.UNAVAILABLE), Reply(gate=threading.Event()))
        outcome_of(stub, verb)
        time.sleep(0.05)

        async def probe() -> Any:
            call = getattr(FederationServiceStub(AioChannel(called, clock=home.clock, deadline_s=BUDGET_S)), verb)
            held = call(REQUESTS[verb])
            await asyncio.sleep(0.1)
            return held

        loop = asyncio.new_event_loop()
        held = loop.run_until_complete(probe())
        loop.close()
        assert not held.done()
        print(called.circuit.snapshot(home.clock.monotonic()).state)
        print(outcome_of(stub, "Search"))
        time.sleep(BUDGET_S + 1.0)
        peer.service.script(verb.lower(), Reply())
        print(outcome_of(stub, verb))
        print(called.circuit.snapshot(home.clock.monotonic()).state)
    print("ended", flush=True)
    os._exit(0)  # skips collecting the remains of the loop


if __name__ == "__main__":
    main(sys.argv[1])
