"""Clients that are not ours: grpcurl, which knows nothing but the protos, and a bare generated stub."""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.server.pipeline.authorization import GRANT_INVALID_MESSAGE
from federation.v1 import federation_pb2 as pb
from federation.v1 import federation_pb2_grpc as pb_grpc
from tests.support.pki import Leaf
from tests.support.server_in_memory import GATEWAY, INSTANCE, MemoryServer

PROTOS = Path(__file__).parents[3] / "protos"
GRPCURL = shutil.which("grpcurl", path=Path(sys.executable).parent) or shutil.which("grpcurl")


def runs() -> bool:
    """Whether the binary is there and this machine can run it."""
    try:
        return GRPCURL is not None and subprocess.run([GRPCURL, "-version"], timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


class Grpcurl:
    """Runs grpcurl against a server as the holder of a certificate."""

    def __init__(self, directory: Path, serving: MemoryServer, leaf: Leaf | None = None) -> None:
        leaf = leaf or serving.leaf
        self._given = ["-import-path", str(PROTOS), "-proto", "federation/v1/federation.proto", "-authority", GATEWAY]
        files = {"cacert": serving.authority.trust_bundle, "cert": leaf.certificate_pem, "key": leaf.key_pem}
        for option, text in files.items():
            (directory / option).write_text(text)
            self._given += [f"-{option}", str(directory / option)]
        self._address = serving.server.federation_address

    async def call(self, method: str, request: dict[str, Any], *options: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of one call."""
        process = await asyncio.create_subprocess_exec(
            str(GRPCURL),
            *self._given,
            *options,
            "-d",
            json.dumps(request),
            self._address,
            f"federation.v1.FederationService/{method}",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(30):
            out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()


@pytest.mark.skipif(not runs(), reason="grpcurl's binary does not run here; the plain stub is tested below")
async def test_grpcurl_reads_rows_by_the_protos_alone(serving: MemoryServer, tmp_path: Path) -> None:
    """A client generated from the published protos lists, gets, searches and receives refusals."""
    grpcurl = Grpcurl(tmp_path, serving)

    code, out, err = await grpcurl.call("List", {"resource": "tasks", "pageSize": 2})
    assert code == 0, err
    page = json.loads(out)
    assert [row["id"] for row in page["rows"]] == ["t1", "t2"]
    assert json.loads(page["rows"][0]["data"]) == {"title": "task 1"}

    code, out, err = await grpcurl.call("List", {"resource": "tasks", "pageToken": page["nextPageToken"]})
    assert [row["id"] for row in json.loads(out)["rows"]] == ["t3"], err

    code, out, err = await grpcurl.call(
        "Get", {"resource": "tasks", "id": "t2"}, "-v", "-H", f"mosaic-instance: {INSTANCE}"
    )
    assert "mosaic-lease-ms: 30000" in out, err

    code, out, err = await grpcurl.call("Search", {"query": "note"})
    assert [hit["row"]["id"] for hit in json.loads(out)["hits"]] == ["n1"], err

    code, out, err = await grpcurl.call("List", {"resource": "memory"})
    assert code != 0
    assert "PermissionDenied" in err
    assert "google.rpc.ErrorInfo" in err


@pytest.mark.skipif(not runs(), reason="grpcurl's binary does not run here; the plain stub is tested below")
async def test_grpcurl_with_a_stranger_s_certificate_gets_nothing(serving: MemoryServer, tmp_path: Path) -> None:
    """The same client with a certificate that the grant does not know is refused."""
    code, out, err = await Grpcurl(tmp_path, serving, serving.pki.client()).call("List", {"resource": "tasks"})

    assert (code != 0, out) == (True, "")
    assert GRANT_INVALID_MESSAGE in err


async def test_a_bare_generated_stub_reads_rows(serving: MemoryServer) -> None:
    """A plain sync channel and the generated stub are enough; nothing of our client is needed."""
    target = serving.server.federation_address
    trust, leaf = serving.authority.trust_bundle, serving.leaf
    credentials = grpc.ssl_channel_credentials(trust.encode(), leaf.key_pem.encode(), leaf.certificate_pem.encode())

    def call() -> pb.ListResponse:
        options = (("grpc.ssl_target_name_override", GATEWAY),)
        with grpc.secure_channel(target, credentials, options) as channel:
            return pb_grpc.FederationServiceStub(channel).List(pb.ListRequest(resource="tasks"), timeout=5)

    assert [row.id for row in (await asyncio.to_thread(call)).rows] == ["t1", "t2", "t3"]
