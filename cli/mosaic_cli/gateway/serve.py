"""`mosaic gateway serve`: run a gateway in this process."""

import logging
from pathlib import Path

from federation.config import GatewayConfig
from federation.gateway import Gateway
from federation.telemetry.log_format import setup_logging
from mosaic_cli.output import console


async def run(directory: Path, *, standby: bool) -> None:
    """Serve until SIGINT or SIGTERM, or until the serving lock is lost."""
    config = GatewayConfig.load(directory)
    setup_logging(config.telemetry)
    logging.getLogger("alembic").setLevel(logging.WARNING)

    def waiting() -> None:
        console.message(f"another process serves {config.name}; waiting for it to exit")

    async with Gateway.open(config, standby=standby, waiting=waiting) as gateway:
        await gateway.start()
        await gateway.serve_forever(lambda: _announce(gateway))
    console.message(f"{config.name} stopped")


def _announce(gateway: Gateway) -> None:
    console.write(f"{gateway.config.name} serves")
    console.write(f"  federation  {gateway.federation_address}")
    console.write(f"  enrollment  {gateway.enrollment_address}")
    if gateway.metrics_url:
        console.write(f"  metrics     {gateway.metrics_url}")
    console.write(f"  admin       {gateway.config.socket_path}")
    console.flush()
