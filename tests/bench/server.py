"""The benchmark's peer: a lean aio server, run as a separate process, that answers every call with the same 20 rows.

It reads its certificate, key and trust bundle from stdin as one line of JSON, prints its port, and ends when stdin is
closed. The answer is serialized once, so that the client is measured; it has a lease and a `traceresponse`, as a
gateway's answer does. `Get` takes `SLOW_S`, and `Capabilities` returns the number of `Get` calls. `List` answers
immediately, or after the `delay_s` given with the certificate.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from federation.v1 import federation_pb2 as pb
from federation.wire.channel_args import SERVER
from federation.wire.metadata import LEASE_MS, TRACERESPONSE
from tests.support.pki import Leaf, server_credentials

ROWS: Final = 20
SLOW_S: Final = 0.02
_TRAILING: Final = ((LEASE_MS, "30000"), (TRACERESPONSE, "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"))


def rows(count: int) -> list[pb.Row]:
    """Rows like those of the demo: a JSON text of a hundred characters and two timestamps."""
    data = json.dumps({"title": "Write the quarterly report", "status": "open", "priority": 2, "notes": "x" * 32})
    at = Timestamp(seconds=1_800_000_000, nanos=123_456_000)
    return [
        pb.Row(id=f"task-{n:03}", resource="tasks", owner="ada", team="T1", data=data, created_at=at, updated_at=at)
        for n in range(count)
    ]


class Peer(grpc.GenericRpcHandler):
    """The federation service, on serialized messages."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.gets, self._delay_s = 0, delay_s
        self._list = pb.ListResponse(rows=rows(ROWS)).SerializeToString()
        self._get = pb.GetResponse(row=rows(1)[0]).SerializeToString()
        self._handlers: dict[str, Any] = {
            "List": grpc.unary_unary_rpc_method_handler(self.list),
            "Get": grpc.unary_unary_rpc_method_handler(self.get),
            "Capabilities": grpc.unary_unary_rpc_method_handler(self.capabilities),
            "Watch": grpc.stream_stream_rpc_method_handler(self.watch),
        }

    def service(self, handler_call_details: Any) -> Any:
        """Find the handler of a method."""
        return self._handlers.get(handler_call_details.method.rpartition("/")[2])

    async def list(self, _: bytes, context: Any) -> bytes:
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        context.set_trailing_metadata(_TRAILING)
        return self._list

    async def get(self, _: bytes, context: Any) -> bytes:
        self.gets += 1
        await asyncio.sleep(SLOW_S)
        context.set_trailing_metadata(_TRAILING)
        return self._get

    async def capabilities(self, _: bytes, __: Any) -> bytes:
        return pb.CapabilitiesResponse(max_rows_per_query=self.gets).SerializeToString()

    async def watch(self, requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        """Arm immediately, and answer each heartbeat."""
        number = 0
        async for raw in requests:
            number += 1
            subscribed = pb.WatchRequest.FromString(raw).HasField("subscribe")
            kind: dict[str, Any] = {"armed": pb.WatchArmed()} if subscribed else {"heartbeat": pb.WatchHeartbeat()}
            yield pb.WatchResponse(event_id=number, **kind).SerializeToString()


async def main() -> None:
    """Serve until stdin ends."""
    identity = json.loads(sys.stdin.readline())
    server = grpc.aio.server(options=SERVER.to_grpc())
    server.add_generic_rpc_handlers((Peer(identity.get("delay_s", 0.0)),))
    leaf = Leaf(identity["certificate_pem"], identity["key_pem"])
    port = server.add_secure_port("127.0.0.1:0", server_credentials(leaf, identity["trust_bundle"]))
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(main())
