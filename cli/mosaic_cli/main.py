"""The `mosaic` command: its tree, and how errors become one line and an exit code.

Commands import what they need when they run, so that `--help` and completion stay quick.
"""

import io
import os
import sys
from pathlib import Path
from typing import Any, Final

import typer

from mosaic_cli import completion, user
from mosaic_cli.audit import command as audit
from mosaic_cli.demo import command as demo
from mosaic_cli.gateway import command as gateway
from mosaic_cli.grants import command as grant
from mosaic_cli.mcp import command as mcp
from mosaic_cli.options import UNSET_GATEWAY, GroupGateway
from mosaic_cli.peers import command as peer
from mosaic_cli.query import command as query
from mosaic_cli.status import command as status

__all__ = ["main"]

FAILED: Final = 1
USAGE: Final = 2
NOT_REACHABLE: Final = 4
INTERRUPTED: Final = 130
# The base of every usage error; its module has moved between releases of typer.
_USAGE_ERROR: Final[Any] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="mosaic",
    help="Live, scoped reads between two gateways over mutual TLS.",
    epilog="Begin with: mosaic demo",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
federation = typer.Typer(
    help="Share this gateway's data with others, and read theirs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@federation.callback()
def _federation(gateway: GroupGateway = UNSET_GATEWAY) -> None:
    """Share this gateway's data with others, and read theirs."""


@app.callback(invoke_without_command=True)
def _root(
    *,
    version: bool = typer.Option(False, "--version", help="Print the version and end."),
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"mosaic {installed('mosaic-federation')}")
        raise typer.Exit


app.add_typer(gateway.app, name="gateway")
app.add_typer(federation, name="federation")
app.add_typer(user.app, name="user")
app.command("demo", help=demo.HELP)(demo.demo)
app.command("mcp", help=mcp.HELP)(mcp.mcp)
federation.add_typer(grant.app, name="grant")
federation.add_typer(peer.app, name="peer")
federation.add_typer(query.app, name="query")
federation.command("status", help=status.HELP)(status.status)
federation.command("audit", help=audit.HELP)(audit.audit)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 fine, 1 failed, 2 usage, 3 peer not healthy, 4 not reachable."""
    command: Any = typer.main.get_command(app)
    arguments = sys.argv[1:] if argv is None else argv
    _steady_output()
    if (code := completion.run(lambda: command.main(args=[], prog_name="mosaic", standalone_mode=False))) is not None:
        return code
    try:
        result = command.main(args=arguments, prog_name="mosaic", standalone_mode=False)
        sys.stdout.flush()
    except _USAGE_ERROR as e:
        return _usage(e)
    except UnicodeEncodeError as e:
        return _not_text(e) if any(e.object in argument for argument in arguments) else _failed(e)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away, as `head` does; nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as e:  # noqa: BLE001 - a person shall see one line, whatever happened
        return _failed(e)
    return result if isinstance(result, int) else 0


def _steady_output() -> None:
    """Let no character fail that the terminal's encoding lacks, and no output that nobody wants."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - it lives as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _not_text(error: UnicodeEncodeError) -> int:
    """Name an argument that holds bytes which are no text; file names may, names and words may not."""
    typer.echo(f"error: the argument {error.object[:80]!r} is not UTF-8 text", err=True)
    return USAGE


def _usage(error: Any) -> int:
    context = getattr(error, "ctx", None)
    words = error.format_message().rstrip(".")
    if not words or type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(words, err=True)
    else:
        path = context.command_path if context else "mosaic"
        typer.echo(f"error: {words}; see: {path} --help", err=True)
    return USAGE


def _failed(error: Exception) -> int:
    from federation.errors import FederationError, GatewayUnavailableError

    if isinstance(error, FederationError):
        from mosaic_cli.output.errors import explain

        typer.echo(f"error: {explain(error)}", err=True)
        return NOT_REACHABLE if isinstance(error, GatewayUnavailableError) else FAILED
    if os.environ.get("MOSAIC_DEBUG"):
        raise error
    typer.echo(f"error: {type(error).__name__}: {error}; MOSAIC_DEBUG=1 shows where", err=True)
    return FAILED
