"""`mosaic gateway serve`: the process round a gateway."""

import logging
from pathlib import Path

from federation.config import GatewayConfig
from federation.gateway import Gateway
from federation.telemetry.log_format import setup_logging
from mosaic_cli.output import console as render

__all__ = ["run"]


async def run(directory: Path, *, standby: bool) -> None:
    """Serve until a signal, or until the right to serve is lost."""
    config = GatewayConfig.load(directory)
    setup_logging(config.telemetry)
    logging.getLogger("alembic").setLevel(logging.WARNING)

    def waiting() -> None:
        render.say(f"another process serves {config.name}; waiting for it to end")

    async with Gateway.open(config, standby=standby, waiting=waiting) as gateway:
        await gateway.start()
        await gateway.serve_forever(lambda: _announce(gateway))
    render.say(f"{config.name} stopped")


def _announce(gateway: Gateway) -> None:
    render.out(f"{gateway.config.name} serves")
    render.out(f"  federation  {gateway.federation_address}")
    render.out(f"  enrollment  {gateway.enrollment_address}")
    if gateway.metrics_url:
        render.out(f"  metrics     {gateway.metrics_url}")
    render.out(f"  admin       {gateway.config.socket_path}")
    render.flush()
