"""An option that takes one of a few words."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

__all__ = [
    "GRANT_STATUSES",
    "PEER_STATES",
    "UNSET_GATEWAY",
    "Gateway",
    "GroupGateway",
    "Json",
    "named_gateway",
    "one_of",
    "read_argument",
    "suggesting",
]


GRANT_STATUSES: Final = ("pending", "active", "revoked", "expired")
PEER_STATES: Final = ("active", "offline", "degraded", "revoked", "expired")


def one_of(value: str, words: tuple[str, ...], option: str) -> str:
    """Return the word in lower case; raise a usage error with a near match for any other."""
    word = value.lower()
    if not word or word in words:
        return word
    from federation.suggest import hint

    meant = hint(word, words, f"it is one of {', '.join(words)}")
    raise typer.BadParameter(f"{value!r} is none; {meant}", param_hint=option)


def suggesting(words: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Return what completes one of the words."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


UNSET_GATEWAY: Final = Path("$MOSAIC_GATEWAY")
"""Stands for an option that was not given."""


def named_gateway(context: typer.Context) -> Path | None:
    """Return the gateway that the nearest option or else the environment names, `None` where neither does."""
    asked: Any = context
    while asked is not None:
        given = asked.params.get("gateway") or UNSET_GATEWAY
        if Path(given) != UNSET_GATEWAY:
            return Path(given)
        asked = asked.parent
    named = os.environ.get("MOSAIC_GATEWAY")
    return Path(named) if named else None


def _resolve(context: typer.Context, value: Path) -> Path:
    """Take the option of the command, or of a group before it, or the environment."""
    if context.resilient_parsing or value != UNSET_GATEWAY:
        return value
    if (named := named_gateway(context)) is not None:
        return named
    raise typer.BadParameter("name the gateway's directory, or set MOSAIC_GATEWAY")


_HELP: Final = "The gateway's directory."
Gateway = Annotated[Path, typer.Option("--gateway", "-g", metavar="DIR", callback=_resolve, help=_HELP)]
GroupGateway = Annotated[Path, typer.Option("--gateway", "-g", metavar="DIR", help=_HELP)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]


def read_argument(value: str, what: str) -> str:
    """Return a value given in the argument itself, in a file that it names, or on standard input (`-`)."""
    if value.lstrip().startswith("{"):
        return value
    from federation.errors import InputError

    if not value:
        raise InputError(what, "is empty; give a file, - for standard input, or the JSON")
    try:
        return sys.stdin.read() if value == "-" else Path(value).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(what, f"there is no file {value}; give a file, - for standard input, or the JSON") from None
    except OSError as e:
        raise InputError(what, f"cannot read {value}: {e.strerror}") from e
    except UnicodeDecodeError:
        raise InputError(what, f"{'standard input' if value == '-' else value} is not UTF-8 text") from None
