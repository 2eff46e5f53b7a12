"""What a peer says when it is asked at this moment."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from federation.admin.errors import error_of
from federation.errors import FederationError, GatewayUnavailableError, Refusal
from federation.v1 import admin_pb2 as pb
from federation.v1 import federation_pb2
from mosaic_cli.output import console as render
from mosaic_cli.output import shapes
from mosaic_cli.output.errors import explain

if TYPE_CHECKING:
    from federation.v1.admin_pb2_grpc import AdminServiceStub

__all__ = ["LiveProbe", "ask"]


@dataclass(frozen=True, slots=True)
class LiveProbe:
    """The answer of a peer, or why there was none."""

    opens: federation_pb2.CapabilitiesResponse | None
    fault: FederationError | None
    took_ms: float

    def shape(self) -> dict[str, Any]:
        """Return it as `--json` has it."""
        return {
            "capabilities": shapes.capabilities(self.opens) if self.opens else None,
            "reason": self.fault.reason.value if isinstance(self.fault, Refusal) else None,
            "error": explain(self.fault) if self.fault else None,
            "took_ms": round(self.took_ms, 1),
        }

    def show(self) -> None:
        """Print it for people."""
        render.out("")
        if self.opens is None:
            render.facts((("asked now", explain(self.fault) if self.fault else "it said nothing"),))
            return
        render.facts(
            (
                ("asked now", f"answered in {self.took_ms:.0f} ms"),
                ("gateway", f"{self.opens.gateway} ({self.opens.gateway_version or 'version unknown'})"),
                ("opens", ", ".join(self.opens.resources) or "nothing"),
                ("excluded", ", ".join(self.opens.excluded_resources) or "-"),
                ("rows a query", str(self.opens.max_rows_per_query)),
            )
        )


def ask(admin: "AdminServiceStub", peer: pb.PeerStatus) -> LiveProbe:
    """Ask a peer what it opens, through the gateway. Raises `GatewayUnavailableError` where that one is gone."""
    request = pb.QueryRequest(
        user=peer.user, source=f"federated:{peer.name}", capabilities=federation_pb2.CapabilitiesRequest()
    )
    opens, fault, began = None, None, time.perf_counter()
    try:
        for reply in admin.Query(request):
            if reply.HasField("capabilities"):
                opens = reply.capabilities
    except grpc.RpcError as e:
        fault = error_of(e)
        if isinstance(fault, GatewayUnavailableError):
            raise fault from None
    return LiveProbe(opens, fault, (time.perf_counter() - began) * 1e3)
