"""`mosaic gateway`: create and run a gateway, and import its data."""

import re
from pathlib import Path
from typing import Annotated

import typer

from mosaic_cli.options import UNSET_GATEWAY, Gateway, Json, command_group

app = command_group("Create and run a gateway, and import its data.")


@app.command("init")
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty directory.")],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="A DNS name, such as work.example.")],
    listen: Annotated[
        str, typer.Option("--listen", metavar="H:P", help="Address of the federation service.")
    ] = "127.0.0.1:7443",
    enroll: Annotated[
        str, typer.Option("--enroll", metavar="H:P", help="Address of the enrollment service.")
    ] = "127.0.0.1:7444",
    advertise: Annotated[
        str,
        typer.Option(
            "--advertise", metavar="HOST", help="Host at which peers reach it; default: the host of --listen."
        ),
    ] = "",
    database: Annotated[
        str, typer.Option("--database", metavar="URL", help="postgresql+asyncpg://…; default: SQLite in DIR.")
    ] = "",
    admin_socket: Annotated[
        str, typer.Option("--admin-socket", metavar="PATH", help="Unix socket for the operator's commands.")
    ] = "run/admin.sock",
    *,
    as_json: Json = False,
) -> None:
    """Create a gateway: settings, keys, database and its own certificate authority.

    \b
    Examples:
      mosaic gateway init home --name home.example
      mosaic gateway init work --name work.example --listen 0.0.0.0:7443 \\
          --enroll 0.0.0.0:7444 --advertise work.example.org
    """
    import asyncio

    from federation.bootstrap import init_gateway
    from federation.config import GatewayConfig, StoreConfig
    from federation.errors import ConfigError, InputError
    from mosaic_cli.output import console, shapes

    try:
        config = GatewayConfig(
            directory=directory,
            name=name,
            listen=listen,
            enroll=enroll,
            advertise=advertise,
            admin_socket=admin_socket,
            store=StoreConfig(url=database),
        )
        asyncio.run(init_gateway(config))
    except ConfigError as e:
        option = {"store.url": "--database", "admin_socket": "--admin-socket"}.get(e.field, f"--{e.field}")
        # There is no gateway.toml yet, so the message must not advise to edit it.
        cure = "choose a shorter DIR, or --admin-socket with a short absolute path"
        problem = str(e).removeprefix(f"{e.field}: ")
        raise InputError(option, re.sub(r"set admin_socket in gateway\.toml.*", cure, problem)) from None
    if as_json:
        console.write(shapes.dump({"gateway": {"name": name, "directory": str(directory.absolute())}}))
        return
    console.message(f"created the gateway {name} in {directory}")
    console.message(f"next: mosaic gateway serve --gateway {directory}")


@app.command("serve")
def serve(
    gateway: Gateway = UNSET_GATEWAY,
    *,
    standby: Annotated[bool, typer.Option("--standby", help="Wait while another process serves this gateway.")] = False,
) -> None:
    """Run a gateway until Ctrl-C or SIGTERM.

    \b
    Examples:
      mosaic gateway serve --gateway work
      MOSAIC_GATEWAY=work mosaic gateway serve --standby
    """
    import asyncio

    from mosaic_cli.gateway.serve import run

    asyncio.run(run(gateway, standby=standby))


@app.command("import")
def import_rows(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON lines, or - for standard input.")],
    gateway: Gateway = UNSET_GATEWAY,
    *,
    as_json: Json = False,
) -> None:
    """Import users, teams, members and rows. A file with an invalid line changes nothing.

    The file has one JSON object on each line:

    \b
      {"kind": "user", "id": "ada"}
      {"kind": "team", "id": "T1"}
      {"kind": "member", "user": "ada", "team": "T1"}
      {"kind": "row", "resource": "tasks", "id": "T-1", "owner": "ada", "team": "T1",
       "data": {"title": "Renew the certificate", "status": "open"}}

    \b
    Example:
      mosaic gateway import rows.jsonl --gateway work
    """
    from mosaic_cli.gateway.import_rows import load
    from mosaic_cli.output import console, shapes

    summary = load(gateway, file)
    if as_json:
        console.write(shapes.dump({"imported": summary}))
    else:
        console.write(", ".join(f"{count} {name}" for name, count in summary.items()))
