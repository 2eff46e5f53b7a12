"""A probe of a peer's capabilities, for `peer show --live`."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from federation.admin.errors import error_of
from federation.errors import FederationError, GatewayUnavailableError, Refusal
from federation.v1 import admin_pb2 as pb
from federation.v1 import federation_pb2
from mosaic_cli.output import console, shapes
from mosaic_cli.output.errors import explain

if TYPE_CHECKING:
    from federation.v1.admin_pb2_grpc import AdminServiceStub


@dataclass(frozen=True, slots=True)
class LiveProbe:
    """The peer's answer, or the error of the call."""

    capabilities: federation_pb2.CapabilitiesResponse | None
    error: FederationError | None
    took_ms: float

    def shape(self) -> dict[str, Any]:
        """Return the JSON object of the probe."""
        return {
            "capabilities": shapes.capabilities(self.capabilities) if self.capabilities else None,
            "reason": self.error.reason.value if isinstance(self.error, Refusal) else None,
            "error": explain(self.error) if self.error else None,
            "took_ms": round(self.took_ms, 1),
        }

    def show(self) -> None:
        """Print the result as a table."""
        console.write("")
        if self.capabilities is None:
            console.facts((("live probe", explain(self.error) if self.error else "empty answer"),))
            return
        console.facts(
            (
                ("live probe", f"answered in {self.took_ms:.0f} ms"),
                ("gateway", f"{self.capabilities.gateway} ({self.capabilities.gateway_version or 'version unknown'})"),
                ("opens", ", ".join(self.capabilities.resources) or "nothing"),
                ("excluded", ", ".join(self.capabilities.excluded_resources) or "-"),
                ("rows a query", str(self.capabilities.max_rows_per_query)),
            )
        )


def probe(admin: "AdminServiceStub", peer: pb.PeerStatus) -> LiveProbe:
    """Query a peer's capabilities through the gateway. Raises `GatewayUnavailableError` if the gateway is gone."""
    request = pb.QueryRequest(
        user=peer.user, source=f"federated:{peer.name}", capabilities=federation_pb2.CapabilitiesRequest()
    )
    capabilities, error, started = None, None, time.perf_counter()
    try:
        for reply in admin.Query(request):
            if reply.HasField("capabilities"):
                capabilities = reply.capabilities
    except grpc.RpcError as e:
        error = error_of(e)
        if isinstance(error, GatewayUnavailableError):
            raise error from None
    return LiveProbe(capabilities, error, (time.perf_counter() - started) * 1e3)
