"""The `mosaic` command: the command tree, and the conversion of errors to one line and an exit code.

A command's module is imported when a command line, a help page or completion names the command. The command imports
its own dependencies when it runs, so that every command starts without the modules of the others.
"""

import gc
import importlib
import io
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import typer

from mosaic_cli import completion
from mosaic_cli.coercion import avoid_pydantic
from mosaic_cli.options import command_group

FAILED: Final = 1
USAGE: Final = 2
NOT_REACHABLE: Final = 4
INTERRUPTED: Final = 130
ROOT: Final = {
    "demo": "mosaic_cli.demo.command",
    "mcp": "mosaic_cli.mcp.command",
    "gateway": "mosaic_cli.gateway.command",
    "federation": "",
    "user": "mosaic_cli.user",
}
FEDERATION: Final = {
    "status": "mosaic_cli.status.command",
    "audit": "mosaic_cli.audit.command",
    "grant": "mosaic_cli.grants.command",
    "peer": "mosaic_cli.peers.command",
    "query": "mosaic_cli.query.command",
}
"""The modules of each group's commands, in the order of the help page. A module defines either a group `app`, or a
function with the command's name and the help text `HELP`."""
GC_THRESHOLD: Final = 20_000
"""Allocations before the garbage collector runs. Imports allocate many objects and free few."""
# The base class of every usage error. Its module differs between releases of typer.
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
federation = command_group("Share this gateway's data with others, and read theirs.")


@app.callback(invoke_without_command=True)
def _root(
    *,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"mosaic {installed('mosaic-federation')}")
        raise typer.Exit


class _Commands(Mapping[str, Any]):
    """The commands of a group by name. The first lookup imports the command's module and builds the command."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = modules
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            self._built[name] = _build(name, self._modules[name])
        return self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


def _build(name: str, module: str) -> Any:
    """Build the group or the command that a module defines."""
    command: Any
    if not module:
        command = typer.main.get_group(federation)
    elif hasattr(imported := importlib.import_module(module), "app"):
        command = typer.main.get_group(imported.app)
    else:
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(name, help=imported.HELP)(getattr(imported, name))
        command = typer.main.get_command(single)
    avoid_pydantic(command)
    if not module:
        command.commands = _Commands(FEDERATION)
    command.name = name
    return command


def command_tree() -> Any:
    """Return the root command. Reading the mapping `commands` of a group builds the group's commands."""
    root: Any = typer.main.get_command(app)
    avoid_pydantic(root)
    root.commands = _Commands(ROOT)
    return root


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    The codes are 0 success, 1 failure, 2 usage error, 3 unhealthy peer, 4 gateway unreachable, 130 interrupted.
    """
    command = command_tree()
    arguments = sys.argv[1:] if argv is None else argv
    if argv is None:  # the command owns the process
        gc.set_threshold(GC_THRESHOLD)
    _prepare_output()
    if (code := completion.run(lambda: command.main(args=[], prog_name="mosaic", standalone_mode=False))) is not None:
        return code
    try:
        result = command.main(args=arguments, prog_name="mosaic", standalone_mode=False)
        sys.stdout.flush()
    except _USAGE_ERROR as e:
        return _usage(e)
    except UnicodeEncodeError as e:
        return _report_not_utf8(e) if any(e.object in argument for argument in arguments) else _failed(e)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of the output has exited, as `head` does. Redirect so that the flush at exit does not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as e:  # noqa: BLE001 - the operator gets one line instead of a traceback
        return _failed(e)
    return result if isinstance(result, int) else 0


def _prepare_output() -> None:
    """Escape characters that the terminal's encoding lacks, and discard output if standard output is closed."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - open until the process ends
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _report_not_utf8(error: UnicodeEncodeError) -> int:
    """Report an argument that is not text. File names may hold any bytes, other arguments may not."""
    typer.echo(f"error: the argument {error.object[:80]!r} is not UTF-8 text", err=True)
    return USAGE


def _usage(error: Any) -> int:
    context = getattr(error, "ctx", None)
    message = error.format_message().rstrip(".")
    if not message or type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(message, err=True)
    else:
        path = context.command_path if context else "mosaic"
        typer.echo(f"error: {message}; see: {path} --help", err=True)
    return USAGE


def _failed(error: Exception) -> int:
    from federation.errors import FederationError, GatewayUnavailableError

    if isinstance(error, FederationError):
        from mosaic_cli.output.errors import explain

        typer.echo(f"error: {explain(error)}", err=True)
        return NOT_REACHABLE if isinstance(error, GatewayUnavailableError) else FAILED
    if os.environ.get("MOSAIC_DEBUG"):
        raise error
    typer.echo(f"error: {type(error).__name__}: {error}; set MOSAIC_DEBUG=1 for the traceback", err=True)
    return FAILED
