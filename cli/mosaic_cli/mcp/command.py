"""`mosaic mcp`: this gateway's data and its peers' as tools for an agent, over standard input and output."""

from typing import Annotated, Final

import typer

from mosaic_cli import completion
from mosaic_cli.options import UNSET_GATEWAY, Gateway

__all__ = ["HELP", "mcp"]

HELP: Final = """Serve list, get, search and status to an agent, as tools of the Model Context Protocol over stdio.

An agent's program starts this command and speaks with it; it asks the running gateway, as one of its users, and ends
when its standard input does. All that it asks is one session: a peer that is away is told once, and then skipped until
it is back.

\b
Examples:
  mosaic mcp --user ada --gateway /srv/mosaic/home
  claude mcp add mosaic -- mosaic mcp --user ada --gateway /srv/mosaic/home
"""
EXTRA: Final = frozenset({"mcp", "mcp_types", "anyio", "pydantic"})


def mcp(
    user: Annotated[
        str,
        typer.Option(
            "--user", "-u", metavar="USER", help="The user here in whose name it asks.", autocompletion=completion.users
        ),
    ],
    gateway: Gateway = UNSET_GATEWAY,
    *,
    budget: Annotated[
        float,
        typer.Option(
            "--budget", metavar="SECONDS", min=0, max=300, help="What each peer may take; 0: as the gateway is set."
        ),
    ] = 0.0,
) -> None:
    """Serve until standard input ends."""
    from federation.config import GatewayConfig
    from federation.errors import FederationError
    from mosaic_cli.mcp.gateway_client import GatewayClient

    try:
        from mosaic_cli.mcp.server import serve
    except ModuleNotFoundError as e:
        if e.name not in EXTRA:
            raise
        raise FederationError("this needs the extra `mcp`: pip install 'mosaic-federation[mcp]'") from None
    serve(GatewayClient(GatewayConfig.load(gateway), gateway, user, budget))
