"""`mosaic mcp`: serve rows of this gateway and its peers to an agent, over standard input and output."""

from typing import Final

from mosaic_cli.options import UNSET_GATEWAY, Gateway
from mosaic_cli.query.command import Budget, User

HELP: Final = """Serve list, get, search and status to an agent, as tools of the Model Context Protocol over stdio.

An agent's program starts this command. It queries the running gateway in the name of one of its users, and exits at
the end of standard input. All queries form one session: an unreachable peer is reported once, and then skipped until
it is reachable again.

\b
Examples:
  mosaic mcp --user ada --gateway /srv/mosaic/home
  claude mcp add mosaic -- mosaic mcp --user ada --gateway /srv/mosaic/home
"""
EXTRA: Final = frozenset({"mcp", "mcp_types", "anyio", "pydantic"})


def mcp(user: User, gateway: Gateway = UNSET_GATEWAY, *, budget: Budget = 0.0) -> None:
    """Serve until standard input ends."""
    from federation.config import GatewayConfig
    from federation.errors import FederationError
    from mosaic_cli.mcp.gateway_client import GatewayClient

    try:
        from mosaic_cli.mcp.server import serve
    except ModuleNotFoundError as e:
        if e.name not in EXTRA:
            raise
        raise FederationError(
            "mosaic mcp needs the extra `mcp`; install it: pip install 'mosaic-federation[mcp]'"
        ) from None
    serve(GatewayClient(GatewayConfig.load(gateway), gateway, user, budget))
