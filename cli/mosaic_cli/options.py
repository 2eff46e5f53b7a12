"""Options and arguments that several commands share."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

GRANT_STATUSES: Final = ("pending", "active", "revoked", "expired")
PEER_STATES: Final = ("active", "offline", "degraded", "revoked", "expired")


def parse_choice(value: str, choices: tuple[str, ...], option: str) -> str:
    """Return the value in lower case.

    Raises a usage error with the nearest choice, or all choices, if the value is not one of them.
    """
    choice = value.lower()
    if not choice or choice in choices:
        return choice
    from federation.suggest import hint

    meant = hint(choice, choices, f"use one of {', '.join(choices)}")
    raise typer.BadParameter(f"{value!r} is not a known value; {meant}", param_hint=option)


def complete_from(choices: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Return the shell completion function of an option with these choices."""

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


UNSET_GATEWAY: Final = Path("$MOSAIC_GATEWAY")
"""The default of `--gateway`: the option was not given."""


def named_gateway(context: typer.Context) -> Path | None:
    """Return the gateway of the innermost `--gateway`, else of `$MOSAIC_GATEWAY`, else `None`."""
    level: Any = context
    while level is not None:
        value = level.params.get("gateway") or UNSET_GATEWAY
        if Path(value) != UNSET_GATEWAY:
            return Path(value)
        level = level.parent
    directory = os.environ.get("MOSAIC_GATEWAY")
    return Path(directory) if directory else None


def _resolve(context: typer.Context, value: Path) -> Path:
    """Return the command's `--gateway`, or that of an enclosing group, or `$MOSAIC_GATEWAY`. Raises a usage error."""
    if context.resilient_parsing or value != UNSET_GATEWAY:
        return value
    if (named := named_gateway(context)) is not None:
        return named
    raise typer.BadParameter("name the gateway's directory, or set MOSAIC_GATEWAY")


_HELP: Final = "The gateway's directory."
Gateway = Annotated[Path, typer.Option("--gateway", "-g", metavar="DIR", callback=_resolve, help=_HELP)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]


def command_group(text: str) -> typer.Typer:
    """Return a group of commands with a help text and the option `--gateway`."""
    group = typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None)

    @group.callback()
    def _group(
        gateway: Annotated[Path, typer.Option("--gateway", "-g", metavar="DIR", help=_HELP)] = UNSET_GATEWAY,
    ) -> None:
        """Accept `--gateway`, which `named_gateway` reads."""

    return group


def read_argument(value: str, name: str) -> str:
    """Return the text of an argument that is JSON, or names a file, or is `-` for standard input.

    Raises `InputError` with the argument's `name` if the text cannot be read.
    """
    if value.lstrip().startswith("{"):
        return value
    from federation.errors import InputError

    if not value:
        raise InputError(name, "is empty; give a file, - for standard input, or the JSON")
    try:
        return sys.stdin.read() if value == "-" else Path(value).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(name, f"there is no file {value}; give a file, - for standard input, or the JSON") from None
    except OSError as e:
        raise InputError(name, f"cannot read {value}: {e.strerror}") from e
    except UnicodeDecodeError:
        raise InputError(name, f"{'standard input' if value == '-' else value} is not UTF-8 text") from None
